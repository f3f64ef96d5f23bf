"""What a store that is read has to say when it does not answer, in a sentence."""

from __future__ import annotations

import logging
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager

from accelerator.errors import UserError
from accelerator.tracking.locations import sqlite_file
from accelerator.tracking.masking import mask_value
from accelerator.tracking.mlflow_run import REFUSALS
from accelerator.tracking.preflight import unwritable

EXAMPLE = "\"metrics.'test/loss' < 0.1 and params.model.name = 'mlp'\""

# As urllib3 and the operating system say it.
_NO_ANSWER = re.compile(
    r"(?i)connection refused|timed out|name or service not known|failed to resolve|no route to host"
    r"|network is unreachable|connection reset|remote end closed connection|temporary failure in name resolution"
)

# As SQLite says it; the second, where the folder is not writable in which it keeps its journal.
_READ_ONLY = re.compile(r"attempt to write a readonly database|unable to open database file")

_TOLD_TWICE = "mlflow.store.db.utils"  # logs a traceback of what it raises


@contextmanager
def answering(uri: str, condition: str = "") -> Iterator[None]:
    """Turn what a store raises into a sentence.

    Args:
        uri: the store.
        condition: what was searched for.
    """
    logger = logging.getLogger(_TOLD_TWICE)
    logger.addFilter(_nothing)
    try:
        yield
    except UserError:
        raise
    except ModuleNotFoundError as error:
        raise UserError(f"{uri} needs the package {error.name}, which is not installed") from error
    except Exception as error:  # MLflow, SQLAlchemy and the network raise what they like
        code = getattr(error, "error_code", None)
        text = mask_value(" ".join(str(getattr(error, "message", None) or error).split()))
        if condition and code == "INVALID_PARAMETER_VALUE":
            raise UserError(f"MLflow does not read the filter {condition!r}: {text}; write it as {EXAMPLE}") from error
        if code in REFUSALS:
            raise UserError(f"{uri}: {text}") from error
        if code in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
            raise UserError(
                f"{uri} refuses: {text[-200:]}; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            ) from error
        if "out-of-date database schema" in text:
            raise UserError(
                f"{uri} was made by another version of MLflow; this brings it up to date: mlflow db upgrade {uri}"
            ) from error
        if (cause := _NO_ANSWER.search(text)) is not None:
            raise UserError(
                f"{uri} does not answer ({cause[0]}): start it, or name another store with --uri or MLFLOW_TRACKING_URI"
            ) from error
        if _READ_ONLY.search(text) is not None:
            raise UserError(f"the store {uri} cannot be written: {_why_not(uri)}") from error
        raise UserError(f"the store {uri} cannot be read: {text[:300]}") from error
    finally:
        logger.removeFilter(_nothing)


def _nothing(_: logging.LogRecord) -> bool:
    return False


def _why_not(uri: str) -> str:
    return unwritable(uri) or "it is read-only; name a store you may write to with --uri"


def check_file(uri: str) -> None:
    """See that a SQLite store is there: MLflow would make the file, or its tables in one that is not its own.

    Raises:
        UserError: it is not there, cannot be read, or is not MLflow's.
    """
    if (file := sqlite_file(uri)) is None:
        return
    if not file.exists():
        from accelerator.tracking.backlog import waiting_here

        raise UserError(
            f"there is no store {file}: no run was recorded here yet (accelerator train makes one), or it is "
            f"elsewhere: name it with --uri or MLFLOW_TRACKING_URI{waiting_here()}"
        )
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=20)) as connection:
            found = connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'runs'").fetchone()
    except sqlite3.Error as error:
        raise UserError(f"the store {file} cannot be read: {error}") from error
    if found is None:
        raise UserError(f"{file} is a SQLite file, but not MLflow's: there is no table of runs in it")
