"""Where the files of runs are kept: a folder, or a store elsewhere by its URI (s3, gs, wasbs, sftp, …).

What would keep files from arriving is told before a training starts, in a sentence: a package that is not installed, a
bucket that is not there, credentials that are wrong. MLflow, which does the copying, is not imported here, and a
store's own package only for its URIs.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

from accelerator.errors import ConfigError, did_you_mean
from accelerator.tracking.locations import artifact_folder, sqlite_file
from accelerator.tracking.masking import MASK, mask_value

KEY = "tracking.artifacts"
TIMEOUT = 2.5  # seconds to connect, and again to be answered
WRITTEN = ".accelerator-can-write"  # what is written into a store, and removed, to see that it can be

# The module a store needs, and the extra that brings it.
_NEEDS = {
    "s3": ("boto3", "s3"),
    "gs": ("google.cloud.storage", "gs"),
    "wasbs": ("azure.storage.blob", "azure"),
    "abfss": ("azure.storage.filedatalake", "azure"),
    "sftp": ("pysftp", "sftp"),
}
_MLFLOW_ALONE = ("mlflow-artifacts", "dbfs", "ftp", "hdfs", "http", "https")  # served, or asked for no more than a name

_WRONG_CREDENTIALS = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "AuthFailure")
_NOT_ALLOWED = ("AccessDenied", "403", "AllAccessDisabled")


def settle(wanted: str | None, store: str, experiment: str) -> tuple[str | None, str | None]:
    """Where a run's files will go, looked at before it starts.

    Args:
        wanted: the config's ``tracking.artifacts``.
        store: the tracking store's URI.
        experiment: the name of the run's experiment.

    Returns:
        Where a new experiment keeps its files (None leaves it to the server), and a sentence to be told if the
        experiment is there already and keeps them elsewhere.

    Raises:
        ConfigError: files would not arrive where they are to go.
    """
    place = absolute(wanted) if wanted else artifact_folder(store)
    fixed = place_of_experiment(store, experiment)
    target = fixed or place
    if target is not None and (problem := check(target)) is not None:
        raise ConfigError(problem)
    if wanted and fixed is not None and not same_place(fixed, place):
        return place, elsewhere(experiment, fixed)
    return place, None


def absolute(wanted: str) -> str:
    """A place by an address that holds in any working directory.

    Raises:
        ConfigError: it holds a password, or is of no kind that MLflow writes to.
    """
    parts = urlsplit(wanted)
    if parts.password:
        shown = wanted.replace(f":{parts.password}@", f":{MASK}@")
        raise ConfigError(
            f"{KEY}={shown} holds a password, which the record would show to everybody: leave it out and let the store "
            "find it elsewhere (a key in ~/.ssh/config for sftp, environment variables for the others)"
        )
    if parts.scheme in ("", "file"):
        return str(_folder(wanted).absolute())
    known = (*_NEEDS, *_MLFLOW_ALONE)
    if parts.scheme not in known:
        raise ConfigError(
            f"{KEY}={wanted}: MLflow keeps files in no '{parts.scheme}' store{did_you_mean(parts.scheme, known)}"
        )
    return wanted


def check(place: str) -> str | None:
    """Why files cannot be written to a place, and what to do about it; None if nothing speaks against it.

    An S3 bucket is written to, a folder looked at, an SFTP server knocked at; of the other stores only the package is
    asked for. It takes at most 5 seconds.
    """
    scheme = urlsplit(place).scheme
    if scheme in ("", "file"):
        return _check_folder(place)
    if scheme in _NEEDS:
        module, extra = _NEEDS[scheme]
        if not _installed(module):
            return (
                f"{KEY}={place} needs the package {module}: install it with pip install 'accelerator-platform[{extra}]'"
            )
    if scheme == "s3":
        return _check_s3(place)
    if scheme == "sftp":
        return _check_sftp(place)
    return None


def place_of_experiment(store: str, experiment: str) -> str | None:
    """Where an experiment that is there keeps its files; None if there is none, or only MLflow could tell."""
    file = sqlite_file(store)
    if file is None or not file.exists():
        return None
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=1)) as database:
        found = database.execute("select artifact_location from experiments where name = ?", (experiment,)).fetchone()
        return found[0] if found else None
    return None


def same_place(one: str | None, other: str | None) -> bool:
    """Whether two addresses mean the same place."""
    return _plain(one) == _plain(other)


def elsewhere(experiment: str, fixed: str) -> str:
    """What is told where an experiment does not follow ``tracking.artifacts``."""
    return (
        f"experiment '{experiment}' keeps its files in {fixed}, as it did when it was made: {KEY} holds for new "
        "experiments only; to use it, set tracking.experiment to another name"
    )


def explain(place: str, error: BaseException) -> str:
    """An error of a store in a clause, with what to do about it."""
    parts = urlsplit(place)
    name, text = type(error).__name__, mask_value(" ".join(str(error).split()))
    code = _code(error)
    endpoint = f" at {_endpoint()}" if parts.scheme == "s3" and _endpoint() else ""
    if name in ("NoCredentialsError", "PartialCredentialsError"):
        return "there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run aws configure"
    if code == "NoSuchBucket":
        return f"there is no bucket '{parts.netloc}'{endpoint}: make it, or give another one"
    if code in _WRONG_CREDENTIALS:
        return f"the credentials are refused ({code}){endpoint}: check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    if code in _NOT_ALLOWED:
        return f"permission is denied ({code}){endpoint}: these credentials may not write to '{parts.netloc}'"
    if name in ("EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ConnectionClosedError"):
        return f"the store does not answer{endpoint} ({name}): check the address and the network"
    if name in ("AuthenticationException", "BadAuthenticationType", "PasswordRequiredException"):
        return f"{parts.hostname} does not let us in ({text}): check the user and the key in ~/.ssh/config"
    if name in ("HostKeysException", "SSHException") and "host" in text.lower() and "key" in text.lower():
        return f"{parts.hostname} is not known here ({text}): log in once with ssh {parts.hostname}"
    if isinstance(error, OSError):
        return f"{error.strerror or text}: check the address and the permissions"
    return f"{name}: {text[:300]}"


def _check_folder(place: str) -> str | None:
    folder = _folder(place)
    nearest = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    if not nearest.is_dir():
        return f"{KEY}={place}: {nearest} is a file; give a folder"
    if not os.access(nearest, os.W_OK | os.X_OK):
        return f"{KEY}={place}: {nearest} cannot be written to; give another folder, or change its permissions"
    return None


def _check_s3(place: str) -> str | None:
    import boto3
    from botocore.config import Config

    parts = urlsplit(place)
    settings = Config(connect_timeout=TIMEOUT, read_timeout=TIMEOUT, retries={"total_max_attempts": 1})
    key = "/".join(part for part in (parts.path.strip("/"), WRITTEN) if part)
    try:
        # As MLflow finds the store. A session of its own: the default one never looks at the environment again.
        client = boto3.Session().client(
            "s3",
            endpoint_url=os.environ.get("MLFLOW_S3_ENDPOINT_URL") or None,
            verify=False if os.environ.get("MLFLOW_S3_IGNORE_TLS", "").lower() in ("1", "true") else None,
            config=settings,
        )
        client.put_object(Bucket=parts.netloc, Key=key, Body=b"")
    except Exception as error:  # botocore makes its classes as it goes
        return f"{KEY}={place}: {explain(place, error)}"
    with suppress(Exception):  # who may write may not be allowed to delete
        client.delete_object(Bucket=parts.netloc, Key=key)
    return None


def _check_sftp(place: str) -> str | None:
    import socket

    parts = urlsplit(place)
    try:
        import_module("pysftp")
    except ImportError as error:  # it is there, but with a paramiko that is too new for it
        return (
            f"{KEY}={place}: pysftp cannot be used ({error}): install what it needs with pip install "
            "'accelerator-platform[sftp]'"
        )
    try:
        socket.create_connection((parts.hostname or "localhost", parts.port or 22), TIMEOUT).close()
    except OSError as error:
        return f"{KEY}={place}: {explain(place, error)}"
    return None


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its parent is not there
        return False


def _folder(place: str) -> Path:
    return Path(unquote(urlsplit(place).path) if place.startswith("file:") else place)


def _plain(place: str | None) -> str | None:
    if place is None or urlsplit(place).scheme not in ("", "file"):
        return place and place.rstrip("/")
    return str(_folder(place).absolute())


def _code(error: BaseException) -> str:
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def _endpoint() -> str | None:
    names = ("MLFLOW_S3_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    return next((mask_value(os.environ[name]) for name in names if os.environ.get(name)), None)
