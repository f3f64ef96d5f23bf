"""A sweep on record: a run of its own, with a nested run a job, and what became of them."""

import json
import re

import pytest
from mlflow.tracking import MlflowClient

from accelerator.cli import sweep, sweep_jobs
from accelerator.cli.app import main
from accelerator.errors import Terminated

SMALL = [
    *("imports=[toy_problem]", "data=custom", "data._target_=toy_problem.plane", "model=mlp", "model.hidden=[4]"),
    *("multilevel=single", "optimizer=sgd", "scheduler=constant", "transform=none", "metrics=none"),
    *("engine.threads=1", "loader.batch_size=8", "trainer.max_epochs=1", "callbacks.progress=null"),
    *("callbacks.pictures=null", "tracking.experiment=sweeps"),
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def recorded(folder):
    """The sweep's run, and its jobs' by learning rate."""
    runs = MlflowClient(f"sqlite:///{folder}/mlflow.db").search_runs(["1"])
    (parent,) = [run for run in runs if run.data.tags["kind"] == "sweep"]
    return parent, {run.data.params["optimizer.lr"]: run for run in runs if run is not parent}


def test_its_jobs_are_nested_below_it_and_compared_with_it(folder, capsys):
    # A rate of 1e30 fails at the second step, one below 0 while it is built; the others go on all the same.
    assert main(["train", "-m", *SMALL, "optimizer.lr=0.1,1e30,-1,0.01"]) == 1
    parent, jobs = recorded(folder)
    assert parent.info.run_name == "sweep of optimizer.lr"
    assert parent.info.status == "FAILED"
    assert {lr: run.info.status for lr, run in jobs.items()} == {
        "0.1": "FINISHED",
        "1e+30": "FAILED",
        "-1": "FAILED",
        "0.01": "FINISHED",
    }
    assert jobs["-1"].data.tags["error"] == "ConfigError: optimizer: SGD: Invalid learning rate: -1"
    for lr, run in jobs.items():
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.data.tags["config.compared_with"] == parent.info.run_id
        assert run.data.tags["config.difference"] == f"+ optimizer.lr: {lr}"
    assert "optimizer.lr" not in parent.data.params
    assert parent.data.params["optimizer.name"] == "SGD"
    assert parent.data.tags["command"].startswith("accelerator train -m 'imports=[toy_problem]' ")

    values = {lr: run.data.metrics.get("val/loss") for lr, run in jobs.items()}
    best = min((value, lr) for lr, value in values.items() if float(lr) in (0.1, 0.01))
    assert parent.data.metrics["best/val/loss"] == best[0]
    assert jobs[best[1]].data.metrics["best/val/loss"] == best[0]
    assert (parent.data.metrics["jobs"], parent.data.metrics["failed"]) == (4, 2)
    (summary,) = folder.glob("multirun/*/*/sweep.json")
    assert [job["status"] for job in json.loads(summary.read_text())] == ["FINISHED", "FAILED", "FAILED", "FINISHED"]
    assert not (summary.parent / "multirun.yaml").exists()
    # One process has uploaded them all; each result tells its run.
    assert (summary.parent / "uploads.log").exists()
    assert not list(summary.parent.glob("*/tracking.log"))
    results = [json.loads(file.read_text()) for file in summary.parent.glob("*/result.json")]
    assert {result["run_id"] for result in results} == {jobs[lr].info.run_id for lr in ("0.1", "0.01")}
    printed = capsys.readouterr().out
    assert printed.count("← best") == 1
    assert f"{best[0]:.5g} ← best" in printed
    assert parent.info.run_id in printed


@pytest.mark.slow
def test_under_mlflow_run_the_run_it_made_is_the_sweep(folder, monkeypatch):
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    made = client.create_run(client.create_experiment("project")).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", made)
    assert main(["train", "-m", *SMALL, "optimizer.lr=0.1"]) == 0
    runs = {run.info.run_id: run for run in client.search_runs(["1", "2"])}
    assert runs[made].data.tags["kind"] == "sweep"
    assert runs[made].info.status == "FINISHED"
    (job,) = [run for run in runs.values() if run.info.run_id != made]
    assert job.data.tags["mlflow.parentRunId"] == made


def test_a_mistake_leaves_no_record(folder, capsys):
    assert main(["train", "-m", *SMALL, "optimizer.lr=0.1,0.2", "optimizr.lr=1"]) == 3
    assert "did you mean 'optimizer.lr'?" in capsys.readouterr().err
    assert not (folder / "mlflow.db").exists()


STOPPING = """
from accelerator.runtime.callbacks.base import Callback

class Stopping(Callback):
    def step_end(self, context):
        context.ask_to_stop("SIGINT")
"""


def test_a_sweep_that_is_stopped_is_on_record_as_that_and_says_what_was_not_run(folder, capsys):
    (folder / "stopping.py").write_text(STOPPING)
    imports = ["imports=[toy_problem,stopping]", *SMALL[1:], "tracking.model=[]"]
    assert (
        main(["train", "-m", *imports, "callbacks.stop._target_=stopping.Stopping", "optimizer.lr=0.1,0.2", "seed=1,2"])
        == 130
    )
    (parent,) = [each for each in MlflowClient(f"sqlite:///{folder}/mlflow.db").search_runs(["1"]) if whole(each)]
    assert parent.info.status == "KILLED"
    assert parent.data.tags["error"] == "Terminated: stopped by SIGINT"
    counts = {name: parent.data.metrics[name] for name in ("jobs", "failed", "stopped", "not_run")}
    assert counts == {"jobs": 1, "failed": 0, "stopped": 1, "not_run": 3}
    assert [job["status"] for job in summary_in(folder)] == ["KILLED", "NOT RUN", "NOT RUN", "NOT RUN"]
    printed = capsys.readouterr().out
    assert "\njob 0: stopped by SIGINT; saved up to step 1; go on with: accelerator train resume=" in printed
    assert re.search(r"│ 3 +│ optimizer.lr=0.2 seed=2 +│ not run ", printed)
    rest = [line for line in printed.splitlines() if " accelerator train -m " in line]
    assert rest[0].startswith("run the rest     accelerator train -m 'imports=[toy_problem,stopping]' ")
    assert [line.split()[-2:] for line in rest] == [["optimizer.lr=0.1", "seed=2"], ["optimizer.lr=0.2", "seed=1,2"]]


def whole(run):
    return run.data.tags["kind"] == "sweep"


def test_what_is_left_of_a_grid_is_one_sweep_for_each_key_at_most():
    jobs = [[f"a={a}", "fixed=[1, 2]", f"++b.c={b}"] for a in range(3) for b in range(3)]
    assert sweep_jobs.commands_for(
        "train", jobs[4:], ["hydra.mode=MULTIRUN", "hydra.sweep.dir=x", "hydra.verbose=1"]
    ) == [
        "accelerator train -m hydra.verbose=1 a=1 'fixed=[1, 2]' b.c=1,2",
        "accelerator train -m hydra.verbose=1 a=2 'fixed=[1, 2]' b.c=0,1,2",
    ]
    assert sweep_jobs.commands_for("train", jobs[3:]) == ["accelerator train -m a=1,2 'fixed=[1, 2]' b.c=0,1,2"]
    assert sweep_jobs.commands_for("train", jobs[8:]) == ["accelerator train -m a=2 'fixed=[1, 2]' b.c=2"]
    assert sweep_jobs.commands_for("train", []) == []


def test_a_job_is_what_its_folder_or_its_note_says(tmp_path):
    for number in (0, 1, 2):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "journal.jsonl").touch()
    (tmp_path / "0/result.json").write_text(json.dumps({"metrics": {"loss": 2.0}, "best_metrics": {"loss": 1.0}}))
    sweep_jobs.note_failure(tmp_path, 1, ["a=1"], ValueError("key is hunter2"), {"hunter2"})
    sweep_jobs.note_failure(tmp_path, 2, ["a=2"], Terminated("SIGTERM"), set())
    sweep_jobs.note_failure(tmp_path, 3, ["a=3", "fixed=1"], KeyboardInterrupt(), set())
    planned = {tmp_path / str(number): [f"++a={number}", "fixed=1"] for number in range(5)}
    jobs = sweep_jobs.outcomes(tmp_path, {"a": "0,1,2,3,4"}, planned)
    assert [job.status for job in jobs] == ["FINISHED", "FAILED", "KILLED", "KILLED", "NOT RUN"]
    assert jobs[0].metrics == {"loss": 1.0}
    assert [job.error for job in jobs[1:4]] == ["ValueError: key is ***", "stopped by SIGTERM", "stopped at once"]
    assert [job.overrides for job in jobs[3:]] == [["a=3"], ["a=4"]]


