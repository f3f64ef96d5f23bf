"""``accelerator tune``: trainings with other values, as runs below a run, and the best of them as a config."""

import json
import os
import re
import shlex
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from accelerator.cli.app import main
from accelerator.cli.compose.compose import plain
from accelerator.cli.tune.command import tune
from accelerator.cli.tune.report import line_of, ranked
from accelerator.cli.tune.study import threads_each
from accelerator.cli.tune.trial_config import TrialConfigs, as_typed, hydra_ready
from accelerator.errors import ConfigError
from accelerator.tuning import pictures
from accelerator.tuning.base import State, TrialOutcome
from accelerator.tuning.search_space import SearchSpace

SMALL = [
    *("imports=[toy_problem]", "data=custom", "data._target_=toy_problem.plane", "model=mlp", "model.hidden=[4]"),
    *("multilevel=single", "optimizer=sgd", "scheduler=constant", "transform=none", "metrics=none"),
    *("engine.threads=1", "loader.batch_size=8", "trainer.max_epochs=2"),
]
RATES = "tune.space.optimizer.lr={choice:[0.1,0.01,1e30]}"
GRID = ["tune.sampler.name=grid", "tune.name=rates", RATES]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


@pytest.fixture
def no_pictures(monkeypatch):
    """They take most of the time of a study this small."""
    monkeypatch.setattr(pictures, "draw", lambda *_: [])


def study_in(folder, name="rates"):
    return json.loads((folder / "studies" / name / "study.json").read_text())


def contents(folder):
    return {
        path: path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".") and path.suffix != ".lock"
    }


def test_a_study_is_a_run_with_one_nested_run_a_trial(folder, capfd):
    assert main(["tune", *SMALL, *GRID, "tune.workers=2", "tracking.experiment=studies"]) == 0
    printed = capfd.readouterr().out
    runs = MlflowClient(f"sqlite:///{folder}/mlflow.db").search_runs(["1"])
    (parent,) = [run for run in runs if run.data.tags["kind"] == "tune"]
    trials = {run.data.params["optimizer.lr"]: run for run in runs if run is not parent}
    assert parent.info.status == "FINISHED"
    assert {lr: run.info.status for lr, run in trials.items()} == {
        "0.1": "FINISHED",
        "0.01": "FINISHED",
        "1e+30": "FAILED",
    }
    for run in trials.values():
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.data.tags["study"] == "rates"
        assert not [key for key in run.data.params if key.startswith("tune")]
    assert parent.data.params["tune.workers"] == "2"
    assert trials["0.1"].info.run_name == "0: optimizer.lr=0.1"
    assert trials["0.1"].data.tags["trial.state"] == "complete"
    assert trials["1e+30"].data.tags["trial.state"] == "failed"

    told = study_in(folder)
    assert [trial["state"] for trial in told["trials"]] == ["complete", "complete", "failed"]
    assert [trial["values"]["optimizer.lr"] for trial in told["trials"]] == [0.1, 0.01, 1e30]
    (best,) = told["best"]
    scores = {trial["number"]: trial["scores"] for trial in told["trials"]}
    assert scores[best] == min(score for score in scores.values() if score)
    assert parent.data.metrics["best/val/loss"] == scores[best][0]
    assert parent.data.metrics["best/trial"] == best
    assert {key: value for key, value in parent.data.metrics.items() if key.startswith("trials")} == {
        "trials": 3,
        "trials/complete": 2,
        "trials/failed": 1,
    }
    artifacts = {file.path for file in MlflowClient(f"sqlite:///{folder}/mlflow.db").list_artifacts(parent.info.run_id)}
    assert {"study.json", "plots", "configs", "config.yaml"} <= artifacts
    assert re.search(r"trial 2: failed: .*loss.* · optimizer.lr=1e\+30", printed)
    assert printed.count("← best") == 1
    assert "3 trials: 2 complete, 1 failed" in printed
    assert (folder / "studies/rates/0/output.txt").read_text() == ""


