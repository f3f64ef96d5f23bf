"""``mlflow run . -e <entry point>``, as MLflow really runs it: one shell-quoted argument, and a run of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

ROOT = Path(__file__).parents[2]
SMALL = "data.train=64 data.val=16 data.test=16 data.grid=8 model=mlp model.hidden=[8] trainer.max_epochs=1"


@pytest.fixture
def project(tmp_path):
    for name in ("MLproject", "python_env.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def mlflow_run(project, entry_point, overrides=None):
    """Exit code, and the runs in the record, newest first."""
    scripts = str(Path(sys.executable).parent)
    command = [sys.executable, "-m", "mlflow", "run", ".", "-e", entry_point, "--env-manager", "local"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    done = subprocess.run(
        [*command, *([] if overrides is None else ["-P", f"overrides={overrides}"])],
        cwd=project,
        env=environment | {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    return done, client.search_runs(ids)


def test_overrides_with_spaces_and_shell_code_arrive_as_typed_in_the_run_mlflow_made(project):
    hostile = "x y; touch hacked; $(touch hacked) `touch hacked`"
    done, runs = mlflow_run(project, "accelerator", f"{SMALL} 'vars.a=\"{hostile}\"'")
    assert done.returncode == 0, done.stderr
    (run,) = runs
    assert run.info.status == "FINISHED"
    assert run.data.params["vars.a"] == hostile
    assert run.data.params["model.hidden"] == "[8]"
    assert run.data.tags["mlflow.project.entryPoint"] == "accelerator"
    assert "test/loss" in run.data.metrics
    assert not list(project.rglob("hacked"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "code", "jobs"),
    [(f"-m {SMALL} optimizer.lr=0.1,0.01", 0, 2), ("trainer.max_epochs=abc", 3, 0), ('model="', 3, 0)],
)
def test_sweeps_and_mistakes(project, overrides, code, jobs):
    done, runs = mlflow_run(project, "accelerator", overrides)
    assert (done.returncode == 0) == (code == 0)
    made = [run for run in runs if "mlflow.project.entryPoint" in run.data.tags]
    assert [run.info.status for run in made] == ["FINISHED" if code == 0 else "FAILED"]
    nested = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == made[0].info.run_id]
    assert len(nested) == jobs
    assert "Traceback" not in done.stderr or code == 0


@pytest.mark.slow
@pytest.mark.parametrize("entry_point", ["model_analysis", "data_analysis"])
@pytest.mark.parametrize("overrides", [None, "data=digits model=cnn"])
def test_the_analyses_are_entry_points(project, entry_point, overrides):
    done, runs = mlflow_run(project, entry_point, overrides)
    assert done.returncode == 0, done.stderr
    (run,) = runs
    assert run.info.status == "FINISHED"
    assert run.data.tags["kind"] == f"analyze-{entry_point.removesuffix('_analysis')}"


@pytest.mark.slow
def test_without_overrides_the_default_run_begins(project):
    done, runs = mlflow_run(project, "accelerator")
    assert done.returncode == 0, done.stderr
    assert [run.info.status for run in runs] == ["FINISHED"]
