import json
import logging

import pytest
import yaml
from mlflow.tracking import MlflowClient
from train_functions import parabola

from accelerator.cli.app import main
from accelerator.cli.function_config import load_config
from accelerator.errors import ConfigError, RunDirectoryError
from accelerator.experiment import (
    Experiment,
    ExperimentConfig,
    MLflowConfig,
    TrainFunctionError,
    TrainingResult,
    TuningConfig,
)
from accelerator.experiment.best_config import as_file
from accelerator.experiment.runner import in_own_words, in_words
from accelerator.tuning.base import State, StudyError


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def cubic(ctx):
    return TrainingResult(ctx.hyperparameters["x"] ** 3)


def experiment(function=parabola, tracked=False, steps=4, seed=0, **tuning):
    options = {"n_trials": 6, "space": {"x": {"uniform": [0, 4]}}, "sampler": "random", "pruner": "none"} | tuning
    return Experiment(
        function,
        ExperimentConfig(
            name="heights",
            seed=seed,
            hyperparameters={"x": 9.0, "steps": steps},
            tuning=TuningConfig(**options),
            mlflow=MLflowConfig(enabled=tracked),
        ),
    )


def test_the_best_of_a_grid_is_found_and_its_config_reproduces_it(folder):
    study = experiment(sampler="grid", n_trials=5, space={"x": {"choice": [0, 1, 2, 3, 4]}}).tune()
    assert [outcome.scores for outcome in study.outcomes] == [[4.125], [1.125], [0.125], [1.125], [4.125]]
    assert (study.best.number, study.hyperparameters) == (2, {"x": 2, "steps": 4})
    best = yaml.safe_load((folder / "studies" / "heights" / "best.yaml").read_text())
    assert best == {
        "experiment": {"name": "heights", "seed": 0, "device": "auto"},
        "hyperparameters": {"x": 2, "steps": 4},
        "tuning": {"n_trials": 5, "space": {"x": {"choice": [0, 1, 2, 3, 4]}}, "sampler": "grid"},
        "mlflow": {"enabled": False},
    }
    told = json.loads((folder / "studies" / "heights" / "study.json").read_text())
    assert [trial["scores"] for trial in told["trials"]] == [outcome.scores for outcome in study.outcomes]
    assert (told["objectives"], told["best"], told["storage"]) == ({"height": "min"}, [2], "journal")
    assert told["alike"]["train function"].endswith("train_functions.py:parabola")
    result = json.loads((folder / "studies" / "heights" / "2" / "result.json").read_text())
    assert result["primary_metric"] == 0.125
    assert (folder / "studies" / "heights" / "2" / "checkpoints" / "x.txt").read_text() == "2"


def test_a_study_goes_on_and_is_refused_when_it_is_another():
    first = experiment(n_trials=3).tune()
    more = experiment(n_trials=5).tune()
    assert [outcome.values for outcome in more.outcomes[:3]] == [outcome.values for outcome in first.outcomes]
    assert len(more.outcomes) == 5
    assert [outcome.values for outcome in experiment(n_trials=5).tune().outcomes] == [o.values for o in more.outcomes]
    with pytest.raises(ConfigError, match=r"x was .*, is now .*"):
        experiment(space={"x": {"uniform": [0, 5]}}).tune()
    with pytest.raises(ConfigError, match=r"hyperparameters.steps was 4, is now 3(.|\n)*tuning.name=<name>"):
        experiment(steps=3).tune()
    with pytest.raises(ConfigError, match=r"\n  experiment.seed was 0, is now 7\n"):
        experiment(seed=7).tune()
    with pytest.raises(ConfigError, match=r"\n  train function was .*:parabola, is now .*:cubic\n"):
        experiment(cubic).tune()
    assert len(experiment(n_trials=5).tune().outcomes) == 5


def test_a_trial_that_raises_fails_alone_and_one_that_says_so_is_pruned(folder):
    def fragile(ctx):
        x = ctx.hyperparameters["x"]
        if x == 1:
            raise RuntimeError("boom")
        for step in range(6):
            ctx.report(x, step)
            if ctx.should_stop:
                break
        return TrainingResult(float("nan") if x == 3 else x, epochs_completed=step + 1)

    pruner = {"name": "threshold", "upper": 3.5}
    study = experiment(fragile, sampler="grid", n_trials=5, pruner=pruner, space={"x": {"choice": [0, 1, 2, 3, 4]}})
    outcomes = study.tune().outcomes
    assert [str(outcome.state) for outcome in outcomes] == ["complete", "failed", "complete", "failed", "pruned"]
    assert outcomes[1].error == "RuntimeError: boom"
    assert "primary_metric=nan" in outcomes[3].error
    assert json.loads((folder / "studies" / "heights" / "4" / "result.json").read_text())["epochs_completed"] == 1


