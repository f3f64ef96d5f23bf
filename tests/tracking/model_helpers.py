"""A small trained run with a model, on record in a SQLite store."""

import shutil
from pathlib import Path

from record_helpers import prepare, state_of

import accelerator
from accelerator.runtime.model_folder import write_model
from accelerator.tracking.mlflow_run import _make_database
from accelerator.tracking.uploader import upload

# 2 passes over 20 points of y = 2 x₁ − x₂ + 0.5; the model is built with the module toy_problem.
PLANE = [
    "imports=[toy_problem]",
    "data=custom",
    "data._target_=toy_problem.plane",
    "model=mlp",
    "model.hidden=[4]",
    "multilevel=single",
    "transform=normalize",
    "~metrics.relative_l2",
    "engine.threads=1",
    "loader.batch_size=8",
    "trainer.max_epochs=2",
    "~callbacks.progress",
    "~callbacks.pictures",
]


def trained(run_dir, *overrides):
    """The folder of a run that nobody has recorded."""
    accelerator.train([*PLANE, "tracking=none", f"hydra.run.dir={run_dir}", *overrides])
    return Path(run_dir)


def unrecorded(run_dir, target):
    """A copy of a run's folder that nobody has recorded."""
    shutil.copytree(run_dir, target)
    for path in target.glob("tracking*"):
        path.unlink()
    lines = (target / "journal.jsonl").read_text().splitlines(keepends=True)
    (target / "journal.jsonl").write_text("".join(line for line in lines if '"event"' not in line))
    return target


def empty_store(folder):
    """MLflow's tables, which take half a second to make, in a file to be copied."""
    from mlflow.tracking import MlflowClient  # noqa: F401 - as the uploader does first

    _make_database(folder / "empty.db", None)
    return folder / "empty.db"


def with_model(run_dir, formats=("safetensors",)):
    """A run's model, written as at a run's end, with the facts of its data."""
    data = {"digest": "0123456789abcdef", "samples": {"train": 20, "val": 8, "test": 8}}
    return write_model(run_dir, Path(run_dir) / "model", formats, data=data)


def recorded(run_dir, store, *, model=True, **options):
    """Its MLflow id, after it was uploaded."""
    journal = prepare(run_dir, store, **{"experiment": "plane", "run_name": "mlp on plane"} | options)
    journal.event("params", values={"model.name": "mlp", "checkpoint.monitor": "val/loss"})
    journal.event("tags", values={"run_dir": str(run_dir), "config.fingerprint": "c0ffee", "git.commit": "abc123"})
    if model:
        journal.event("model", path="model")
    journal.event("status", value="FINISHED")
    journal.close()
    assert upload(Path(run_dir)) == 0
    return state_of(run_dir).run_id
