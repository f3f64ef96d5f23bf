"""``accelerator tune --backend ray``: what the other backend does, with Ray Tune."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from accelerator.cli.app import main
from accelerator.tuning import ray_cluster
from accelerator.tuning.ray_settings import launcher_environment, launcher_options, token

TESTS = Path(__file__).parents[1]
SMALL = [
    *("imports=[toy_problem]", "data=custom", "data._target_=toy_problem.plane", "model=mlp", "model.hidden=[4]"),
    *("multilevel=single", "optimizer=sgd", "transform=none", "metrics=none"),
    *("engine.threads=1", "loader.batch_size=8", "trainer.max_epochs=4"),
]
SPACE = ["tune.space.optimizer.lr={choice:[0.05,0.01,1e30]}", "tune.space.scheduler={choice:[constant,cosine]}"]
RAY = ["--backend", "ray", "tune.workers=2", "tune.ray.cpus=1", "tune.heartbeat=null"]

TRAIN = """
from accelerator.experiment import TrainingContext, TrainingResult

def train_model(ctx: TrainingContext) -> TrainingResult:
    print("this is", ctx.trial_id)
    for epoch in range(1, 5):
        loss = abs(ctx.hyperparameters["lr"] - 0.1) + 1 / epoch
        ctx.tracker.log_metric("val_loss", loss, epoch)
        ctx.report(loss, epoch)
        if ctx.should_stop:
            break
    return TrainingResult(primary_metric=loss, primary_metric_name="val_loss")
"""
LISTENS = """
from pathlib import Path

import psutil

from accelerator.runtime.callbacks.base import Callback

class Listens(Callback):
    def run_end(self, context):
        raylet = psutil.Process().parent()
        with Path("listening").open("a") as file:
            for process in [raylet, *raylet.children(recursive=True)]:
                for connection in process.net_connections():
                    if connection.status == psutil.CONN_LISTEN:
                        print(connection.laddr.ip.removeprefix("::ffff:"), file=file)