def test_a_study_without_a_result_says_why():
    def failing(ctx):
        raise RuntimeError("boom")

    with pytest.raises(StudyError, match="study heights: no trial has run to its end; trial 0: RuntimeError: boom"):
        experiment(failing, n_trials=2).tune()
    with pytest.raises(ConfigError, match="tuning.direction=maximize, and the function returned minimize=True"):
        experiment(direction="maximize", name="other", n_trials=1).tune()


@pytest.mark.parametrize(
    ("tuning", "told"),
    [
        ({"space": {}}, "tuning.space is empty"),
        ({"space": {"x": {"log_uniform": [0, 1]}}}, "tuning.space.x"),
        ({"sampler": "tpee"}, "tuning.sampler.name=tpee: there is none of that name — did you mean 'tpe'?"),
        ({"name": "a/b"}, "tuning.name=a/b"),
        ({"n_trials": 0}, "tuning.n_trials=0: expected at least 1"),
        ({"n_trials": "many"}, "tuning.n_trials='many': input should be a valid integer"),
        ({"space": {"step": {"int": [1, 3]}}}, "there is no hyperparameter 'step' — did you mean 'steps'? If it is"),
        ({"storage": "foo://bar"}, "tuning.storage=foo://bar: no such database is known; expected journal"),
        (
            {"sampler": "tpex", "pruner": "mediann", "n_trials": 0, "space": {"x": {"uniform": [1, 0]}}},
            "tuning.n_trials=0: expected at least 1\n"
            "tuning.space.x: the range 1 … 0 is empty; write the smaller number first\n"
            "tuning.sampler.name=tpex: there is none of that name — did you mean 'tpe'?\n"
            "tuning.pruner.name=mediann: there is none of that name — did you mean 'median'?",
        ),
    ],
)
def test_mistakes_in_the_section_are_told_before_anything_runs(folder, tuning, told):
    with pytest.raises(ConfigError) as error:
        experiment(**tuning).tune()
    assert told in str(error.value)
    assert list(folder.iterdir()) == []


def test_a_key_of_the_space_that_is_like_no_hyperparameter_is_a_new_one():
    study = experiment(cubic, n_trials=1, space={"x": {"int": [1, 2]}, "width": {"int": [1, 2]}}).tune()
    assert study.hyperparameters.keys() == {"x", "steps", "width"}


def test_mended_code_and_the_same_call_try_the_failed_trials_again(folder, caplog):
    def broken(ctx):
        raise RuntimeError("boom")

    where = {"space": {"x": {"choice": [1, 2, 3]}}, "sampler": "grid", "n_trials": 3}
    with pytest.raises(StudyError, match="no trial has run to its end; trial 0: RuntimeError: boom"):
        experiment(broken, **where).tune()
    with pytest.raises(StudyError, match="no trial has run to its end; trial 3: RuntimeError: boom"):
        experiment(broken, **where).tune()
    broken.__code__ = cubic.__code__
    caplog.set_level("INFO", "accelerator")
    caplog.clear()
    study = experiment(broken, **where).tune()
    assert [outcome.scores for outcome in study.outcomes[6:]] == [[1.0], [8.0], [27.0]]
    assert caplog.messages == ["study heights: 0 trials are done; going on to 3; 3 failed before and are tried again"]


def test_the_best_config_is_whole_and_without_secrets(folder):
    config = ExperimentConfig(
        name="whole",
        seed=1,
        device="cpu",
        framework="torch",
        memory_limit_gb=2.0,
        hyperparameters={"x": 1, "optimizer": {"betas": (0.9, 0.99)}, "api_key": "abc"},
        mlflow=MLflowConfig(uri="http://me:word@host", group="first", tags={"a": "b"}),
    )
    text = as_file(Experiment(cubic, config), {**config.hyperparameters, "x": 2}, "Trial 0")
    assert text.splitlines()[:3] == ["# Trial 0", "# say also: hyperparameters.api_key=…", "# say also: mlflow.uri=…"]
    (folder / "best.yaml").write_text(text)
    assert yaml.safe_load(text) == {
        "experiment": {"name": "whole", "seed": 1, "device": "cpu", "framework": "torch", "memory_limit_gb": 2.0},
        "hyperparameters": {"x": 2, "optimizer": {"betas": [0.9, 0.99]}},
        "mlflow": {"group": "first", "tags": {"a": "b"}},
    }
    assert load_config(folder / "best.yaml", []).mlflow.group == "first"


def test_nan_is_not_reported():
    def reports(ctx):
        ctx.report(float("nan"), 3)

    with pytest.raises(ConfigError, match=r"trial 0: ctx.report\(nan, 3\): a study compares what is reported"):
        experiment(reports, n_trials=1).tune()
    with pytest.raises(TrainFunctionError, match=r"ctx.report\(nan, 3\)"):
        experiment(reports).run()


def test_a_folder_with_another_kind_of_study_is_told_and_left_alone(folder):
    place = folder / "studies" / "heights"
    place.mkdir(parents=True)
    (place / "config.yaml").write_text("model: {name: mlp}\n")
    with pytest.raises(RunDirectoryError, match=r"config.yaml is not as a study of a train function leaves it"):
        experiment().tune()
    assert [path.name for path in place.iterdir()] == ["config.yaml"]