def test_a_file_in_the_place_of_the_folder_of_sweeps_is_told(folder, capsys):
    (folder / "multirun").touch()
    assert main(["train", "-m", *UNTRACKED, "seed=0"]) == 3
    said = capsys.readouterr().err
    assert said.startswith("error: cannot make the run directory multirun/")
    assert "Not a directory; set hydra.sweep.dir to a folder you may write to" in said
    assert "Callback" not in said


def job(**metrics):
    return sweep_jobs.JobOutcome(None, [], "FINISHED", metrics, None, None)


def test_the_best_job_is_that_of_the_best_number():
    jobs = [job(), job(loss=float("nan")), job(loss=2.0), job(loss=1.0)]
    assert sweep_jobs.best_of(jobs, "loss", "min") is jobs[3]
    assert sweep_jobs.best_of(jobs, "loss", "max") is jobs[2]
    assert sweep_jobs.best_of(jobs[:2], "loss", "min") is None


def test_what_all_jobs_share_is_without_what_is_swept():
    values = {"optimizer": {"lr": 1, "name": "adam"}, "model": {"name": "mlp"}, "loss": {"name": "mse"}}
    swept, fixed = sweep._split(["optimizer.lr=1,2", "model=mlp,cnn", "seed=3", "training_components/loss=mse,mae"])
    assert list(swept) == ["optimizer.lr", "model", "training_components/loss"]
    assert fixed == ["seed=3"]
    assert sweep._without(values, swept) == {"optimizer": {"name": "adam"}}


