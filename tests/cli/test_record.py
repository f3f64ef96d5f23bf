"""What a run leaves behind, however it ends: its folder, and its MLflow run with the right status."""

import json
import signal
import subprocess
import sys
import time

import pytest
import yaml
from mlflow.tracking import MlflowClient

from accelerator.cli.app import main
from accelerator.runtime.checkpoint.meta_handler import read_meta

SMALL = [
    *(
        "data.train=64",
        "data.val=16",
        "data.test=16",
        "data.grid=8",
        "model=mlp",
        "model.hidden=[32,32]",
        "engine.threads=1",
    ),
    *("trainer.max_epochs=2", "tracking.experiment=tests"),
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def recorded(folder):
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    return client, run


def checkpoint_of(run_dir):
    return json.loads((run_dir / "result.json").read_text())["best"]


def the_run(folder):
    (run_dir,) = folder.glob("outputs/*/*")
    return run_dir


def test_a_finished_run_is_recorded_whole(folder, capsys):
    told = ["tracking.group=first", "tracking.tags.paper=a"]
    assert main(["train", *SMALL, *told, "optimizer.lr=0.002", "callbacks.progress=null"]) == 0
    client, run = recorded(folder)
    assert run.info.status == "FINISHED"
    assert run.data.params["optimizer.lr"] == "0.002"
    assert run.data.params["trainer.max_epochs"] == "2"
    assert run.data.tags["seed"] == "0"
    assert run.data.tags["engine"] == "vanilla_torch"
    assert run.data.tags["schedule"] == "single"
    assert "optimizer.lr=0.002" in run.data.tags["overrides"]

    run_dir = the_run(folder)
    lines = [json.loads(line) for line in (run_dir / "journal.jsonl").read_text().splitlines()]
    losses = [(line["step"], line["value"]) for line in lines if line.get("key") == "train/loss"]
    assert [step for step, _ in losses] == [1, 2, 3, 4]
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "train/loss")] == losses

    files = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert {"config.yaml", "overrides.yaml", "checkpoints", "requirements.txt", "environment.yaml"} <= files
    composed = yaml.safe_load((run_dir / "composition.yaml").read_text())
    assert composed["choices"]["model"] == "mlp"
    assert {"file": "model/mlp", "package": "model", "named_by": "main"} in composed["files"]
    assert (run.data.tags["choice.model"], run.data.tags["choice.loss"]) == ("mlp", "mse")
    assert run.data.tags["config.fingerprint"] == read_meta(run_dir / checkpoint_of(run_dir)).fingerprint
    assert (run.data.tags["group"], run.data.tags["paper"], run.data.tags["kind"]) == ("first", "a", "train")
    (checkpoint,) = [
        item.path for item in client.list_artifacts(run.info.run_id, "checkpoints") if "safetensors" in item.path
    ]
    result = json.loads((run_dir / "result.json").read_text())
    assert checkpoint.split("/")[1] == result["best"].split("/")[-1]
    assert result["run_id"] == run.info.run_id
    assert run.data.tags["parameters"] == "4224"
    assert run.data.metrics["test/loss"] == pytest.approx(result["metrics"]["test/loss"])

    printed = capsys.readouterr().out
    for words in ("test/relative_l2", "best checkpoint", run.info.run_id, "accelerator mlflow-ui"):
        assert words in printed


def test_the_experiment_is_named_after_the_folder_and_a_change_of_pieces_is_on_record(folder, monkeypatch):
    (folder / "my project").mkdir()
    monkeypatch.chdir(folder / "my project")
    pieces = ["callbacks.pieces.name=accumulation_schedule", "callbacks.pieces.epochs={1:4}"]
    assert main(["train", *SMALL[:-1], *pieces]) == 0
    client = MlflowClient(f"sqlite:///{folder}/my project/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("my project").experiment_id])
    assert run.data.tags["changed.trainer.accumulate"] == "1 → 4 at step 3"


@pytest.mark.slow
def test_one_signal_ends_a_whole_sweep(folder):
    command = [sys.executable, "-m", "accelerator", "train", "-m", *SMALL[:-2], "tracking=none"]
    process = subprocess.Popen(
        [*command, "trainer.max_epochs=100000", "seed=0,1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch"):
            break
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "job 1" not in printed
    assert "saved up to step" in errors


def test_python_gives_the_result_the_command_prints(folder):
    import accelerator

    result = accelerator.train([*SMALL, "tracking=none"])
    assert (
        result.metrics["test/loss"] == json.loads((result.run_dir / "result.json").read_text())["metrics"]["test/loss"]
    )
    assert result.best is not None
    assert result.best.exists()
    assert result.steps == 4


def test_a_run_that_fails_is_recorded_as_failed(folder, capsys):
    code = main(["train", *SMALL, "optimizer=sgd", "optimizer.lr=1e30"])
    assert code == 1
    printed = capsys.readouterr().err
    assert "the loss is" in printed
    assert "optimizer.lr" in printed
    assert "Traceback" not in printed
    _, run = recorded(folder)
    assert run.info.status == "FAILED"
    assert "NonFiniteLossError: the loss is" in run.data.tags["error"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.faults
def test_a_stopped_run_saves_its_last_step_and_goes_on_from_there(folder, number, code):
    command = [sys.executable, "-m", "accelerator", "train"]
    arguments = [*SMALL[:-2], "trainer.max_epochs=100000", "tracking.experiment=tests", "trainer.test=false"]
    process = subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch"):
            break
    time.sleep(0.3)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    _, run = recorded(folder)
    assert run.info.status == "KILLED"

    run_dir = the_run(folder)
    newest = sorted((run_dir / "checkpoints").glob("*.json"))[-1]
    steps = [
        json.loads(line)["step"] for line in (run_dir / "journal.jsonl").read_text().splitlines() if '"step"' in line
    ]
    assert json.loads(newest.read_text())["step"] == max(steps)
    assert "resume=" in errors


@pytest.mark.faults
def test_a_killed_run_is_recorded_as_killed_and_resumes_in_place(folder):
    command = [sys.executable, "-m", "accelerator", "train"]
    slow = [*SMALL[:-2], "trainer.max_epochs=3000", "checkpoint.every_steps=1", "tracking.experiment=tests"]
    process = subprocess.Popen([*command, *slow], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch"):
            break
    run_made = the_run(folder) / "tracking.state.json"
    for _ in range(300):  # until the uploader has made the run
        if run_made.exists() and json.loads(run_made.read_text())["run_id"]:
            break
        time.sleep(0.1)
    process.kill()
    process.communicate()
    for _ in range(100):
        _, run = recorded(folder)
        if run.info.status == "KILLED":
            break
        time.sleep(0.2)
    assert run.info.status == "KILLED"

    step = json.loads(sorted((the_run(folder) / "checkpoints").glob("*.json"))[-1].read_text())["step"]
    process = subprocess.Popen([*command, "resume=last"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    printed = ""
    for line in process.stdout:
        printed += line
        if line.startswith("epoch"):
            break
    process.terminate()
    process.communicate(timeout=60)
    assert f"resumed after step {step:,}" in printed
    client, run = recorded(folder)
    points = [m.step for m in client.get_metric_history(run.info.run_id, "train/loss")]
    assert points == list(range(1, len(points) + 1))
