"""Connects a run with its record: files in the run's folder, and MLflow."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerator.errors import Terminated
from accelerator.runtime.callbacks.base import Callback
from accelerator.runtime.checkpoint.meta_handler import read_meta
from accelerator.runtime.run_directory import CHECKPOINTS, ERROR
from accelerator.tracking import bridge
from accelerator.tracking.tracker import TrackedRun, Tracker

if TYPE_CHECKING:
    from accelerator.runtime.context.context import Context
    from accelerator.runtime.run import Result


# Who asks a run to stop has a limit of his own; points that have not arrived by then are spooled.
STOPPED_SECONDS = 15.0


class Record(Callback):
    """Starts the record when everything is built, and closes it after everything else is over.

    Args:
        config: resolved, plain.
        unresolved: the same before interpolation; what comes from the environment is recorded in this form.
        run_dir: the run's folder.
        overrides: what the user typed.
    """

    priority = -10
    main_only = True

    def __init__(
        self, config: Mapping[str, Any], unresolved: Mapping[str, Any], run_dir: Path, overrides: Sequence[str]
    ) -> None:
        self.config, self.unresolved, self.run_dir, self.overrides = config, unresolved, run_dir, overrides
        self.tracker: Tracker | None = None
        self.tracked: TrackedRun | None = None

    def run_start(self, context: Context) -> None:
        """Write the config into the run's folder and open the MLflow run."""
        files = bridge.write_files(self.run_dir, self.config, overrides=self.overrides, unresolved=self.unresolved)
        tracking = self.config["tracking"]
        if not tracking["enabled"]:
            return
        journal = context.journal
        assert journal is not None
        described = bridge.describe(
            self.config,
            unresolved=self.unresolved,
            overrides=self.overrides,
            argv=["accelerator", "train", *self.overrides],
            tags={
                "seed": self.config["seed"],
                "engine": self.config["engine"].get("name"),
                "schedule": self.config["multilevel"].get("name"),
                "parameters": sum(p.numel() for p in context.levels[0].parameters()),
                "run_dir": str(self.run_dir),
            },
        )
        journal.event("params", values=described.params)
        journal.event("tags", values=described.tags)
        for path in files:
            journal.event("artifact", path=str(path), artifact_path=None)
        self.tracker = Tracker(
            self.run_dir,
            journal=journal,
            uri=tracking["uri"],
            experiment=tracking["experiment"],
            run_name=tracking["run_name"] or self._name(),
        )
        self.tracker.start()

    def run_end(self, context: Context) -> None:
        """Log the best checkpoint, say how the run ended, and wait for the record to arrive."""
        if self.tracker is None:
            return
        journal, checkpoints, error = context.journal, context.checkpoints, context.error
        assert journal is not None
        best = checkpoints.best() if checkpoints is not None else None
        if best is not None and error is None:
            for path in (best, best.with_suffix(".json")):
                journal.event("artifact", path=str(path), artifact_path=CHECKPOINTS)
        stopped = isinstance(error, Terminated | KeyboardInterrupt)
        status = "FINISHED" if error is None else "KILLED" if stopped else "FAILED"
        if error is not None:
            journal.event("tags", values={"error": f"{type(error).__name__}: {error}"[:1000]})
            if (self.run_dir / ERROR).exists():
                journal.event("artifact", path=str(self.run_dir / ERROR), artifact_path=None)
        timeout = self.config["tracking"]["timeout"]
        if isinstance(error, Terminated):
            timeout = min(timeout, STOPPED_SECONDS)
        elif isinstance(error, KeyboardInterrupt):
            timeout = min(timeout, 1.0)
        self.tracked = self.tracker.finish(status, timeout=timeout)
        context.run_id = self.tracked.run_id
        if not self.tracked.uploaded:
            print(
                f"record: {self.tracked.spooled_points} points spooled in {journal.path} ({self.tracked.error}); "
                f"send them later with: {sys.executable} -m accelerator.tracking.uploader {self.run_dir}",
                file=sys.stderr,
            )

    def _name(self) -> str:
        """What the run is called when nobody named it; two runs may share it."""
        model, data = (self.config[section] for section in ("model", "data"))
        return " on ".join(part.get("name") or part["_target_"].rpartition(".")[2] for part in (model, data))

    def print_summary(self, result: Result) -> None:
        """The result's table, and where to look."""
        from rich.console import Console
        from rich.table import Table

        console = Console(highlight=False, soft_wrap=True)
        table = Table("metric", "value", title="Result", title_justify="left")
        for name, value in sorted(result.metrics.items()):
            table.add_row(name, f"{value:.5g}")
        table.add_row("steps", f"{result.steps:,}")
        table.add_row("work units", f"{result.work:,.0f}")
        table.add_row("seconds", f"{result.seconds:.1f}")
        console.print(table)
        console.print(f"run directory    {_short(result.run_dir)}")
        if result.best is not None:
            meta = read_meta(result.best)
            monitor = self.config["checkpoint"]["monitor"]
            console.print(f"best checkpoint  {_short(result.best)}")
            console.print(
                f"                 step {meta.step:,}, {monitor} {meta.metrics[monitor]:.5g}: what test/… measured"
            )
        if self.tracked is not None and self.tracked.run_id is not None:
            console.print(f"MLflow run       {self.tracked.run_id} in {self.tracked.uri}")
            if self.tracked.ui_command:
                console.print(f"look at it       {self.tracked.ui_command}")
                console.print(f"                 {self.tracked.link}")


def _short(path: Path) -> str:
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