def summary_in(folder):
    (file,) = folder.glob("multirun/*/*/sweep.json")
    return json.loads(file.read_text())


UNTRACKED = [*SMALL[:-1], "tracking=none"]
RATES = "optimizer.lr=0.1,1e30,0.01"


@pytest.mark.parametrize(("on_error", "ran"), [("continue", ["0.1", "1e+30", "0.01"]), ("stop", ["0.1", "1e+30"])])
def test_whether_a_failing_job_ends_the_sweep_is_asked_for(folder, capfd, on_error, ran):
    assert main(["train", "-m", *UNTRACKED, RATES, f"sweep.on_error={on_error}"]) == 1
    said = capfd.readouterr()
    assert re.findall(r"^job \d: .*optimizer\.lr=(\S+)", said.out, re.MULTILINE) == ran
    assert len(list(folder.glob("multirun/*/*/?/result.json"))) == len(ran) - 1
    assert "job 1 failed: the loss is nan at step 2" in said.out
    assert ("│ 2   │ optimizer.lr=0.01  │ not run " in said.out) == (on_error == "stop")
    assert said.err.startswith("error: the loss is nan at step 2")
    assert "Error executing job" not in said.err


def test_a_value_no_job_could_run_with_is_told_before_the_first(folder, capfd):
    assert main(["train", "-m", *UNTRACKED, "optimizer.momentum=0.5,much"]) == 3
    assert "error: optimizer.momentum='much': expected float" in capfd.readouterr().err
    assert list(folder.iterdir()) == []


def test_a_job_whose_config_is_wrong_is_in_the_table(folder, capfd):
    """What only the optimizer itself can tell: its signature takes any number."""
    assert main(["train", "-m", *UNTRACKED, "optimizer.momentum=0.5,-1"]) == 3
    said = capfd.readouterr()
    assert "│ 1   │ optimizer.momentum=-1  │ failed" in said.out
    assert "job 1 failed: optimizer: SGD: Invalid momentum value: -1" in said.out
    assert not list(folder.glob("multirun/*/*/failures.jsonl"))
    assert list(folder.glob("multirun/*/*/1/config.yaml"))


def test_a_sweep_none_of_whose_jobs_has_begun_leaves_no_folder(folder):
    assert main(["train", "-m", *UNTRACKED, "optimizer.momentum=few,much"]) == 3
    assert list(folder.iterdir()) == []


