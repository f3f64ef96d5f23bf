from pathlib import Path

import pytest

from accelerator.errors import ConfigError
from accelerator.tracking.locations import (
    artifact_folder,
    compare_link,
    locate,
    run_link,
    runs_link,
    sqlite_file,
    ui_command,
)


def test_the_default_store_is_a_file_in_the_current_directory_by_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = locate(None, {})
    assert found == (f"sqlite:///{tmp_path}/mlflow.db", {})
    assert found.uri.startswith("sqlite:////")
    assert artifact_folder(found.uri) == str(tmp_path / "mlartifacts")
    assert sqlite_file(found.uri) == tmp_path / "mlflow.db"


def test_the_environment_names_the_store_where_the_caller_does_not():
    environment = {"MLFLOW_TRACKING_URI": "http://host:5000"}
    assert locate(None, environment).uri == "http://host:5000"
    assert locate("sqlite:////x/y.db", environment).uri == "sqlite:////x/y.db"


@pytest.mark.parametrize(
    ("uri", "shown", "secrets"),
    [
        (
            "https://bob:p%40w@host:5000/path",
            "https://host:5000/path",
            {"MLFLOW_TRACKING_USERNAME": "bob", "MLFLOW_TRACKING_PASSWORD": "p@w"},
        ),
        (
            "postgresql+psycopg://bob:pw@host/db",
            "postgresql+psycopg://***@host/db",
            {"MLFLOW_TRACKING_URI": "postgresql+psycopg://bob:pw@host/db"},
        ),
        ("postgresql://bob@host/db", "postgresql://bob@host/db", {}),
        ("databricks://profile", "databricks://profile", {}),
    ],
)
def test_credentials_travel_by_the_environment_only(uri, shown, secrets):
    assert locate(uri, {}) == (shown, secrets)


@pytest.mark.parametrize("uri", ["./mlruns", "file:///tmp/mlruns", "mlflow.db", "sqllite:///x.db"])
def test_a_store_mlflow_cannot_write_to_is_refused_with_the_remedy(uri):
    with pytest.raises(
        ConfigError, match=r"is no store MLflow can write to: give a file as sqlite:///path/to/mlflow.db"
    ):
        locate(uri, {})


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///", "sqlite:///:memory:"])
def test_a_store_in_memory_is_refused(uri):
    with pytest.raises(ConfigError, match="keeps the record in memory only"):
        locate(uri, {})


def test_the_ui_is_reached_by_a_command_or_is_there_already(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    assert ui_command("sqlite:////a/mlflow.db") == "accelerator mlflow-ui --uri sqlite:////a/mlflow.db"
    assert ui_command("sqlite:////a b/mlflow.db") == "accelerator mlflow-ui --uri 'sqlite:////a b/mlflow.db'"
    assert ui_command(locate(None).uri) == "accelerator mlflow-ui"
    assert ui_command("http://host:5000") is None
    assert ui_command("databricks://profile") is None


def test_the_ui_command_can_be_typed_where_the_environment_is_not_activated(monkeypatch, tmp_path):
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/accelerator").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr("sys.executable", str(tmp_path / ".venv/bin/python"))
    assert ui_command("sqlite:////a/mlflow.db") == ".venv/bin/accelerator mlflow-ui --uri sqlite:////a/mlflow.db"


def test_the_link_opens_the_run_on_its_training_view():
    tail = "/#/experiments/1/runs/abc?workflowType=machine_learning"
    assert run_link("sqlite:////a/mlflow.db", "1", "abc") == "http://127.0.0.1:5000" + tail
    assert run_link("https://host/", "1", "abc") == "https://host" + tail
    assert run_link("sqlite:////a/mlflow.db", "1", "abc", server="http://h:1") == "http://h:1" + tail
    assert artifact_folder("https://host/") is None
    assert artifact_folder("postgresql://host/db") == str(Path.cwd() / "mlartifacts")


def test_links_to_a_table_of_runs_their_charts_and_a_comparison():
    at, view = "https://host/#", "?workflowType=machine_learning"
    assert runs_link("https://host/", "12") == f"{at}/experiments/12/runs{view}"
    assert runs_link("https://host/", "12", charts=True) == f"{at}/experiments/12/runs{view}&compareRunsMode=CHART"
    lists = "runs=%5B%22a%22%2C%22b%22%5D&experiments=%5B%2212%22%5D"
    assert compare_link("https://host/", "12", ["a", "b"]) == f"{at}/compare-runs?{lists}&{view[1:]}"