@pytest.mark.usefixtures("no_pictures")
def test_the_best_config_composes_and_trains_to_the_same_numbers(folder, capfd):
    space = [
        "tune.space.model={choice:{mlp:{model.hidden:{choice:[[4],[8,8]]}},multilevel_mlp:null}}",
        "tune.space.optimizer={choice:[sgd,adam]}",
        "tune.space.loader.batch_size={int:[4,8],step:4}",
    ]
    small = [override for override in SMALL if not override.startswith(("model", "optimizer", "loader"))]
    assert main(["tune", *small, *space, "tracking=none", "tune.trials=4", "tune.name=nets"]) == 0
    printed = capfd.readouterr().out
    command = re.search(r"train it again +accelerator (.*)", printed)[1]
    (best,) = study_in(folder, "nets")["best"]
    before = json.loads((folder / f"studies/nets/{best}/result.json").read_text())
    assert main([*shlex.split(command), "tracking=none", "hydra.run.dir=again"]) == 0
    after = json.loads((folder / "again/result.json").read_text())
    assert after["metrics"] == before["metrics"]
    file = (folder / "studies/nets/configs/experiment/best_nets.yaml").read_text()
    assert file.startswith(f"# @package _global_\n# Trial {best} of study nets: val/loss ")
    assert f"# accelerator {command}" in file
    assert "say also" not in printed


@pytest.mark.usefixtures("no_pictures")
def test_the_same_command_again_measures_nothing_and_more_trials_only_what_is_left(folder, capfd):
    command = ["tune", *SMALL, "tracking=none", "tune.space.optimizer.lr={log_uniform:[1e-3,1e-1]}"]
    assert main([*command, "tune.trials=2"]) == 0
    (name,) = (path.name for path in (folder / "studies").iterdir())
    assert re.fullmatch(r"plane-[0-9a-f]{6}", name)
    before = study_in(folder, name)["trials"]
    capfd.readouterr()
    assert main([*command, "tune.trials=2"]) == 0
    assert f"study {name}: 2 trials are done, and 2 asked for" in capfd.readouterr().out
    assert study_in(folder, name)["trials"] == before
    (folder / "studies" / name / "study.json").write_text('{"na')
    assert main(["tune", "resume=last", "tune.trials=2"]) == 0
    assert study_in(folder, name)["trials"] == before
    (folder / "studies" / name / "study.json").unlink()
    assert main(["tune", "resume=last", "tune.trials=3"]) == 0
    assert study_in(folder, name)["trials"][:2] == before
    assert len(study_in(folder, name)["trials"]) == 3
    _damaged_and_lost(folder, [*command, "tune.trials=4"], f"studies/{name}", capfd)


def _damaged_and_lost(folder, command, place, capfd):
    """A study whose storage is damaged, or lost, is told before anything is written."""
    journal = folder / place / "study.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines, b"garbage\n"]))
    before = contents(folder)
    capfd.readouterr()
    assert main(command) == 3
    assert capfd.readouterr().err == (
        f"error: {place}/study.journal, line {len(lines) + 1}: no entry of a study: take the line out, "
        "or give another tune.name\n"
    )
    assert contents(folder) == before
    journal.unlink()
    before = contents(folder)
    assert main(command) == 3
    assert capfd.readouterr().err == (
        f"error: {place} holds 3 trials, and its storage (study.journal) knows no such study: put study.journal back, "
        "or give another tune.name=…\n"
    )
    assert contents(folder) == before


@pytest.mark.usefixtures("no_pictures")
def test_a_pruned_trial_is_no_failed_one(folder, capfd):
    pruner = ["tune.pruner.name=threshold", "tune.pruner.upper=-1.0"]
    assert main(["tune", *SMALL, *GRID, "tracking=none", *pruner, "tune.trials=1"]) == 1
    (trial,) = study_in(folder)["trials"]
    assert (trial["state"], list(trial["reports"])) == ("pruned", ["1"])
    printed = capfd.readouterr()
    assert f"trial 0: pruned in pass 1 at val/loss {trial['scores'][0]:.5g} · optimizer.lr=0.1" in printed.out
    assert "study rates: no trial has run to its end" in printed.err
    result = json.loads((folder / "studies/rates/0/result.json").read_text())
    assert result["steps"] == 3  # one pass of two
    assert "test/loss" not in result["metrics"]


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.slow
def test_a_trial_that_is_through_is_not_pruned(folder):
    pruner = ["tune.pruner.name=threshold", "tune.pruner.upper=-1.0", "tune.pruner.n_warmup_steps=2"]
    assert main(["tune", *SMALL, *GRID, "tracking=none", *pruner, "tune.trials=1"]) == 0
    (trial,) = study_in(folder)["trials"]
    assert (trial["state"], list(trial["reports"])) == ("complete", ["1", "2"])
    assert trial["scores"] == [min(trial["reports"].values())]
    assert "test/loss" in json.loads((folder / "studies/rates/0/result.json").read_text())["metrics"]


