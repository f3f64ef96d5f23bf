"""Row G8: secrets of the environment and of the command line reach nothing that a run writes."""

from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from accelerator.cli.app import main
from accelerator.tracking import masking

TYPED, READ, IN_URL = "canary-typed-5e8a71", "canary-read-99c3d0", "canary-url-1f4b22"
RUN = [
    *("imports=[secret_parts]", "data=custom", "data._target_=secret_parts.guarded", f"data.api_key={TYPED}"),
    *("data.account=${oc.env:CANARY_ACCOUNT}", f"data.url='https://user:{IN_URL}@host/set'"),
    *("model=mlp", "model.hidden=[4]", "optimizer=sgd", "scheduler=constant", "transform=none", "metrics=none"),
    *("multilevel=single", "engine.threads=1", "loader.batch_size=8", "trainer.max_epochs=1"),
    *("callbacks.progress=null", "callbacks.pictures=null", "tracking.experiment=secrets"),
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("CANARY_ACCOUNT", READ)
    return tmp_path


def holding_a_secret(folder):
    """Every file below that has one in it: databases, checkpoints and logs too."""
    canaries = [canary.encode() for canary in (TYPED, READ, IN_URL)]
    files = [path for path in folder.rglob("*") if path.is_file()]
    return len(files), [path for path in files if any(canary in path.read_bytes() for canary in canaries)]


def test_g8_no_file_and_no_table_of_a_run_holds_one(folder):
    assert main(["train", *RUN]) == 0
    files, found = holding_a_secret(folder)
    assert files > 15
    assert found == []
    (run,) = MlflowClient(f"sqlite:///{folder}/mlflow.db").search_runs(["1"])
    assert run.data.params["data.api_key"] == "***"
    assert run.data.params["data.account"] == "${oc.env:CANARY_ACCOUNT}"
    assert run.data.params["data.url"] == "https://***@host/set"


@pytest.mark.faults
def test_g8_nor_does_what_a_sweep_writes(folder):
    assert main(["train", "-m", *RUN, "optimizer.lr=0.1,0.01"]) == 0
    files, found = holding_a_secret(folder)
    assert files > 35
    assert found == []


def test_g8_nor_does_the_report_of_an_error_that_tells_it(folder):
    assert main(["train", *RUN, "+callbacks.bad._target_=secret_parts.Telling"]) == 1
    (told,) = folder.glob("outputs/*/*/error.txt")
    assert told.read_text().endswith("RuntimeError: refused ***\n")
    assert holding_a_secret(folder)[1] == []


def test_the_values_that_are_hidden_are_those_that_are_masked():
    config = {"data": {"api_key": "abcdef123", "short": 1}, "auth": {"password": ["secret-one", "x"]}, "on": READ}
    unresolved = {"data": {"api_key": "abcdef123"}, "on": "${oc.env:NAME}"}
    assert masking.secrets_of(config, unresolved) == {"abcdef123", "secret-one", READ}
    assert masking.hide(f"refused abcdef123 of {READ}", {"abcdef123", READ}) == "refused *** of ***"


@pytest.mark.faults
def test_g8_breaks_when_masking_does(folder, monkeypatch):
    """The test above looks where secrets would be."""
    monkeypatch.setattr(masking, "is_secret", lambda name: False)
    assert main(["train", *RUN]) == 0
    _, found = holding_a_secret(folder)
    assert {"config.yaml", "mlflow.db", "journal.jsonl"} <= {Path(path).name for path in found}
