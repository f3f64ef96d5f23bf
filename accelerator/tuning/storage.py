"""Where Optuna keeps a study: a journal file of its own by default, or a database.

Only the process that drives a study writes to it; anyone may read. Imported where Optuna is needed, and only there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from filelock import FileLock
from optuna import get_all_study_names
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from accelerator.errors import ConfigError
from accelerator.runtime.journal import truncate
from accelerator.runtime.run_directory import JOURNAL as RUN_JOURNAL
from accelerator.tuning.choosing import quiet
from accelerator.utilities.files import short

JOURNAL = "journal"
JOURNAL_FILE = "study.journal"
SQLITE = "sqlite:///"
DATABASES = (SQLITE, "postgresql://", "mysql://", "mariadb://", "oracle://", "mssql://")
DATABASE_SECONDS = 60.0  # to wait for another process that writes


def open_storage(storage: str, folder: Path, key: str = "tune.storage") -> BaseStorage:
    """Open a storage, making it where there is none.

    Args:
        storage: ``journal``: a file in the study's folder; ``sqlite:///<file>`` or any other URL SQLAlchemy knows.
        folder: the study's.
        key: that it was set with, for messages.

    Raises:
        ConfigError: it cannot be opened.
    """
    if storage == JOURNAL:
        return open_journal(folder / JOURNAL_FILE, other="tune.name")
    if "://" not in storage:
        raise ConfigError(f"{key}={storage}: expected journal, or the URL of a database such as sqlite:///study.db")
    from sqlalchemy import event
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

    shown = key
    try:
        url = make_url(storage)
        shown = f"{key}={url.render_as_string(hide_password=True)}"
        sqlite = url.get_backend_name() == "sqlite"
        opened = RDBStorage(storage, {"connect_args": {"timeout": DATABASE_SECONDS}} if sqlite else None)
    except (NoSuchModuleError, ArgumentError) as error:
        raise ConfigError(
            f"{shown}: no such database is known; expected journal, or a URL that begins with {', '.join(DATABASES)}"
        ) from error
    except (SQLAlchemyError, ImportError, RuntimeError) as error:
        raise ConfigError(f"{shown}: {str(error).splitlines()[0]}") from error
    if sqlite:
        # A log ahead of the file, as MLflow's own store has it: a trial takes two thirds of the time, and readers
        # (a dashboard) do not hold the study up.
        event.listen(opened.engine, "connect", _write_ahead)
        opened.engine.dispose()
    return opened


def check_known(folder: Path, name: str, storage: str) -> None:
    """See that a storage that is a file knows the study whose trials stand in the folder.

    With one that is lost, or empty, the study would begin again, and each new trial in the folder of an old one.

    Args:
        folder: the study's.
        name: of the study.
        storage: see `open_storage`.

    Raises:
        ConfigError: it does not know it, or cannot be opened.
    """
    # The folder is looked at first: a process that begins the study meanwhile writes to the storage first.
    trials = sorted(int(path.parent.name) for path in folder.glob(f"*/{RUN_JOURNAL}") if path.parent.name.isdecimal())
    file = _file_of(storage, folder)
    if not trials or file is None:
        return
    if file.exists():  # else it is not made: the user may be about to put it back
        with quiet():
            if name in get_all_study_names(open_storage(storage, folder)):
                return
    held = {1: "trial {}", 2: "trials {} and {}"}.get(len(trials), f"{len(trials)} trials").format(*trials)
    raise ConfigError(
        f"{short(folder)} holds {held}, and its storage ({file.name}) knows no such study: "
        f"put {file.name} back, or give another tune.name=…"
    )


def _file_of(storage: str, folder: Path) -> Path | None:
    """The file a storage is; None for one that a server or memory keeps."""
    if storage == JOURNAL:
        return folder / JOURNAL_FILE
    place = storage.removeprefix(SQLITE).partition("?")[0]
    return Path(place) if storage.startswith(SQLITE) and place and not place.startswith((":", "file:")) else None


def open_journal(file: str | Path, other: str = "file") -> JournalStorage:
    """Open a journal file, making it where there is none.

    Args:
        file: its path.
        other: what to give another of, when it is damaged.

    Raises:
        ConfigError: it is damaged; it is left as it is.
    """
    file = Path(file)
    _check_lines(file, other)
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = _KernelLock(file)
    try:
        return JournalStorage(JournalFileBackend(str(file), lock_obj=lock))
    except (ValueError, KeyError, AssertionError) as error:
        raise ConfigError(f"{file} is damaged, and the study cannot be read: {error}") from error


def _check_lines(file: Path, other: str) -> None:
    """See that every whole line is an entry: Optuna reads over a last one that is none, and writes behind it.

    What follows the last newline is an entry somebody was killed in, or is writing now.
    """
    if not file.exists():
        return
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.endswith(b"\n") and not _is_entry(line):
                raise ConfigError(
                    f"{short(file)}, line {number}: no entry of a study: take the line out, or give another {other}"
                )


def _is_entry(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


class _KernelLock(JournalFileOpenLock):
    """A lock that is free again when the process that held it is dead, and a journal without a torn end.

    Optuna's own lock is a file: one that a killed process leaves behind holds everybody up for half a minute, and half
    a line it has written makes the journal unreadable for good.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = FileLock(f"{file}.lock", poll_interval=0.005)
        if file.exists():
            self.acquire()
            self.release()

    def acquire(self) -> bool:
        """Wait for it."""
        self._lock.acquire()
        truncate(self._file)
        return True

    def release(self) -> None:
        """Give it up."""
        self._lock.release()


def _write_ahead(connection: Any, _: Any) -> None:
    for setting in ("journal_mode = WAL", "synchronous = NORMAL", "busy_timeout = 60000"):
        connection.execute(f"PRAGMA {setting}")
