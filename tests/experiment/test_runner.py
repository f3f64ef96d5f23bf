import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from accelerator.cli.app import main
from accelerator.experiment import Experiment, ExperimentConfig, MLflowConfig

HERE = str(Path(__file__).parent)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.syspath_prepend(HERE)
    return tmp_path


def the_run(folder):
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    (run,) = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    (run_dir,) = folder.glob("outputs/*/*")
    return client, run, run_dir


def test_a_training_leaves_its_folder_and_its_record(folder, capsys):
    (folder / "config.yaml").write_text("experiment: {name: heights, seed: 5}\nhyperparameters: {x: 1, steps: 3}\n")
    assert main(["run", "config.yaml", "--train-fn", "train_functions:parabola", "hyperparameters.x=4.0"]) == 0
    client, run, run_dir = the_run(folder)
    assert client.get_experiment(run.info.experiment_id).name == "heights"
    assert (run.info.status, run.info.run_name) == ("FINISHED", "heights")
    assert run.data.params["hyperparameters.x"] == "4.0"
    assert run.data.params["seed"] == "5"
    assert run.data.tags["kind"] == "run"
    points = client.get_metric_history(run.info.run_id, "height")
    assert [(point.step, point.value) for point in points] == [(0, 5.0), (1, 4.5), (2, 4.25), (4, 4.25)]
    assert [item.path for item in client.list_artifacts(run.info.run_id, "model")] == ["model/x.txt"]
    result = json.loads((run_dir / "result.json").read_text())
    assert result["metrics"] == {"height": 4.25, "x": 1.0}
    assert (result["run_id"], result["epochs_completed"]) == (run.info.run_id, 4)
    printed = capsys.readouterr().out
    assert "height (less is better)" in printed
    assert run.info.run_id in printed


def test_from_python_without_a_record(folder):
    from train_functions import parabola

    config = ExperimentConfig(hyperparameters={"x": 1.0}, mlflow=MLflowConfig(enabled=False))
    outcome = Experiment(parabola, config).run({"x": 2.0})
    assert outcome.result.primary_metric == 0.125
    assert outcome.run_id is None
    assert not (folder / "mlflow.db").exists()


def test_what_the_function_raises_is_on_record_and_its_own(folder, capsys):
    assert main(["run", "--train-fn", "train_functions:failing"]) == 1
    assert "RuntimeError: boom" in capsys.readouterr().err
    _, run, run_dir = the_run(folder)
    assert run.info.status == "FAILED"
    assert run.data.tags["error"] == "RuntimeError: boom"
    assert (run_dir / "error.txt").read_text().endswith("RuntimeError: boom\n")
    assert not (run_dir / "result.json").exists()


@pytest.mark.parametrize(("name", "runs"), [("not_a_number", True), ("two", False), ("nowhere", False)])
def test_mistakes_are_a_sentence_and_leave_no_traceback(folder, name, runs, capsys):
    assert main(["run", "--train-fn", f"train_functions:{name}", "mlflow.enabled=false"]) == 3
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert "Traceback" not in errors
    assert list(folder.glob("outputs/*/*/result.json")) == []
    assert (folder / "outputs").exists() == runs


def test_a_signal_lets_the_function_save_and_ends_with_143(folder):
    command = [sys.executable, "-m", "accelerator", "run", "--train-fn", f"{HERE}/train_functions.py:signalled"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert done.stderr.strip() == "stopped by SIGTERM"
    _, run, run_dir = the_run(folder)
    assert run.info.status == "KILLED"
    assert not (run_dir / "result.json").exists()
