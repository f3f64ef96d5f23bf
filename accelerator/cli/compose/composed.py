"""A composed config: what is asked of one job, and the folder it is given."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from accelerator.tracking.fleet import Fleet
    from accelerator.tracking.tracker import Tracker

PLACES = ("outputs", "multirun", "studies")  # where the folders of runs stand
FAILURES = "failures.jsonl"  # in a sweep's folder while it runs: a line from each job that failed


@dataclass(frozen=True)
class Composed:
    """What is asked of one job.

    Attributes:
        config: composed; Hydra's own part may be in it.
        run_dir: the job's folder.
        overrides: what it was composed with.
        choices: the option of each config group.
        files: what it was composed of; see `accelerator.cli.compose.compose.composition`.
        sweep: the folder of the sweep it is a job of.
        fleet: what uploads its record together with those of other jobs; None: it has an uploader of its own.
    """

    config: DictConfig
    run_dir: Path
    overrides: Sequence[str]
    choices: dict[str, Any]
    files: list[dict[str, str]]
    sweep: Path | None = None
    fleet: Fleet | None = None

    @property
    def tracker(self) -> Callable[..., Tracker]:
        """What makes the tracker of its record; see `accelerator.tracking.record.RunRecord`."""
        from accelerator.tracking.fleet import FleetTracker
        from accelerator.tracking.tracker import Tracker

        return Tracker if self.fleet is None else partial(FleetTracker, fleet=self.fleet)


@contextmanager
def removed_if_unused(run_dir: Path) -> Iterator[None]:
    """A run that never started leaves no folder behind."""
    try:
        yield
    except BaseException:
        with suppress(OSError):
            left = {path.name for path in run_dir.iterdir()}
            if left <= {".lock"}:
                shutil.rmtree(run_dir)
                for parent in list(run_dir.parents)[:2]:
                    if parent.name in PLACES or parent.parent.name in PLACES:
                        os.rmdir(parent)
        raise