def test_by_the_command_each_trial_is_nested_in_the_study(folder, capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(__import__("pathlib").Path(__file__).parent))
    (folder / "config.yaml").write_text(
        "experiment: {name: heights}\nhyperparameters: {x: 1, steps: 2}\n"
        "tuning: {sampler: grid, space: {x: {choice: [1, 2]}}}\n"
    )
    command = ["tune", "config.yaml", "--train-fn", "train_functions:parabola", "--n-trials", "2"]
    assert main([*command, "--workers", "2"]) == 0
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("heights").experiment_id])
    (parent,) = [run for run in runs if run.data.tags["kind"] == "tune"]
    trials = [run for run in runs if run is not parent]
    assert {run.data.params["hyperparameters.x"]: run.data.metrics["height"] for run in trials} == {"1": 1.5, "2": 0.5}
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {parent.info.run_id}
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert parent.data.metrics["best/height"] == 0.5
    assert parent.info.run_name == "study heights"
    assert {run.info.run_name for run in trials} == {"0: x=1", "1: x=2"}
    printed = capsys.readouterr().out
    assert "accelerator run studies/heights/best.yaml --train-fn train_functions:parabola" in printed
    assert State.COMPLETE in printed
    assert main(["runs", "list"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split()[-1] == "height"
    assert {row.split()[2]: row.split()[-1] for row in rows[1:]} == {"0:": "1.5", "1:": "0.5"}


def test_where_nothing_can_be_written_the_remedy_is_one_of_this_command(folder, caplog):
    (folder / "studies").touch()
    with pytest.raises(RunDirectoryError, match="call it from a folder you may write to"):
        experiment(n_trials=1).tune()
    told = in_words(
        ["tracking.artifacts=s3://a", "tune.trials=0", "accelerator.tracking.fleet", "set tracking.experiment"]
    )
    assert told == ["mlflow.artifacts=s3://a", "tuning.n_trials=0", "accelerator.tracking.fleet", "set experiment.name"]
    with in_own_words():
        logging.getLogger("accelerator.tracking.record").warning("record: set %s", "tracking.uri")
    assert caplog.messages == ["record: set mlflow.uri"]


@pytest.mark.parametrize(("storage", "file"), [("journal", "study.journal"), ("sqlite:///kept.db", "kept.db")])
def test_a_study_whose_storage_is_lost_is_told_and_left_alone(folder, storage, file):
    place = folder / "studies" / "heights" if storage == "journal" else folder
    experiment(n_trials=2, storage=storage).tune()
    (place / file).rename(folder / "elsewhere")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(ConfigError) as error:
        experiment(n_trials=2, storage=storage).tune()
    assert str(error.value) == (
        f"studies/heights holds trials 0 and 1, and its storage ({file}) knows no such study: put {file} back, "
        "or give another tuning.name=…"
    )
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    (folder / "elsewhere").rename(place / file)
    assert len(experiment(n_trials=3, storage=storage).tune().outcomes) == 3


def test_a_damaged_line_of_the_storage_is_told_by_the_keys_of_this_command(folder):
    experiment(n_trials=1).tune()
    journal = folder / "studies" / "heights" / "study.journal"
    first, *lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([first, b"garbage\n", *lines]))
    with pytest.raises(ConfigError) as error:
        experiment(n_trials=1).tune()
    assert str(error.value) == (
        "studies/heights/study.journal, line 2: no entry of a study: take the line out, or give another tuning.name"
    )


def test_ctrl_c_prints_the_table_and_how_to_go_on(folder, capfd):
    (folder / "interrupted.py").write_text(
        "import os, signal, time\n"
        "from accelerator.experiment import TrainingResult\n"
        "def train(ctx):\n"
        "    if ctx.trial_number == 1:\n"
        "        os.kill(os.getppid(), signal.SIGINT)\n"
        "        while not ctx.should_stop:\n"
        "            time.sleep(0.01)\n"
        "    return TrainingResult(1.0, 'loss')\n"
    )
    typed = ["tune", "--train-fn", "interrupted:train", "--n-trials", "3", "tuning.name=cut", "mlflow.enabled=false"]
    assert main([*typed, "tuning.space.x={int: [1, 9]}"]) == 130
    told = capfd.readouterr()
    assert "trial 1: stopped by SIGINT · x=" in told.out
    assert "2 trials: 1 complete, 1 stopped" in told.out
    assert told.err == "stopped by SIGINT; 1 of 3 trials are done; the same command goes on with the study\n"
    study = json.loads((folder / "studies/cut/study.json").read_text())
    assert [trial["state"] for trial in study["trials"]] == ["complete", "stopped"]
    assert main(["tune", "resume=cut"]) == 3
    assert "resume=cut: it is the study of a train function" in capfd.readouterr().err
