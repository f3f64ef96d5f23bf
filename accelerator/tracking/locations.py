"""Where records are kept and how to look at them: tracking URIs, artifact folders, UI links."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from accelerator.errors import ConfigError
from accelerator.tracking.masking import MASK
from accelerator.utilities.files import short

SERVERS = ("http", "https")
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
# The runs of this platform are trainings; MLflow's UI opens in its GenAI mode without this. The UI routes behind the
# fragment (React's hash router), so that the query belongs behind the fragment too.
VIEW = "?workflowType=machine_learning"
UI = "http://127.0.0.1:5000"  # where `accelerator mlflow-ui` listens if it can


class Location(NamedTuple):
    """A tracking store.

    Attributes:
        uri: the address without credentials, fit to be written down and shown.
        secrets: environment variables through which the uploader gets the credentials; mostly empty.
    """

    uri: str
    secrets: dict[str, str]


def locate(uri: str | None, environment: Mapping[str, str] | None = None) -> Location:
    """Settle which store is meant, by an address that holds in any working directory.

    Args:
        uri: an MLflow tracking URI; None takes MLFLOW_TRACKING_URI from the environment, else ``mlflow.db`` in the
            current directory.
        environment: `os.environ` by default.

    Raises:
        ConfigError: the store is one MLflow no longer writes to (a folder), or none at all.
    """
    environment = os.environ if environment is None else environment
    uri = uri or environment.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    if uri.startswith("databricks"):
        return Location(uri, {})
    parts = urlsplit(uri)
    scheme = parts.scheme.partition("+")[0]
    if scheme not in SERVERS + DATABASES:
        raise ConfigError(
            f"tracking uri '{uri}' is no store MLflow can write to: "
            "give a file as sqlite:///path/to/mlflow.db, or a server as http://host:port"
        )
    if scheme == "sqlite":
        return Location(_absolute_sqlite(uri), {})
    if parts.password is None:
        return Location(uri, {})
    host = parts.netloc.rpartition("@")[2]
    if scheme in SERVERS:
        login = {"MLFLOW_TRACKING_USERNAME": parts.username or "", "MLFLOW_TRACKING_PASSWORD": parts.password}
        return Location(urlunsplit(parts._replace(netloc=host)), {key: unquote(value) for key, value in login.items()})
    return Location(urlunsplit(parts._replace(netloc=f"{MASK}@{host}")), {"MLFLOW_TRACKING_URI": uri})


def is_database(uri: str) -> bool:
    """Whether the store is a database, which shows itself only through a server of our own."""
    return urlsplit(uri).scheme.partition("+")[0] in DATABASES


def artifact_folder(uri: str) -> str | None:
    """Where a new experiment keeps its files: ``mlartifacts`` beside a SQLite file, else where the server says."""
    if (file := sqlite_file(uri)) is not None:
        return str(file.parent / "mlartifacts")
    return (
        None if urlsplit(uri).scheme in SERVERS or uri.startswith("databricks") else str(Path("mlartifacts").absolute())
    )


def sqlite_file(uri: str) -> Path | None:
    """The database file of a SQLite URI, None for any other."""
    if not uri.startswith("sqlite"):
        return None
    return Path(uri.partition(":///")[2].partition("?")[0])


def ui_command(uri: str) -> str | None:
    """What to type to look at the store; None when a server shows it already."""
    if not is_database(uri):
        return None
    try:
        default = locate(None).uri == uri
    except ConfigError:
        default = False
    return f"{_program('accelerator')} mlflow-ui" + ("" if default else f" --uri {shlex.quote(uri)}")


def _program(name: str) -> str:
    """A program of this environment as it can be typed, also when the environment is not activated."""
    beside = Path(sys.executable).with_name(name)
    if shutil.which(name) or not beside.exists():
        return name
    return short(beside)


def run_link(uri: str, experiment_id: str, run_id: str, *, server: str = UI) -> str:
    """The page of one run, opened on its training view.

    Args:
        uri: the store; a server's own address is used where it is one.
        experiment_id: the experiment's id.
        run_id: the run's id.
        server: where the UI of any other store listens; by default, where it does if the port is free.
    """
    return _page(uri, server, f"experiments/{quote(experiment_id)}/runs/{quote(run_id)}")


def runs_link(uri: str, experiment_id: str, *, charts: bool = False, server: str = UI) -> str:
    """The table of an experiment's runs, or their charts; see `run_link`."""
    return _page(
        uri, server, f"experiments/{quote(experiment_id)}/runs", *(["compareRunsMode=CHART"] if charts else [])
    )


def compare_link(uri: str, experiment_id: str, run_ids: Sequence[str], *, server: str = UI) -> str:
    """The page that compares runs of an experiment; see `run_link`."""
    runs, experiments = (quote(json.dumps(ids, separators=(",", ":"))) for ids in (list(run_ids), [experiment_id]))
    # This page of MLflow's finds the runs in what comes first only.
    return _page(uri, server, f"compare-runs?runs={runs}&experiments={experiments}&{VIEW[1:]}", view="")


def _page(uri: str, server: str, route: str, *query: str, view: str = VIEW) -> str:
    base = uri if urlsplit(uri).scheme in SERVERS else server
    return "&".join([f"{base.rstrip('/')}/#/{route}{view}", *query])


def _absolute_sqlite(uri: str) -> str:
    prefix, _, path = uri.partition(":///")
    path, mark, query = path.partition("?")
    if not path or path == ":memory:":
        raise ConfigError(
            f"tracking uri '{uri}' keeps the record in memory only: give a file as sqlite:///path/to/mlflow.db"
        )
    return f"{prefix}:///{Path(path).absolute()}{mark}{query}"
