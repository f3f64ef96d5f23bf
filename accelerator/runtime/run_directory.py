"""A run's folder belongs to one process at a time."""

from __future__ import annotations

import json
import os
import socket
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from accelerator.errors import AcceleratorError, RunDirectoryError

# What stands in it.
CHECKPOINTS, CONFIG, OVERRIDES = "checkpoints", "config.yaml", "overrides.yaml"
JOURNAL, RESULT, ERROR, PLOTS = "journal.jsonl", "result.json", "error.txt", "plots"
MODEL = "model"
LOCK = ".lock"


@contextmanager
def owned(directory: Path, choose: str = "set hydra.run.dir to") -> Iterator[Path]:
    """Make the folder if need be, and keep every other run out of it while inside.

    Args:
        directory: the folder.
        choose: how one comes to another folder, for messages.

    Raises:
        RunDirectoryError: it cannot be written, or another run owns it (named by process and machine).
    """
    lock = FileLock(directory / LOCK, timeout=0.1)  # `is_owned` holds it for less
    owner = directory / ".owner.json"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        owner.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
    except Timeout as error:
        raise RunDirectoryError(
            f"{directory} is in use by {_describe(owner)}; wait for it, stop it, or {choose} another folder"
        ) from error
    except (OSError, NotImplementedError) as error:
        lock.release()
        reason = error.strerror if isinstance(error, OSError) else error
        raise RunDirectoryError(
            f"cannot write the run directory {directory}: {reason}; {choose} a folder you may write to"
        ) from error
    try:
        yield directory
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def is_owned(directory: Path) -> bool:
    """Whether a living process, on any machine that locks files with ours, owns the run."""
    return is_locked(directory / LOCK)


def is_locked(path: Path) -> bool:
    """Whether a process holds a file lock; looks by taking it for an instant, and makes no file."""
    if not path.exists():
        return False
    try:
        with FileLock(path, blocking=False):
            return False
    except Timeout:
        return True
    except (OSError, NotImplementedError):  # nobody can have locked it
        return False


def write_fault(directory: Path, error: BaseException) -> None:
    """The traceback, for later; our own errors and Ctrl-C say enough. Of several ranks, that which failed first."""
    if isinstance(error, AcceleratorError | KeyboardInterrupt):
        return
    with suppress(FileExistsError), (directory / ERROR).open("x") as file:
        file.write("".join(traceback.format_exception(error)))


def _describe(owner: Path) -> str:
    try:
        facts = json.loads(owner.read_text())
        return f"process {facts['pid']} on {facts['host']}"
    except (OSError, ValueError, KeyError):
        return "another run"