"""
CONFIG = """
experiment: {name: own}
hyperparameters: {lr: 0.5}
tuning: {n_trials: 4, workers: 2, sampler: grid, heartbeat: null, space: {lr: {choice: [0.1, 0.2, 0.3, 0.4]}}}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def accelerator(folder, *arguments, code=0, **environment):
    """Run a command in a process of its own, in which Ray is started and ended."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "accelerator", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1", "HOME": str(folder), **environment},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        (
            ["tune.ray.address=127.0.0.1:1"],
            "ray.address=127.0.0.1:1: there is no Ray cluster (connection refused); start one with 'ray start --head', "
            "or leave the address out for a cluster of the study's own",
        ),
        (["tune.ray.adress=auto"], "did you mean"),
        (["tune.pruner.name=asha", "tune.pruner.min_resources=3"], "tune.pruner.min_resources: 'asha' has no such"),
    ],
)
def test_a_mistake_is_told_before_anything_is_written(folder, monkeypatch, capsys, more, problem):
    monkeypatch.syspath_prepend(str(TESTS))
    assert main(["tune", *SMALL, *SPACE, *RAY, *more]) == 3
    assert problem in capsys.readouterr().err
    assert list(folder.iterdir()) == []


def test_without_ray_the_extra_is_named(folder, monkeypatch, capsys):
    monkeypatch.setattr(ray_cluster, "find_spec", lambda name: None)
    assert main(["tune", *SMALL, *SPACE, *RAY]) == 3
    told = "the backend ray needs Ray Tune: pip install 'accelerator-platform[ray]'"
    assert f"error: {told}" in capsys.readouterr().err
    (folder / "own.py").write_text(TRAIN)
    (folder / "own.yaml").write_text(CONFIG)
    assert main(["tune", "own.yaml", "--train-fn", "own.py:train_model", "--backend", "ray"]) == 3
    assert f"error: {told}" in capsys.readouterr().err


@pytest.mark.slow
def test_a_study_on_configs_by_ray_is_a_run_with_one_nested_run_a_trial(folder):
    secret = "canary-9f2c"
    arguments = [*SMALL, *SPACE, *RAY, "tune.name=rays", "tracking.experiment=studies", "tune.sampler.name=grid"]
    done = accelerator(folder, "tune", *arguments, MY_API_KEY=secret)
    assert done.stderr == ""
    study = json.loads((folder / "studies/rays/study.json").read_text())
    states = {(trial["values"]["scheduler"], trial["values"]["optimizer.lr"]): trial for trial in study["trials"]}
    assert {values: trial["state"] for values, trial in states.items()} == {
        (scheduler, rate): "failed" if rate == 1e30 else "complete"
        for scheduler in ("constant", "cosine")
        for rate in (0.05, 0.01, 1e30)
    }

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    runs = client.search_runs(["1"])
    (parent,) = [run for run in runs if run.data.tags["kind"] == "tune"]
    assert parent.info.status == "FINISHED"
    assert len(runs) == 7
    for run in runs:
        if run is not parent:
            trial = study["trials"][int(run.data.tags["trial"])]
            assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
            assert run.data.tags["trial.state"] == trial["state"]
            assert run.info.status == ("FINISHED" if trial["state"] == "complete" else "FAILED")
            assert float(run.data.params["optimizer.lr"]) == trial["values"]["optimizer.lr"]
            if trial["scores"]:
                assert (
                    min(point.value for point in client.get_metric_history(run.info.run_id, "val/loss"))
                    == (trial["scores"][0])
                )
    (best,) = study["best"]
    assert parent.data.metrics["best/val/loss"] == study["trials"][best]["scores"][0]
    assert not (folder / "ray_results").exists()
    assert [path for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()] == []

    again = accelerator(folder, "tune", "resume=rays", "tune.backend=optuna", "tune.trials=6")
    assert "study rays: 4 trials are done; going on to 6; 2 failed before and are tried again" in again.stdout


@pytest.mark.slow
def test_a_train_function_is_searched_by_ray(folder):
    (folder / "own.py").write_text(TRAIN)
    (folder / "own.yaml").write_text(CONFIG)
    done = accelerator(
        folder, "tune", "own.yaml", "--train-fn", "own.py:train_model", "--backend", "ray", "--json", PYTHONPATH=""
    )
    told = json.loads(done.stdout)
    assert done.stderr == ""
    assert [trial["state"] for trial in told["trials"]] == ["complete"] * 4
    assert told["hyperparameters"] == {"lr": 0.1}
    assert told["metrics"] == {"best/val_loss": 0.25}
    assert (folder / "studies/own/2/output.txt").read_text() == "this is trial-2\n"
    runs = MlflowClient(f"sqlite:///{folder}/mlflow.db").search_runs(["1"])
    (parent,) = [run for run in runs if run.info.run_id == told["run_id"]]
    nested = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert sorted(run.data.metrics["val_loss"] for run in nested) == pytest.approx([0.25, 0.35, 0.45, 0.55])
    assert {run.info.status for run in runs} == {"FINISHED"}


@pytest.mark.parametrize(
    ("arguments", "address", "expected"),
    [
        (["hydra/launcher=joblib"], None, {}),
        (
            ["-m", "hydra/launcher=ray"],
            None,
            {"RAY_USAGE_STATS_ENABLED", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "RAY_AUTH_TOKEN"},
        ),
        (["hydra/launcher=ray", "+hydra.launcher.ray.init.address=auto"], None, {"RAY_USAGE_STATS_ENABLED"}),
        (["hydra/launcher=ray"], "10.0.0.1:6379", {"RAY_USAGE_STATS_ENABLED"}),
    ],
)
def test_a_sweep_by_ray_opens_no_port_to_others_unless_it_joins_a_cluster(monkeypatch, arguments, address, expected):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    known = {"RAY_AUTH_TOKEN": token()} if "RAY_AUTH_TOKEN" in expected else {}
    assert launcher_environment(arguments) == dict.fromkeys(expected, "0") | known


def test_a_cluster_of_a_sweep_of_its_own_has_no_dashboard_and_leaves_nothing(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for arguments in (["hydra/launcher=joblib"], ["hydra/launcher=ray", "+hydra.launcher.ray.init.address=auto"]):
        with launcher_options(arguments) as options:
            assert options == []
    with launcher_options(["hydra/launcher=ray", "+hydra.launcher.ray.init.logging_level=20"]) as options:
        dashboard, place = options
        assert dashboard == "++hydra.launcher.ray.init.include_dashboard=false"
        folder = Path(place.removeprefix("++hydra.launcher.ray.init._temp_dir=").strip("'"))
        assert folder.is_dir()
        assert len(str(folder)) < 60
    assert not folder.exists()


@pytest.mark.slow
def test_the_jobs_of_a_sweep_run_on_ray(folder):
    (folder / "listens.py").write_text(LISTENS)
    job = [*SMALL, "imports=[toy_problem,listens]", "callbacks.listens._target_=listens.Listens", "tracking=none"]
    done = accelerator(folder, "train", "-m", *job, "optimizer.lr=0.05,0.01", "hydra/launcher=ray")
    assert len(list(folder.glob("multirun/*/*/[01]/result.json"))) == 2
    before, _, after = done.stdout.partition("\nSweep\n")
    assert (before.count("best checkpoint"), after.count("best checkpoint")) == (2, 0)  # what the jobs print
    assert "dashboard" not in done.stderr
    assert set(next(folder.rglob("listening")).read_text().split()) == {"127.0.0.1"}
