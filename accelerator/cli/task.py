"""A run that trains nothing, such as an evaluation: its own folder, its record, its result, like any other run's."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from accelerator.cli.compose.composed import Composed, removed_if_unused
from accelerator.cli.record import RunRecord, about_of, check_store, print_result
from accelerator.runtime.journal import Journal
from accelerator.runtime.run import Result, check_config, write_result
from accelerator.runtime.run_directory import JOURNAL, owned
from accelerator.utilities.files import short


@dataclass
class Task:
    """What the work of such a run is given, and what it says of itself.

    Attributes:
        config: resolved, plain, checked.
        run_dir: the run's folder; nothing but what is kept is written there.
        journal: its metrics and events.
        metrics: what is told at the end, and is on record.
        best: the checkpoint it made, if any.
        tags: more of them, for the record.
        rows: labelled lines for the end of what is printed.
    """

    config: Mapping[str, Any]
    run_dir: Path
    journal: Journal
    metrics: dict[str, float] = field(default_factory=dict)
    best: Path | None = None
    tags: dict[str, Any] = field(default_factory=dict)
    rows: list[tuple[str, str]] = field(default_factory=list)

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Put a file of the run's folder on record.

        Args:
            path: the file.
            folder: where it stands among the run's artifacts.
        """
        self.journal.event("artifact", path=str(path), artifact_path=folder)


def run_task(command: str, composed: Composed, work: Callable[[Task], None], *, name: str | None = None) -> Result:
    """Check the config, work in a folder of its own, and keep the record.

    Args:
        command: what was typed after ``accelerator``.
        composed: the job.
        work: does it; its exceptions end the run as those of a training do.
        name: of the run; by default its model and data say it.
    """
    from accelerator.cli.compose.compose import plain

    with removed_if_unused(composed.run_dir):
        values = plain(composed.config)
        check_config(values)
        check_store(values)
        begin = time.perf_counter()
        with owned(composed.run_dir) as run_dir, Journal(run_dir / JOURNAL) as journal:
            task = Task(values, run_dir, journal)
            about = replace(about_of(command, composed, values), name=name)
            record = RunRecord(values, about, run_dir, tracker=composed.tracker)
            with record.kept(journal, {}):
                work(task)
                journal.metrics(task.metrics, 0)
                journal.event("tags", values=task.tags)
            result = Result(
                metrics=task.metrics,
                run_dir=run_dir,
                best=task.best,
                last=task.best,
                steps=0,
                work=0.0,
                seconds=time.perf_counter() - begin,
                run_id=record.tracked.run_id if record.tracked else None,
            )
            write_result(result)
    print_result(result, {}, [("run directory", short(run_dir)), *task.rows, *record.where])
    return result
