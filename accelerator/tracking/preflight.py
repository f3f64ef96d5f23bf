"""Whether a run's record can be kept, asked before anything is trained: a file is looked at, a server asked once.

What will not mend by itself is an error. A server that does not answer is none: the tracker failing never stops the
training, whose points wait in its folder until the server is back.
"""

from __future__ import annotations

import configparser
import os
import re
import sqlite3
from base64 import b64encode
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from accelerator.errors import ConfigError
from accelerator.tracking.locations import SERVERS, Location, locate, sqlite_file
from accelerator.tracking.masking import mask_value

if TYPE_CHECKING:
    from requests import Response

TIMEOUT = 3.0  # seconds for a server's answer
REMEDY = "set tracking.uri to a store you may write to"
SPOOLED = "the run goes on; its record is kept in its folder and sent when the server answers"

# As urllib3 and the operating system say it.
_OWN_WORDS = re.compile(
    r"(?i)connection refused|connection reset|remote end closed connection|no route to host|network is unreachable"
    r"|failed to resolve|(read |connect )?timed out"
)
_REVISION = re.compile(r"""^(down_revision|revision)\s*=\s*["'](\w+)["']""", re.MULTILINE)


def check(uri: str | None, experiment: str, artifacts: str | None = None) -> list[str]:
    """Look whether a run can be recorded.

    Args:
        uri: as for `accelerator.tracking.locations.locate`.
        experiment: the experiment's name.
        artifacts: where files are to be kept, if that is not left to the store; only a local folder is looked at.

    Returns:
        Warnings: the record will wait for a store that does not answer now.

    Raises:
        ConfigError: the record would never arrive; each reason, and its remedy.
    """
    location = locate(uri)
    folder = _local(artifacts)
    problems = [] if folder is None else _folder_problems(folder, f"the artifacts' folder {folder}")
    warnings: list[str] = []
    if (file := sqlite_file(location.uri)) is not None:
        problems += _file_problems(file, location.uri, experiment)
    elif urlsplit(location.uri).scheme in SERVERS:
        refused, warnings = _server_problems(location, experiment)
        problems += refused
    if problems:
        raise ConfigError(problems)
    return warnings


def unreachable(uri: str) -> str | None:
    """Why a server does not answer now, in a sentence; None where it does, or is none."""
    location = locate(uri)
    if urlsplit(location.uri).scheme not in SERVERS:
        return None
    answer = _ask(location, "")
    return answer if isinstance(answer, str) else None


def unwritable(uri: str) -> str | None:
    """Why a SQLite file cannot be written, in a sentence; None where it can, or the store is none."""
    location = locate(uri)
    if (file := sqlite_file(location.uri)) is None:
        return None
    found = _file_problems(file, location.uri, "", "name a store you may write to with --uri")
    return "; ".join(found) or None


def no_answer(uri: str, error: Exception) -> str | None:
    """A server that cannot be reached, in a sentence; None where the error tells of something else."""
    found = _OWN_WORDS.search(str(error)) if urlsplit(uri).scheme in SERVERS else None
    return f"{uri} does not answer ({found[0].strip().lower()})" if found else None


def deleted(name: str, experiment_id: str, uri: str) -> str:
    """What to do about an experiment that was deleted in MLflow."""
    return (
        f"experiment '{name}' was deleted in MLflow: restore it with `MLFLOW_TRACKING_URI={uri} mlflow experiments "
        f"restore --experiment-id {experiment_id}`, or choose another name with tracking.experiment"
    )


def _folder_problems(folder: Path, what: str, remedy: str = REMEDY) -> list[str]:
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        return [f"{what} cannot be made: {there} is a file; {remedy}"]
    if not os.access(there, os.W_OK | os.X_OK):
        made = "written" if there == folder else f"made: {there} is not writable"
        return [f"{what} cannot be {made}; {remedy}"]
    return []


def _file_problems(file: Path, uri: str, experiment: str, remedy: str = REMEDY) -> list[str]:
    if not file.exists():
        return _folder_problems(file.parent, f"the folder of the record, {file.parent},", remedy)
    if not file.is_file():
        return [f"tracking.uri={uri}: {file} is not a file; {remedy}"]
    if not os.access(file, os.W_OK):
        return [f"the record {file} is read-only; {remedy}, or make the file writable"]
    if problems := _folder_problems(file.parent, f"the folder of the record, {file.parent},", remedy):
        return problems  # SQLite writes its journal beside the file
    with file.open("rb") as opened:
        beginning = opened.read(16)
    if beginning and beginning != b"SQLite format 3\0":
        return [f"the record {file} is not a SQLite file; {remedy}, or move the file away"]
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=0)) as connection:
            return _database_problems(connection, file, uri, experiment, remedy)
    except sqlite3.OperationalError:  # locked by a writer, or without MLflow's tables yet
        return []
    except sqlite3.DatabaseError as error:
        return [f"the record {file} is damaged: {error}; {remedy}, or put a copy of it in its place"]