@pytest.mark.slow
def test_jobs_in_processes_of_a_launcher_are_told_and_recorded(folder, capfd):
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    assert main(["train", "-m", *SMALL, "tracking.model=[]", *launcher, "optimizer.lr=0.1,1e30"]) == 1
    parent, jobs = recorded(folder)
    assert {lr: run.info.status for lr, run in jobs.items()} == {"0.1": "FINISHED", "1e+30": "FAILED"}
    assert {run.data.tags["mlflow.parentRunId"] for run in jobs.values()} == {parent.info.run_id}
    assert [job["status"] for job in summary_in(folder)] == ["FINISHED", "FAILED"]
    said = capfd.readouterr()
    assert "← best" in said.out
    assert said.err.startswith("error: a job of the sweep failed; job 1: the loss is nan at step 2")
    assert parent.info.status == "FAILED"


@pytest.mark.parametrize(
    "storage", ["journal:///kept.journal", pytest.param("sqlite:///kept.db", marks=pytest.mark.slow)]
)
def test_hydras_optuna_sweeper_keeps_its_study(folder, capfd, storage):
    import optuna

    from accelerator.tuning.storage import open_journal, open_storage

    typed = ["optimizer.lr=choice(0.01,1e30)", "optimizer.momentum=interval(0.1,0.5)", "checkpoint.mode=max"]
    command = ["train", "-m", *UNTRACKED, "sweep=optuna", f"hydra.sweeper.storage={storage}", *typed]
    command.append("hydra.sweeper.sampler.seed=1")
    for number in (2, 1):
        assert main([*command, f"hydra.sweeper.n_trials={number}"]) in (0, 1)
    opened = open_journal("kept.journal") if "journal" in storage else open_storage(storage, folder)
    study = optuna.load_study(study_name="sweep", storage=opened)
    assert len(study.trials) == 3
    # A batch size is fixed on the command line, so the file's is not tried.
    assert {frozenset(trial.params) for trial in study.trials} == {frozenset(["optimizer.lr", "optimizer.momentum"])}
    states = {float(trial.params["optimizer.lr"]): trial.state.name for trial in study.trials}
    assert states.items() <= {0.01: "COMPLETE", 1e30: "FAIL"}.items()
    assert study.direction is optuna.study.StudyDirection.MAXIMIZE
    said = capfd.readouterr()
    assert "Error executing job" not in said.err
    assert said.out.count("going on with study sweep: 2 trials done\n") == 1
    best = max(trial.value for trial in study.trials if trial.value is not None)
    assert f"best of all 3 trials of study sweep: {best:.5g} with optimizer.lr=0.01 optimizer.momentum=" in said.out


def test_options_that_optunas_sweeper_cannot_use_are_told_with_their_keys(folder, capfd):
    options = ["n_trials=0", "n_jobs=-1", "sampler=foo", "direction=up", "storage=foo"]
    assert main(["train", "-m", *UNTRACKED, "sweep=optuna", *(f"hydra.sweeper.{each}" for each in options)]) == 3
    assert capfd.readouterr().err.split("  • ")[1:] == [
        "hydra.sweeper.sampler=foo: the sampler is an option of a group: hydra/sweeper/sampler=tpe (or random, grid, "
        "cmaes, …), and its arguments are keys, hydra.sweeper.sampler.seed=0\n",
        "hydra.sweeper.n_trials=0: expected a whole number, at least 1\n",
        "hydra.sweeper.n_jobs=-1: expected a whole number, at least 1\n",
        "hydra.sweeper.direction=up: expected minimize or maximize, or null for checkpoint.mode\n",
        "hydra.sweeper.storage=foo: expected journal:///<file>, the URL of a database such as sqlite:///sweeps.db, "
        "or null\n",
    ]
    assert list(folder.iterdir()) == []


def test_a_sweep_of_seeds_is_bundled(folder, capfd):
    assert main(["train", "-m", *UNTRACKED, "sweep=seeds", "hydra.sweeper.params={seed:'0,1'}"]) == 0
    assert re.search(r"│ 1 +│ seed=1 +│ finished", capfd.readouterr().out)
