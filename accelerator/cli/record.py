"""Connects a command with its record (`accelerator.tracking.record`), and says at the end where to look."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerator.cli.hydra_utils.monitor import Monitor
from accelerator.errors import Terminated, UserError
from accelerator.runtime.callbacks.base import Callback
from accelerator.runtime.checkpoint.meta_handler import fingerprint, read_meta
from accelerator.runtime.journal import Journal
from accelerator.runtime.run_directory import CHECKPOINTS, JOURNAL, MODEL, owned, write_fault
from accelerator.tracking.record import About, RunRecord, check_store
from accelerator.tracking.tracker import Tracker
from accelerator.utilities.files import short
from accelerator.utilities.quantities import measured

if TYPE_CHECKING:
    from accelerator.cli.compose.composed import Composed
    from accelerator.runtime.context.context import Context
    from accelerator.runtime.run import Result

__all__ = ["About", "Record", "RunRecord", "about_of", "check_store", "print_result"]


def about_of(command: str, composed: Composed, values: Mapping[str, Any]) -> About:
    """What a composed job tells.

    Args:
        command: what was typed after ``accelerator``.
        composed: the job.
        values: its config, resolved, plain.
    """
    from accelerator.cli.compose.compose import plain
    from accelerator.cli.compose.schema import SECTIONS_OF
    from accelerator.cli.resume import computing, recorded

    parent = values["tracking"]["parent"]
    return About(
        command,
        plain(composed.config, resolve=False),
        recorded(composed.overrides),
        composed.choices,
        composed.files,
        Path(parent).absolute() if parent else composed.sweep,
        fingerprint=fingerprint(computing(values)),
        left_out=[section for section, commands in SECTIONS_OF.items() if command not in commands],
    )


def record_failure(command: str, composed: Composed, values: Mapping[str, Any], error: BaseException) -> None:
    """Leave a folder and a run on record of a sweep's job that failed before it had either: its config, and why.

    Args:
        command: what was typed after ``accelerator``.
        composed: the job.
        values: its config, resolved, plain.
        error: what it raised; of what a signal stopped before it began there is nothing to keep.
    """
    file = composed.run_dir / JOURNAL
    begun = file.exists() and file.stat().st_size > 0
    if begun or isinstance(error, Terminated) or not isinstance(error, Exception):
        return
    with suppress(UserError, OSError):  # no folder or no store to keep it in: the job's own error is told
        check_store(values)
        with owned(composed.run_dir):
            about = about_of(command, composed, values)
            record = RunRecord(values, about, composed.run_dir, tracker=composed.tracker)
            journal = Journal(file)
            try:
                record.open(journal, {})
                write_fault(composed.run_dir, error)
                record.close(journal, error)
            finally:
                journal.close()


class Record(Callback):
    """Opens the record of a training when everything is built, and closes it after everything else is over.

    Args:
        config: resolved, plain.
        about: what else is told.
        run_dir: the run's folder.
        tracker: see `RunRecord`.
    """

    priority = -10
    main_only = True

    def __init__(
        self, config: Mapping[str, Any], about: About, run_dir: Path, *, tracker: Callable[..., Tracker] = Tracker
    ) -> None:
        self.config = config
        self.record = RunRecord(config, about, run_dir, tracker=tracker)

    def run_start(self, context: Context) -> None:
        """Open it."""
        from accelerator.cli.load import lineage

        assert context.journal is not None
        self._monitor = Monitor(context)
        self.record.open(
            context.journal,
            {
                "engine": self.config["engine"].get("name"),
                "schedule": self.config["multilevel"].get("name"),
                **lineage(self.config),
                "parameters": sum(p.numel() for p in context.levels[0].parameters()),
            },
        )

        if self.record.tracker is not None:
            from accelerator.tracking.model_files import dataset_facts

            if facts := dataset_facts(self.config, self.record.about.unresolved, context.data):
                context.journal.event("dataset", facts=facts)

    def step_end(self, context: Context) -> None:
        """Take down what changed: by a schedule, or because memory ran out."""
        self._monitor.look()

    def run_end(self, context: Context) -> None:
        """Log the best checkpoint, and close it."""
        journal, checkpoints, error = context.journal, context.checkpoints, context.error
        assert journal is not None
        best = checkpoints.best() if checkpoints is not None else None
        if best is not None and error is None:
            for path in (best, best.with_suffix(".json")):
                journal.event("artifact", path=str(path), artifact_path=CHECKPOINTS)
            monitor = self.config["checkpoint"]["monitor"]
            if (value := read_meta(best).metrics.get(monitor)) is not None:
                journal.metrics({f"best/{monitor}": value}, context.state.step)
        if self.record.tracker is not None and error is None:
            from accelerator.runtime.model_folder import write_final_model

            if write_final_model(context, self.config["tracking"]["model"]) is not None:
                journal.event("model", path=MODEL)
        if context.finish_early and error is None:
            journal.event("tags", values={"ended_early": f"step {context.state.step}"})
        self.record.close(journal, error)
        if self.record.tracked is not None:
            context.run_id = self.record.tracked.run_id

    def print_summary(self, result: Result) -> None:
        """The result's table, and where to look."""
        measures = {"steps": f"{result.steps:,}", "work units": f"{result.work:,.0f}"}
        rows = [("run directory", short(result.run_dir))]
        if result.best is not None:
            meta = read_meta(result.best)
            monitor = self.config["checkpoint"]["monitor"]
            rows += [
                ("best checkpoint", short(result.best)),
                ("", f"step {meta.step:,}, {monitor} {meta.metrics[monitor]:.5g}: what test/… measured"),
            ]
        print_result(result, measures, [*rows, *self.record.where])


def print_result(result: Result, measures: Mapping[str, str], rows: Sequence[tuple[str, str]]) -> None:
    """A table of what was measured, and labelled lines below it."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    table = Table("metric", "value", title="Result", title_justify="left")
    for name, value in sorted(result.metrics.items()):
        table.add_row(name, measured(value))
    for name, text in measures.items():
        table.add_row(name, text)
    table.add_row("seconds", f"{result.seconds:.1f}")
    console.print(table)
    for label, text in rows:
        console.print(f"{label:<17}{text}")
