"""Replaying what runs have left to send, from this process; here MLflow is imported when there is something to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from accelerator.errors import ConfigError
from accelerator.tracking import spool
from accelerator.tracking.backlog import LIVE, Backlog, look
from accelerator.tracking.preflight import unreachable


@dataclass(frozen=True)
class Outcome:
    """What became of one run's backlog.

    Attributes:
        before: what it had left.
        after: what it has left now.
        problem: why not everything arrived; None where it did.
    """

    before: Backlog
    after: Backlog
    problem: str | None

    @property
    def points(self) -> int:
        """How many metric points have arrived; those the store had already count too."""
        return self.before.points - self.after.points


def sync(run_dirs: Sequence[Path], uri: str | None = None) -> Iterator[Outcome]:
    """Send what each run has left, in the order given; what has arrived already is not sent again.

    A store that does not answer is asked once, however many runs wait for it. What the upload says goes to the run's
    own log.

    Args:
        run_dirs: folders that hold a run's record.
        uri: another store than the one each run was started with; it gets the whole run.
    """
    silent: dict[str, str | None] = {}
    for run_dir in run_dirs:
        before = look(run_dir)
        if before is None:
            continue
        if before.condition == LIVE:
            yield Outcome(before, before, "it is running: its own uploader sends it")
            continue
        store = uri or before.uri
        if store not in silent:
            silent[store] = unreachable(store)
        problem = silent[store] or _upload(run_dir, uri)
        after = look(run_dir)
        assert after is not None
        yield Outcome(before, after, problem)


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
    state = spool.load(run_dir / spool.STATE, spool.State)
    return (state and state.error) or f"see {run_dir / spool.LOG}"
