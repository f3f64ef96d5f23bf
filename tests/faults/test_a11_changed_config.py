"""Row A11: another config for a run that goes on in place is shown, and refused unless it computes the same."""

import json
import shlex
import shutil
from pathlib import Path

import pytest

from accelerator.cli.app import main

TRAIN = [
    *["train", "experiment=digits", "model=mlp", "model.hidden=[8]", "trainer.max_epochs=2", "trainer.max_steps=40"],
    *["checkpoint.every_steps=10", "checkpoint.keep=9", "engine.threads=1", "tracking=none"],
    *["callbacks.progress=null", "callbacks.pictures=null"],
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert main([*TRAIN, f"hydra.run.dir={folder}"]) == 0
    return folder


@pytest.fixture
def run(finished, tmp_path, monkeypatch):
    """A run cut back to step 10, as if it had been killed then."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished, "run")
    for path in sorted(Path("run/checkpoints").glob("*"))[2:]:
        path.unlink()
    return tmp_path / "run"


def kept(run):
    return {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file() and path.name != ".lock"}


def test_a11_every_changed_value_is_shown_and_the_run_is_left_alone(run, capsys):
    before = kept(run)
    assert main(["train", "resume=run", "optimizer.lr=0.5", "loader.batch_size=64", "model.hidden=[16]"]) == 3
    told = capsys.readouterr().err
    assert "optimizer.lr was 0.001, is now 0.5" in told
    assert "loader.batch_size was 32, is now 64" in told
    assert "model.hidden was [8], is now [16]" in told
    assert told.count(", is now ") == 3
    assert "Traceback" not in told
    assert kept(run) == before


def test_a11_the_way_on_that_is_shown_works(run, capsys):
    assert main(["train", "resume=run", "optimizer.lr=0.5"]) == 3
    (shown,) = (word for word in shlex.split(capsys.readouterr().err.splitlines()[2]) if word.startswith("resume="))
    assert shown == f"resume={run}/checkpoints/step-00000010.safetensors"
    assert main(["train", shown, "optimizer.lr=0.5", "hydra.run.dir=new"]) == 0
    assert json.loads(Path("new/result.json").read_text())["steps"] == 40
    lines = [json.loads(line) for line in Path("new/journal.jsonl").read_text().splitlines()]
    assert min(line["step"] for line in lines if line.get("key") == "train/loss") == 11


def test_a11_what_changes_nothing_that_is_computed_is_allowed(run):
    assert main(["train", "resume=run", "checkpoint.keep=3", "trainer.test=false", "loader.workers=1"]) == 0
    assert json.loads((run / "result.json").read_text())["steps"] == 40


def test_a11_a_key_that_came_with_a_later_version_is_no_change_at_its_default(run, capsys):
    config = run / "config.yaml"
    lines = config.read_text().splitlines(keepends=True)
    config.write_text("".join(line for line in lines if line.strip() != "validate_every: 1"))
    assert config.read_text() != "".join(lines)
    assert main(["train", "resume=run", "trainer.validate_every=2"]) == 3
    assert "trainer.validate_every was 1, is now 2" in capsys.readouterr().err
    assert main(["train", "resume=run"]) == 0
