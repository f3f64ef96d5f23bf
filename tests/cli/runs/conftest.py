"""A store of six runs, for each test a copy of its own."""

import os
import shutil
from unittest.mock import patch

import pytest
from runs_on_record import Made


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Two experiments: two runs of an MLP and a sweep of two on poisson, a classifier on digits."""
    store = Made(tmp_path_factory.mktemp("store"))
    poisson, digits = (store.client.create_experiment(name) for name in ("poisson", "digits"))
    store.run(
        "first",
        poisson,
        0,
        params={"model.name": "mlp", "optimizer.lr": "0.1", "trainer.max_epochs": "2"},
        metrics={"val/loss": [0.9, 0.5, 0.7], "test/loss": [0.75], "lr": [0.1, 0.0, 0.0]},
        tags={"config.fingerprint": "a" * 64, "run_dir": "/nowhere/first"},
    )
    store.run(
        "second",
        poisson,
        1,
        seconds=125,
        params={"model.name": "mlp", "optimizer.lr": "0.01", "trainer.max_epochs": "2"},
        metrics={"val/loss": [0.4], "test/loss": [0.25], "lr": [0.0]},
        tags={"group": "widths", "config.fingerprint": "b" * 64},
    )
    store.run(
        "images",
        digits,
        2,
        status="FAILED",
        params={"checkpoint.monitor": "val/accuracy", "checkpoint.mode": "max", "model.name": "resnet"},
        metrics={"val/accuracy": [0.5, 0.8, 0.6], "test/accuracy": [0.7]},
        tags={"error": "ValueError: no"},
    )
    store.run("sweep", poisson, 3, tags={"kind": "sweep"})
    for number in (0, 1):
        store.run(f"job {number}", poisson, 4 + number, parent="sweep", metrics={"val/loss": [0.6 - number / 10]})
    return store


@pytest.fixture(autouse=True)
def environment():
    """Opening a store sets variables that MLflow reads, and leaves them set."""
    with patch.dict(os.environ):
        yield


@pytest.fixture
def store(made, tmp_path, monkeypatch):
    """A copy of it in the working directory."""
    shutil.copy(made.file, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return made.ids
