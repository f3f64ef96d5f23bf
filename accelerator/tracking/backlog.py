"""What runs have left to send: looked up in their folders, without MLflow.

A run is *live* while its training or its uploader is at work. One that is not, and has not said how it ended, is an
*orphan*: training and uploader were both killed, and MLflow shows it as running until somebody replays its journal.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from accelerator.runtime.run_directory import CHECKPOINTS, PLOTS, is_locked, is_owned
from accelerator.tracking import spool

ROOTS = ("outputs", "multirun", "pipelines", "studies")
DEPTH = 6  # folders below a root in which runs are looked for
PASSED_OVER = (CHECKPOINTS, PLOTS, "artifacts", "__pycache__")

LIVE, ORPHAN, WAITING, REFUSED, SENT = "running", "orphan", "waiting", "refused", "sent"


@dataclass(frozen=True)
class Backlog:
    """What one run has left to send.

    Attributes:
        run_dir: its folder.
        uri: the store, without credentials.
        run_id: the MLflow run; None before it is made.
        condition: ``running``, ``orphan``, ``waiting`` (it has ended, something is left), ``refused`` (the store will
            not take it) or ``sent`` (nothing is left).
        status: what the run last said of itself: RUNNING, FINISHED, FAILED or KILLED.
        points: metric points that have not arrived.
        files: artifacts that have not.
        closed: the status its MLflow run was ended with; None while that shows it as running.
        error: why the last attempt failed.
    """

    run_dir: Path
    uri: str
    run_id: str | None
    condition: str
    status: str
    points: int
    files: int
    closed: str | None
    error: str | None

    @property
    def left(self) -> bool:
        """Whether `accelerator tracking sync` has something to do."""
        return self.condition in (ORPHAN, WAITING, REFUSED)


def look(run_dir: Path, uri: str | None = None) -> Backlog | None:
    """What a run's folder has left to send; None where it holds no record.

    Args:
        run_dir: the folder.
        uri: the store, without credentials; the run's own by default.
    """
    settings = spool.load(run_dir / spool.SETTINGS, spool.Settings)
    if settings is None:
        return None
    uri = uri or settings.uri
    state = spool.load(spool.state_file(run_dir, uri, settings.uri), spool.State) or spool.State()
    unsent = spool.unsent(run_dir / settings.journal, state)
    return Backlog(
        run_dir=run_dir,
        uri=uri,
        run_id=state.run_id,
        condition=_condition(run_dir, state, unsent),
        status=unsent.status,
        points=unsent.points,
        files=unsent.files,
        closed=state.closed,
        error=state.error,
    )


def below(folder: Path, *, depth: int = DEPTH) -> Iterator[Path]:
    """The folders below one, itself included, that hold a run's record; the newest date first."""
    if (folder / spool.SETTINGS).exists():
        yield folder
    if depth == 0:
        return
    try:
        with os.scandir(folder) as entries:
            names = [e.name for e in entries if e.is_dir(follow_symlinks=False) and not e.name.startswith(".")]
    except OSError:
        return
    for name in sorted(set(names).difference(PASSED_OVER), reverse=True):
        yield from below(folder / name, depth=depth - 1)


def waiting_here() -> str:
    """A clause on runs below the working directory whose record is in their folders only; empty without any."""
    count = sum(bool((record := look(run)) and record.left) for root in ROOTS for run in below(Path(root)))
    if not count:
        return ""
    waiting = "1 run here waits" if count == 1 else f"{count} runs here wait"
    return f"; the record of {waiting} to be sent: accelerator tracking sync"


def left_behind(run_dir: Path, uri: str, *, most: int = 20, seconds: float = 1.0) -> list[Path]:
    """Earlier runs beside this one whose record in the same store is unfinished, and whose processes are gone.

    Args:
        run_dir: a run's folder. Runs beside it are those below the nearest of `ROOTS` around it, else those in its
            parent folder.
        uri: the store.
        most: how many are returned.
        seconds: when to stop looking.
    """
    around = [folder for folder in run_dir.parents if folder.name in ROOTS]
    found: list[Path] = []
    limit = time.monotonic() + seconds
    for other in below(around[0]) if around else below(run_dir.parent, depth=1):
        if time.monotonic() > limit or len(found) == most:
            break
        if other != run_dir and _is_left_behind(other, uri):
            found.append(other)
    return found


def _is_left_behind(run_dir: Path, uri: str) -> bool:
    settings = spool.load(run_dir / spool.SETTINGS, spool.Settings)
    if settings is None or settings.uri != uri:
        return False
    journal, state = run_dir / settings.journal, spool.load(run_dir / spool.STATE, spool.State)
    if state is not None and (state.refused or _is_over(journal, state)):
        return False
    return journal.exists() and not _is_live(run_dir)


def _is_over(journal: Path, state: spool.State) -> bool:
    """What `Unsent.nothing` tells, for less: most runs are over."""
    with suppress(OSError):
        if state.closed and not state.artifacts and journal.stat().st_size == state.offset:
            return True
    return spool.unsent(journal, state).nothing


def _condition(run_dir: Path, state: spool.State, unsent: spool.Unsent) -> str:
    if unsent.nothing:
        return SENT
    if _is_live(run_dir):
        return LIVE
    if state.refused:
        return REFUSED
    return WAITING if unsent.status in spool.FINAL else ORPHAN


def _is_live(run_dir: Path) -> bool:
    return is_owned(run_dir) or is_locked(run_dir / spool.LOCK)
