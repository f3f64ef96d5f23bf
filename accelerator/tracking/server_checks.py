"""What keeps a server from serving a store, told before it is started; and why one ended, from its log."""

from __future__ import annotations

import os
import re
import socket
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from accelerator.errors import ConfigError
from accelerator.tracking.locations import is_database, sqlite_file
from accelerator.tracking.masking import mask_value
from accelerator.tracking.server_process import LOOPBACK, is_loopback

DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
REACH_SECONDS = 3.0
USERS = "basic_auth.db"  # where MLflow keeps them, in the server's working directory

_ERROR = re.compile(r"[\w.]+(Error|Exception)\b|.*\bERROR\b")
_PREFIX = re.compile(r"^[\d/: -]*(ERROR|CRITICAL)[ \w.]*: +")


def check_store(uri: str) -> None:
    """See whether a server could serve the store.

    Raises:
        ConfigError: it could not, and why.
    """
    if not is_database(uri):
        raise ConfigError(f"{uri} is a server's already: there is none to start")
    parts = urlsplit(uri)
    if (file := sqlite_file(uri)) is not None:
        _check_file(file)
    elif parts.hostname is not None:
        port = parts.port or DATABASE_PORTS[parts.scheme.partition("+")[0]]
        try:
            socket.create_connection((parts.hostname, port), timeout=REACH_SECONDS).close()
        except OSError as error:
            raise ConfigError(
                f"the database of {uri} cannot be reached: {error.strerror or error}; is it running, and is its "
                "address right?"
            ) from error


def check_auth(host: str, folder: Path) -> None:
    """See whether MLflow could ask for a login.

    Args:
        host: the address the server shall be bound to.
        folder: its working directory.

    Raises:
        ConfigError: it could not, and what is missing.
    """
    local = is_loopback(host)
    what = "--auth needs" if local else f"--host {host} lets other machines in, and that needs a login:"
    instead = "" if local else f"; or leave --host out and come by ssh -L 5000:{LOOPBACK}:5000"
    if find_spec("flask_wtf") is None:
        raise ConfigError(
            f"{what} MLflow's basic auth, whose package Flask-WTF is not installed: pip install 'mlflow[auth]'{instead}"
        )
    known = ("MLFLOW_AUTH_ADMIN_PASSWORD", "MLFLOW_AUTH_CONFIG_PATH")
    if not any(os.environ.get(name) for name in known) and not (folder / USERS).exists():
        raise ConfigError(
            f"{what} MLflow's basic auth, which has no user yet: set MLFLOW_AUTH_ADMIN_PASSWORD to the password that "
            f"the user 'admin' shall have, of 12 characters at least{instead}"
        )


def reason(log: Path) -> str:
    """The line of a server's log that tells why it ended, without secrets."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    told = [line for line in lines if _ERROR.match(line)] or lines
    return mask_value(_PREFIX.sub("", told[-1]))[:500] if told else "it said nothing"


def _check_file(file: Path) -> None:
    folder = file.parent
    if not folder.is_dir():
        raise ConfigError(
            f"there is no folder {folder}: make it, or name the store with --uri sqlite:///path/to/mlflow.db"
        )
    for path in (folder, file):
        if path.exists() and not os.access(path, os.W_OK):
            raise ConfigError(f"{path} is read-only, and MLflow's server writes to it; copy the store elsewhere")
    if not file.exists():
        return
    if not file.is_file():
        raise ConfigError(f"{file} is no file: name the database, as in --uri sqlite:///path/to/mlflow.db")
    with file.open("rb") as opened:
        head = opened.read(16)
    if head and head != b"SQLite format 3\0":
        raise ConfigError(f"{file} is no SQLite database: name the store with --uri sqlite:///path/to/mlflow.db")