@pytest.mark.slow
def test_several_objectives_give_a_front(folder, capfd):
    objectives = "tune.objectives={val/loss:min,parameters:min}"
    space = "tune.space.model.hidden={choice:[[2],[16]]}"
    small = [override for override in SMALL if not override.startswith("model.hidden")]
    assert main(["tune", *small, "tracking=none", "tune.sampler.name=grid", space, objectives, "tune.name=sizes"]) == 0
    told = study_in(folder, "sizes")
    assert [trial["scores"][1] for trial in told["trials"]] == [3 * 2 + 2 + 2 + 1, 3 * 16 + 16 + 16 + 1]
    assert set(told["best"]) >= {0}
    printed = capfd.readouterr().out
    assert printed.count("← Pareto front") == len(told["best"])
    numbers = [number for number in range(2) if number in told["best"]]
    configs = sorted(path.stem for path in (folder / "studies/sizes/configs/experiment").iterdir())
    assert configs == [f"best_sizes_{number}" for number in numbers]
    assert "train one again" in printed
    assert "best trial" not in printed
    result = json.loads((folder / "studies/sizes/result.json").read_text())
    assert [key for key in result["metrics"] if key.startswith("best/")] == []
    assert result["best"] is None
    assert (folder / "studies/sizes/plots/pareto_front.png").stat().st_size > 1000


@pytest.mark.usefixtures("no_pictures")
def test_a_study_whose_trials_all_fail_says_why(folder, capfd):
    assert main(["tune", *SMALL, *GRID[:2], "tracking=none", "tune.space.optimizer.lr={choice:[1e30,1e31]}"]) == 1
    told = capfd.readouterr().err
    assert "study rates: no trial has run to its end, 2 failed; trial 0: " in told
    assert "loss" in told
    assert "Traceback" not in told


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("changed", [["tune.space.optimizer.lr={choice:[0.1,0.5]}"], ["loader.batch_size=4"]])
def test_a_study_that_would_be_another_is_told_and_left_alone(folder, capfd, changed):
    command = ["tune", *SMALL, "tracking=none", "tune.sampler.name=grid", "tune.name=rates", "tune.trials=1"]
    assert main([*command, RATES]) == 0
    before = contents(folder)
    capfd.readouterr()
    assert main([*command, RATES, *changed]) == 3
    told = capfd.readouterr().err
    assert told.startswith("error: the study 'rates' is another one, and its trials do not compare with new ones:\n  ")
    what = {
        "tune": "optimizer.lr was one of 0.1, 0.01, 1e+30, is now one of 0.1, 0.5",
        "loader": "loader.batch_size was 8, is now 4",
    }[changed[0].split(".")[0]]
    assert what in told
    assert "tune.name=<name>; nothing was changed" in told
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ([], ["tune.space is empty: say what to try"]),
        (
            [
                *("tune.space.optimizer.lr={log_uniform:[0,1]}", "tune.space.optimizer.momentum={loguniform:[1,2]}"),
                *("tune.trials=0", "tune.name=a/b", "engine.devices=2"),
                "tune.objectives={val/los:min,val/loss:mni}",
            ],
            [
                "tune.name=a/b: expected letters, digits and . _ + -",
                "tune.trials=0: expected at least 1",
                "tune.objectives.val/los: no trial measures that — did you mean 'val/loss'",
                "tune.objectives.val/loss=mni: expected min or max — did you mean 'min'",
                "engine.devices=2: a trial of a study runs in one process",
                "a logarithmic range begins above 0, and this one at 0",
                "no distribution 'loguniform' — did you mean 'log_uniform'",
            ],
        ),
        (
            [
                *("tune.space.optimizr.lr={uniform:[0,1]}", "tune.space.optimizer.rate={uniform:[0,1]}"),
                *("tune.space.tracking.uri={choice:[a,b]}", "tune.space.loader.batch_size={int:[1,2]}"),
                "tune.space.engine={choice:[single_gpu,singel]}",
                "tune.space.loader.eval_batch_size={uniform:[0.5,1]}",
            ],
            [
                "tracking.uri decides nothing that a trial measures, and cannot be tried",
                "loader.batch_size is tried and is set on the command line; leave one of the two out",
                "no 'singel' in configs/engine/ — did you mean 'single_gpu'?",
                "there is no key 'optimizr.lr' in the config — did you mean 'optimizer.lr'?",
                "could not be converted to Integer",
                "optimizer.rate: 'SGD' has no such argument",
            ],
        ),
        (
            [
                *("tune.space.optimizer.lr={log_uniform:[0,1]}", "tune.space.optimizer.lrr={uniform:[0,1]}"),
                *("tune.sampler.name=tpee", "tune.pruner.name=medan"),
            ],
            [
                "a logarithmic range begins above 0, and this one at 0",
                "tune.sampler.name=tpee: there is none of that name — did you mean 'tpe'",
                "tune.pruner.name=medan: there is none of that name — did you mean 'median'",
                "optimizer.lrr: 'SGD' has no such argument — did you mean 'lr'",
            ],
        ),
        ([RATES, "tune.storage=sqlite:////nowhere/x.db"], ["tune.storage=sqlite:////nowhere/x.db: "]),
        ([RATES, "tune=nothing"], ["tune=nothing: no 'nothing' in configs/tune/ — choose from: default, "]),
        ([RATES, "tune.storage=foo://bar"], ["tune.storage=foo://bar: no such database is known; expected journal"]),
        (["--n-trials", "3"], ["--n-trials goes with --train-fn; without it: tune.trials=3"]),
        (["--workers=2"], ["--workers goes with --train-fn; without it: tune.workers=2"]),
        ([RATES, "resume=nothing"], ["resume=nothing: no study of accelerator tune"]),
    ],
)
def test_every_mistake_is_told_in_a_sentence_and_leaves_nothing(folder, capfd, typed, told):
    assert main(["tune", *SMALL, *typed]) == 3
    said = capfd.readouterr().err
    assert [sentence for sentence in told if sentence not in said] == []
    assert said.startswith("error: " if len(told) == 1 else f"{len(told)} errors: ")
    assert "Traceback" not in said
    assert list(folder.iterdir()) == []