def _database_problems(connection: sqlite3.Connection, file: Path, uri: str, experiment: str, remedy: str) -> list[str]:
    versions = connection.execute("SELECT version_num FROM alembic_version").fetchall()
    if len(versions) == 1 and (known := _known_revisions()):
        revision = versions[0][0]
        if revision not in known:
            return [f"the record {file} was made by a newer MLflow than is installed here; {remedy}, or update MLflow"]
        if known[revision]:
            return [
                f"the record {file} was made by an older MLflow: copy the file, then bring it up to date with "
                f"`mlflow db upgrade {uri}`"
            ]
    if os.environ.get("MLFLOW_RUN_ID"):  # the run is there already, in whichever experiment
        return []
    query = "SELECT experiment_id FROM experiments WHERE name = ? AND lifecycle_stage = 'deleted'"
    found = connection.execute(query, [experiment]).fetchone()
    return [deleted(experiment, str(found[0]), uri)] if found else []


def _known_revisions() -> dict[str, bool]:
    """The revisions of MLflow's tables that are known here, and whether a newer one is; without importing MLflow."""
    spec = find_spec("mlflow")
    places = list(spec.submodule_search_locations or ()) if spec else []
    known: dict[str, bool] = {}
    for path in Path(places[0], "store", "db_migrations", "versions").glob("*.py") if places else ():
        words = dict(_REVISION.findall(path.read_text(encoding="utf-8")))
        if revision := words.get("revision"):
            known.setdefault(revision, False)
        if down := words.get("down_revision"):
            known[down] = True
    return known


def _server_problems(location: Location, experiment: str) -> tuple[list[str], list[str]]:
    """Errors and warnings."""
    answer, uri = _ask(location, experiment), location.uri
    if isinstance(answer, str):
        return [], [f"{answer}; {SPOOLED}"]
    status = answer.status_code
    if status in (401, 403):
        if _has_other_login():
            return [], []
        login = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, to ones it takes"
        return [f"{uri} does not let us in ({status}: {_said(answer)}); {login}"], []
    try:
        told: Any = answer.json()
    except ValueError:
        told = None
    if not isinstance(told, dict) or not {"experiment", "error_code"} & told.keys():
        return [f"{uri} is no MLflow server: it answered {status}, {_said(answer)}; {REMEDY}"], []
    found = told.get("experiment", {})
    if found.get("lifecycle_stage") == "deleted" and not os.environ.get("MLFLOW_RUN_ID"):
        return [deleted(experiment, str(found.get("experiment_id")), uri)], []
    return [], []


def _ask(location: Location, experiment: str) -> Response | str:
    """The answer to a question every MLflow server knows, or why there is none now."""
    import requests

    environment = os.environ | location.secrets
    insecure = environment.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1")
    try:
        answer = requests.get(
            f"{location.uri.rstrip('/')}/api/2.0/mlflow/experiments/get-by-name",
            params={"experiment_name": experiment},
            headers=_login(environment),
            timeout=TIMEOUT,
            verify=False if insecure else environment.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or True,
            cert=environment.get("MLFLOW_TRACKING_CLIENT_CERT_PATH"),
        )
    except requests.RequestException as error:
        return no_answer(location.uri, error) or f"{location.uri} does not answer ({type(error).__name__})"
    if answer.status_code >= 500 or answer.status_code == 429:
        return f"{location.uri} answers with {answer.status_code} {answer.reason}"
    return answer


def _login(environment: dict[str, str]) -> dict[str, str]:
    """The header MLflow would log in by; name and password are in the environment, else in the user's file."""
    file = configparser.ConfigParser(interpolation=None)
    try:
        file.read(Path("~/.mlflow/credentials").expanduser())
        section = dict(file["mlflow"]) if "mlflow" in file else {}
    except (configparser.Error, OSError, RuntimeError):
        section = {}
    names = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
    name, password = (environment.get(key) or section.get(key.lower()) for key in names)
    if name and password:
        return {"Authorization": f"Basic {b64encode(f'{name}:{password}'.encode()).decode()}"}
    token = environment.get("MLFLOW_TRACKING_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}


def _has_other_login() -> bool:
    """Whether MLflow logs in by a plug-in, which it alone knows to use."""
    return any(os.environ.get(key) for key in ("MLFLOW_TRACKING_AUTH", "MLFLOW_TRACKING_AWS_SIGV4"))


def _said(answer: Response) -> str:
    """The beginning of an answer, on one line."""
    try:
        told: Any = answer.json()
        text = str(told["message"]) if isinstance(told, dict) and "message" in told else answer.text
    except ValueError:
        text = re.sub(r"<[^>]*>", " ", answer.text)
    text = mask_value(" ".join(text.split()))
    return f"'{text[:120]}{'…' if len(text) > 120 else ''}'" if text else answer.reason or "nothing"


def _local(artifacts: str | None) -> Path | None:
    if artifacts is None:
        return None
    parts = urlsplit(artifacts)
    if parts.scheme not in ("", "file"):
        return None
    return Path(parts.path if parts.scheme else artifacts).absolute()
