"""Runs for the tests of ``accelerator report``: a cascade, trained in a second, and copies of it under other names."""

import json
import shutil

import pytest

from accelerator.cli.app import main
from accelerator.tracking import spool

CASCADE = [
    *["train", "tracking=none", "engine.threads=1", "callbacks.progress=null", "trainer.max_epochs=4"],
    *["data.train=64", "data.val=16", "data.test=16", "data.grid=8", "model=multilevel_mlp", "model.hidden=[16,16]"],
    *["multilevel.levels=2", "callbacks.pictures=null"],
]


def train(folder):
    """Train it below a folder; returns where it stands."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(CASCADE) == 0
    (run_dir,) = folder.glob("outputs/*/*")
    return run_dir


def copied(run_dir, to, *, name, experiment="poisson", started=1_790_000_000_000, run_id=None, config=()):
    """A copy with a record of its own: called so, started then, with other values in its config."""
    shutil.copytree(run_dir, to)
    uri = "sqlite:////nowhere/mlflow.db"
    spool.save(to / spool.SETTINGS, spool.Settings(uri, experiment, name, None, "journal.jsonl", "k", started, 1.0))
    if run_id is not None:
        spool.save(to / spool.STATE, spool.State(uri=uri, run_id=run_id, experiment_id="1"))
    text = (to / "config.yaml").read_text()
    for old, new in config:
        assert old in text
        text = text.replace(old, new)
    (to / "config.yaml").write_text(text)
    return to


def noted(run_dir, *lines):
    """Add lines to a run's journal."""
    with (run_dir / "journal.jsonl").open("a") as file:
        file.writelines(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
