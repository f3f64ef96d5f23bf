"""Replaying what runs have left to send, from this process; here MLflow is imported when there is something to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from accelerator.errors import ConfigError
from accelerator.tracking import spool
from accelerator.tracking.backlog import LIVE, Backlog, look
from accelerator.tracking.locations import locate
from accelerator.tracking.preflight import unreachable, unwritable


@dataclass(frozen=True)
class Outcome:
    """What became of one run's backlog.

    Attributes:
        before: what it had left.
        after: what it has left now.
        problem: why not everything arrived; None where it did.
        mistaken: waiting will not mend that.
    """

    before: Backlog
    after: Backlog
    problem: str | None
    mistaken: bool = False

    @property
    def points(self) -> int:
        """How many metric points have arrived; those the store had already count too."""
        return self.before.points - self.after.points


def sync(run_dirs: Sequence[Path], uri: str | None = None) -> Iterator[Outcome]:
    """Send what each run has left, a whole before its parts; what has arrived already is not sent again.

    A store that does not answer is asked once, however many runs wait for it. What the upload says goes to the run's
    own log.

    Args:
        run_dirs: folders that hold a run's record.
        uri: another store than the one each run was started with; it gets the whole run.

    Raises:
        ConfigError: the store that is named is none, or cannot be written.
    """
    named = None if uri is None else locate(uri).uri
    if uri is not None and (problem := unwritable(uri)) is not None:
        raise ConfigError(problem)
    silent: dict[str, str | None] = {}
    locked: dict[str, str | None] = {}
    missing: set[Path] = set()
    for run_dir in _wholes_first(run_dirs):
        before = look(run_dir, named)
        if before is None:
            continue
        if before.condition == LIVE:
            missing.add(run_dir)
            yield Outcome(before, before, "it is running: its own uploader sends it")
            continue
        store = uri or before.uri
        if store not in silent:
            silent[store], locked[store] = unreachable(store), unwritable(store)
        problem = silent[store] or locked[store]
        if problem is None and named is not None and (whole := _whole(run_dir)) in missing:
            problem = f"{whole}, which it is a part of, has not arrived there"
        problem = problem or _upload(run_dir, uri)
        if problem is not None:
            missing.add(run_dir)
        after = look(run_dir, named)
        assert after is not None
        yield Outcome(before, after, problem, mistaken=locked[store] is not None)


def _wholes_first(run_dirs: Sequence[Path]) -> list[Path]:
    """The folders in their order, but each after the one its run is a part of."""
    left, ordered = dict.fromkeys(run_dirs), []
    while left:
        chain = [next(iter(left))]
        while (whole := _whole(chain[-1])) in left and whole is not None and whole not in chain:
            chain.append(whole)
        for run_dir in reversed(chain):
            del left[run_dir]
            ordered.append(run_dir)
    return ordered


def _whole(run_dir: Path) -> Path | None:
    """The folder of the run that this one is a part of."""
    settings = spool.load(run_dir / spool.SETTINGS, spool.Settings)
    return Path(settings.part_of) if settings is not None and settings.part_of is not None else None


def _upload(run_dir: Path, uri: str | None) -> str | None:
    from accelerator.tracking.uploader import DONE, upload

    try:
        with (run_dir / spool.LOG).open("a") as log, redirect_stdout(log), redirect_stderr(log):
            code = upload(run_dir, uri, patience=0.0)
    except ConfigError as error:
        return str(error)
    except OSError as error:
        return f"{error.filename or run_dir}: {error.strerror}"
    if code == DONE:
        return None
    after = look(run_dir, None if uri is None else locate(uri).uri)
    return (after and after.error) or f"see {run_dir / spool.LOG}"
