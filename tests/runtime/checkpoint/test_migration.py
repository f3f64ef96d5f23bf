"""Checkpoints of earlier formats: real files of theirs are read, and runs they are of go on."""

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch

from accelerator.cli.app import main
from accelerator.errors import CheckpointError
from accelerator.runtime.checkpoint.checkpoint_handler import CheckpointHandler
from accelerator.runtime.checkpoint.meta_handler import SCHEMA
from accelerator.runtime.checkpoint.migration import migrate
from accelerator.runtime.trained import load_model

# Written by the version whose format was 1: a run cut short, and what it came to when it was left alone.
RUNS = sorted((Path(__file__).parents[2] / "fixtures").glob("schema_*/*"))


def named(run):
    return f"{run.parent.name}-{run.name}"


def test_format_2_has_an_average_an_engine_and_the_random_state_of_every_rank():
    before = {"level": 0, "rng": {"python": [3]}}
    kept = copy.deepcopy(before)
    assert migrate(before, 1, to=2) == {"level": 0, "rng": [{"python": [3]}], "average": None, "engine": {}}
    assert before == kept


def test_the_present_format_is_left_as_it_is():
    state = {"level": 0, "rng": [{}], "average": None, "engine": {"scale": 2.0}}
    assert migrate(state, SCHEMA) == state


def test_a_newer_format_is_refused_with_both_versions():
    with pytest.raises(CheckpointError, match=r"has format 9; this version reads up to 2: upgrade"):
        migrate({}, 9, to=2)


def test_a_format_there_never_was_is_refused():
    with pytest.raises(CheckpointError, match="has format 0; the oldest that can be read is 1"):
        migrate({}, 0, to=2)


def test_a_newer_file_is_refused_before_it_is_read(tmp_path):
    run = shutil.copytree(RUNS[0], tmp_path / "run")
    path = min((run / "checkpoints").glob("*.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": SCHEMA + 1, "bytes": 0}))
    with pytest.raises(CheckpointError, match=f"has format {SCHEMA + 1}; this version reads up to {SCHEMA}: upgrade"):
        CheckpointHandler(run / "checkpoints").load(path.with_suffix(".safetensors"))


@pytest.mark.parametrize("run", RUNS, ids=named)
def test_every_old_file_is_read_in_the_present_format(run):
    for path in (run / "checkpoints").glob("*.safetensors"):
        state, _ = CheckpointHandler(path.parent).load(path)
        assert isinstance(state["rng"], list)
        assert state.keys() >= {"average", "engine"}


@pytest.mark.parametrize("run", RUNS, ids=named)
def test_a_model_of_an_old_run_predicts_what_it_did(run):
    expected = json.loads((run / "expected.json").read_text())
    predictions = load_model(run)(torch.tensor(expected["inputs"])).flatten(1)
    torch.testing.assert_close(predictions, torch.tensor(expected["predictions"]))


@pytest.mark.parametrize("run", RUNS, ids=named)
def test_an_old_run_goes_on_to_where_it_would_have_come(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, tmp_path / "run")
    assert main(["train", "resume=run"]) == 0
    expected = json.loads((run / "expected.json").read_text())["metrics"]
    assert json.loads(Path("run/result.json").read_text())["metrics"] == pytest.approx(expected, rel=1e-4)
