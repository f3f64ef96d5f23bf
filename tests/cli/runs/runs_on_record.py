"""A store with runs in it, and ``accelerator runs`` as a user types it."""

import json
from pathlib import Path

from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking.client import MlflowClient

from accelerator.cli.app import main
from accelerator.tracking.mlflow_run import _make_database

MINUTE = 60_000
START = 1_790_000_000_000


class Made:
    """A store and the ids of what is in it, by name."""

    def __init__(self, folder):
        self.file = folder / "mlflow.db"
        _make_database(self.file, str(folder / "mlartifacts"))
        self.client = MlflowClient(f"sqlite:///{self.file}")
        self.ids = {}

    def run(self, name, experiment, minute, *, seconds=5.0, status="FINISHED", parent=None, **logged):
        made = self.client.create_run(experiment, start_time=START + minute * MINUTE, run_name=name)
        id = made.info.run_id
        self.ids[name] = id
        tags = dict(logged.get("tags", {}))
        if parent is not None:
            tags["mlflow.parentRunId"] = self.ids[parent]
        params = {"checkpoint.monitor": "val/loss", "checkpoint.mode": "min", **logged.get("params", {})}
        points = [
            Metric(key, value, START + minute * MINUTE + step, step)
            for key, values in logged.get("metrics", {}).items()
            for step, value in enumerate(values, 1)
        ]
        self.client.log_batch(
            id,
            points,
            [Param(*each) for each in params.items()] if parent or logged else [],
            [RunTag(*each) for each in tags.items()],
        )
        if status != "RUNNING":
            self.client.set_terminated(id, status, end_time=START + minute * MINUTE + int(seconds * 1000))
        return id


def runs(*arguments):
    return main(["runs", *map(str, arguments)])


def printed(capsys, *arguments):
    assert runs(*arguments) == 0
    return capsys.readouterr().out


def as_json(capsys, *arguments):
    return json.loads(printed(capsys, *arguments, "--json"))


def refused(capsys, *arguments):
    """What a command that must be refused says, in one sentence."""
    assert runs(*arguments) == 3
    told = capsys.readouterr().err
    assert "Traceback" not in told
    return told.splitlines()[0].removeprefix("error: ")


def mlflow():
    """MLflow's own client, to change the store behind our back."""
    return MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")


def on_a_terminal(monkeypatch, columns):
    """One without colours."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setattr("rich.console.Console.is_terminal", False)
    monkeypatch.setenv("COLUMNS", str(columns))
