"""A sweep on record: a run of its own, with a nested run a job, and what became of them."""

import json
import re

import pytest
from mlflow.tracking import MlflowClient

from accelerator.cli import sweep
from accelerator.cli.app import main

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
    # A rate of 1e30 fails at the second step; the others go on all the same.
    assert main(["train", "-m", *SMALL, "optimizer.lr=0.1,1e30,0.01"]) == 1
    parent, jobs = recorded(folder)
    assert parent.info.run_name == "sweep of optimizer.lr"
    assert parent.info.status == "FAILED"
    assert {lr: run.info.status for lr, run in jobs.items()} == {
        "0.1": "FINISHED",
        "1e+30": "FAILED",
        "0.01": "FINISHED",
    }
    for lr, run in jobs.items():
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.data.tags["config.compared_with"] == parent.info.run_id
        assert run.data.tags["config.difference"] == f"+ optimizer.lr: {lr}"
    assert "optimizer.lr" not in parent.data.params
    assert parent.data.params["optimizer.name"] == "SGD"
    assert parent.data.tags["command"].startswith("accelerator train -m 'imports=[toy_problem]' ")

    values = {lr: run.data.metrics.get("val/loss") for lr, run in jobs.items()}
    best = min((value, lr) for lr, value in values.items() if lr != "1e+30")
    assert parent.data.metrics["best/val/loss"] == best[0]
    assert (parent.data.metrics["jobs"], parent.data.metrics["failed"]) == (3, 1)
    (summary,) = folder.glob("multirun/*/*/sweep.json")
    assert [job["status"] for job in json.loads(summary.read_text())] == ["FINISHED", "FAILED", "FINISHED"]
    assert not (summary.parent / "multirun.yaml").exists()
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


def job(**metrics):
    return sweep.JobOutcome(None, [], "FINISHED", metrics, None, None)


def test_the_best_job_is_that_of_the_best_number():
    jobs = [job(), job(loss=float("nan")), job(loss=2.0), job(loss=1.0)]
    assert sweep.best_of(jobs, "loss", "min") is jobs[3]
    assert sweep.best_of(jobs, "loss", "max") is jobs[2]
    assert sweep.best_of(jobs[:2], "loss", "min") is None


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
    command.append("hydra.sweeper.sampler.seed=3")
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
    assert "Error executing job" not in capfd.readouterr().err


def test_a_sweep_of_seeds_is_bundled(folder, capfd):
    assert main(["train", "-m", *UNTRACKED, "sweep=seeds", "hydra.sweeper.params={seed:'0,1'}"]) == 0
    assert re.search(r"│ 1 +│ seed=1 +│ finished", capfd.readouterr().out)
