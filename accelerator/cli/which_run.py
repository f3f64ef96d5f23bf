"""Which run is meant: the newest here, one by its folder or a file of it, or by its MLflow id."""

from __future__ import annotations

import re
from pathlib import Path

from accelerator.errors import CheckpointError
from accelerator.runtime.run_directory import CHECKPOINTS
from accelerator.tracking import spool

# Where runs stand below the working directory, unless hydra.run.dir or hydra.sweep.dir says otherwise.
PLACES = ("outputs/*/*", "multirun/*/*/*", "pipelines/*/*", "studies/*/*")

SHORTEST_ID = 6  # digits; shorter words of them could be anything

_ID = re.compile(r"[0-9a-f]{1,32}")


def find(wanted: str, said: str) -> Path:
    """A run's folder, or a checkpoint file.

    Args:
        wanted: ``last``, ``best``, a path, or an MLflow run id (its first digits will do).
        said: how the user put it, for messages.

    Raises:
        CheckpointError: there is no such run, or it has saved nothing.
    """
    if wanted in ("last", "best"):
        run = newest(said)
        return run if wanted == "last" else best(run, said)
    path = Path(wanted).absolute()
    if path.name == CHECKPOINTS:
        path = path.parent
    if not path.exists():
        if _ID.fullmatch(wanted.lower()) is None:
            raise CheckpointError(f"{said}: no such file or folder")
        path = _by_id(wanted.lower(), said)
    if path.is_dir() and not (path / CHECKPOINTS).is_dir():
        raise CheckpointError(f"{said}: this folder has no {CHECKPOINTS}/; nothing was saved in it")
    return path


def newest(said: str) -> Path:
    """The run here, plain or of a sweep, that saved a checkpoint last.

    Raises:
        CheckpointError: none did.
    """
    runs = [run for run in folders() if (run / CHECKPOINTS).is_dir() and any((run / CHECKPOINTS).iterdir())]
    if not runs:
        raise CheckpointError(f"{said}: no run with a checkpoint {_searched()}")
    return max(runs, key=lambda run: (run / CHECKPOINTS).stat().st_mtime)


def best(run: Path, said: str) -> Path:
    """The best checkpoint of a run.

    Raises:
        CheckpointError: none was rated.
    """
    from accelerator.runtime.trained import handler_of

    handler = handler_of(run)
    if (path := handler.best()) is None:
        raise CheckpointError(f"{said}: no checkpoint in {run / CHECKPOINTS} has a value of {handler.monitor}")
    return path


def run_id(run: Path) -> str | None:
    """The run's MLflow id, as the uploader noted it when it made the run; None if there is no record (yet)."""
    state = spool.load(run / spool.STATE, spool.State)
    return state.run_id if state else None


def folders() -> list[Path]:
    """The folders of runs here, plain or of a sweep."""
    return [path.absolute() for place in PLACES for path in Path().glob(place) if path.is_dir()]


def _by_id(prefix: str, said: str) -> Path:
    if len(prefix) < SHORTEST_ID:
        raise CheckpointError(
            f"{said}: no such file or folder; if it is an MLflow run id, give at least {SHORTEST_ID} of its digits"
        )
    found = {run: id for run in folders() if (id := run_id(run)) is not None and id.startswith(prefix)}
    if len(found) == 1:
        return next(iter(found))
    if not found:
        raise CheckpointError(
            f"{said}: no such file or folder, and no run {_searched()} has an MLflow id that begins so; give the run's "
            "folder"
        )
    rows = "".join(f"\n  {id}  {run.relative_to(Path.cwd())}" for run, id in sorted(found.items()))
    raise CheckpointError(f"{said}: {len(found)} runs have an MLflow id that begins so; give more of its digits:{rows}")


def _searched() -> str:
    return f"under {' or '.join(PLACES)} in {Path.cwd()}"
