"""Where Optuna keeps a study: a journal file of its own by default, or a database.

Only the process that drives a study writes to it; anyone may read. Imported where Optuna is needed, and only there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from filelock import FileLock
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from accelerator.errors import ConfigError
from accelerator.runtime.journal import truncate

JOURNAL = "journal"
JOURNAL_FILE = "study.journal"
DATABASES = ("sqlite:///", "postgresql://", "mysql://", "mariadb://", "oracle://", "mssql://")
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
        return open_journal(folder / JOURNAL_FILE)
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


def open_journal(file: str | Path) -> JournalStorage:
    """Open a journal file, making it where there is none.

    Raises:
        ConfigError: it is damaged.
    """
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = _KernelLock(file)
    try:
        return JournalStorage(JournalFileBackend(str(file), lock_obj=lock))
    except (ValueError, KeyError, AssertionError) as error:
        raise ConfigError(f"{file} is damaged, and the study cannot be read: {error}") from error


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