def test_a_study_without_optuna_says_how_to_get_it(folder, capfd, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    assert main(["tune", *SMALL, RATES]) == 3
    assert capfd.readouterr().err.startswith("error: tuning needs Optuna: pip install 'accelerator-platform[tune]'")


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.slow
def test_from_python(folder):
    with pytest.raises(ConfigError, match=r"tune.trials=0: expected at least 1"):
        tune([*SMALL, RATES, "tune.trials=0"])
    result = tune([*SMALL, *GRID, "tune.trials=1", "tracking=none"])
    assert result.run_dir == folder / "studies/rates"
    assert result.best == folder / "studies/rates/0/checkpoints" / result.best.name
    assert result.metrics["best/trial"] == 0


def test_what_was_tried_can_be_typed():
    values = [
        *(1, -2, 0.1, 1e-5, 1e30, True, None, "adam", "null", "yes", "1", "a b", "a,b", "it's", "50%", "é", ""),
        *([1, [2, "x"]], {"name": "a", "size": [1.5]}),
    ]
    with hydra_ready():
        typed = [f"vars.x{index}={as_typed(value)}" for index, value in enumerate(values)]
        space = SearchSpace.parse({"seed": {"int": [0, 1]}})
        config = plain(TrialConfigs(typed, space).composed({"seed": 1}, Path()).config)
    again = [config["vars"][f"x{index}"] for index in range(len(values))]
    assert again == values
    assert list(map(type, again)) == list(map(type, values))


def outcome(number, state=State.COMPLETE, score=None, **more):
    return TrialOutcome(number, {"lr": 0.123456}, state, None if score is None else [score], **more)


def test_trials_are_ranked_best_first_and_failures_last():
    trials = [
        outcome(0, State.FAILED, error="no"),
        outcome(1, score=0.5),
        outcome(2, State.PRUNED, 0.1),
        outcome(3, score=0.4),
    ]
    assert [one.number for one in ranked(trials, {"loss": "min"})] == [3, 1, 2, 0]
    assert [one.number for one in ranked(trials, {"loss": "max"})] == [1, 3, 2, 0]


def test_a_trial_in_one_line():
    loss = {"loss": "min"}
    assert line_of(outcome(0, score=0.25), loss) == "trial 0: loss 0.25 · lr=0.1235"
    assert line_of(outcome(4, score=0.25, retry_of=3), loss) == "trial 4: loss 0.25 · lr=0.1235, trial 3 again"
    assert line_of(outcome(1, State.FAILED, error="no memory"), loss) == "trial 1: failed: no memory · lr=0.1235"
    assert line_of(outcome(3, State.STOPPED, error="stopped by SIGINT"), loss) == (
        "trial 3: stopped by SIGINT · lr=0.1235"
    )
    pruned = outcome(2, State.PRUNED, 0.5, reports={1: 0.75, 2: 0.5})
    assert line_of(pruned, loss) == "trial 2: pruned in pass 2 at loss 0.5 · lr=0.1235"


@pytest.mark.parametrize(
    ("workers", "said", "share"), [(2, None, 4), (3, None, 2), (16, None, 1), (2, "1", 1), (2, "64", 4)]
)
def test_a_worker_has_its_share_of_the_cores_and_no_more_than_is_said(monkeypatch, workers, said, share):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if said is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert threads_each(workers) == share
