"""Connects a run with its record: files in the run's folder, and MLflow."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerator.errors import ConfigError, Terminated
from accelerator.runtime.callbacks.base import Callback
from accelerator.runtime.checkpoint.meta_handler import fingerprint, read_meta
from accelerator.runtime.journal import Journal
from accelerator.runtime.run_directory import CHECKPOINTS, ERROR
from accelerator.tracking import bridge
from accelerator.tracking.masking import hide, secrets_of
from accelerator.tracking.tracker import TrackedRun, Tracker

if TYPE_CHECKING:
    from accelerator.cli.composed import Composed
    from accelerator.runtime.context.context import Context
    from accelerator.runtime.run import Result


log = logging.getLogger(__name__)

# Who asks a run to stop has a limit of his own; points that have not arrived by then are spooled.
STOPPED_SECONDS = 15.0


@dataclass(frozen=True)
class About:
    """What a run's record tells beside its resolved config.

    Attributes:
        command: what was typed after ``accelerator``.
        unresolved: the config before interpolation; what comes from the environment is recorded in this form.
        overrides: what the user typed.
        choices: the option of each config group.
        files: what the config was composed of.
        parent: the folder of the run this one is a part of, a sweep's or a pipeline's.
        kind: of run; by default the command says it.
        name: of the run; by default its model and data say it.
    """

    command: str
    unresolved: Mapping[str, Any]
    overrides: Sequence[str] = ()
    choices: Mapping[str, Any] | None = None
    files: Sequence[Mapping[str, str]] = ()
    parent: Path | None = None
    kind: str | None = None
    name: str | None = None

    @classmethod
    def of(cls, command: str, composed: Composed) -> About:
        """What a composed job tells."""
        from accelerator.cli.compose import plain
        from accelerator.cli.resume import recorded

        parent = composed.config.tracking.parent
        return cls(
            command,
            plain(composed.config, resolve=False),
            recorded(composed.overrides),
            composed.choices,
            composed.files,
            Path(parent).absolute() if parent else composed.sweep,
        )


class RunRecord:
    """The record of one run of any command.

    Args:
        config: resolved, plain.
        about: what else is told.
        run_dir: the run's folder.
    """

    def __init__(self, config: Mapping[str, Any], about: About, run_dir: Path) -> None:
        self.config, self.about, self.run_dir = config, about, run_dir
        self.tracker: Tracker | None = None
        self.tracked: TrackedRun | None = None

    def open(self, journal: Journal, tags: Mapping[str, Any]) -> None:
        """Write the config and where it came from into the folder, and open the MLflow run.

        Args:
            journal: of the run.
            tags: what this run tells of itself; None as a value leaves one out.
        """
        from accelerator.cli.resume import computing

        about = self.about
        choices = {group: option for group, option in (about.choices or {}).items() if not group.startswith("hydra/")}
        files = bridge.write_files(
            self.run_dir,
            self.config,
            overrides=about.overrides,
            unresolved=about.unresolved,
            composition={"command": about.command, "choices": choices, "files": list(map(dict, about.files))},
        )
        tracking = self.config["tracking"]
        if not tracking["enabled"]:
            return
        described = bridge.describe(
            self.config,
            unresolved=about.unresolved,
            overrides=about.overrides,
            argv=["accelerator", about.command, *(["-m"] if about.kind == "sweep" else []), *about.overrides],
            choices=choices,
            tags={
                "kind": about.kind or about.command,
                "seed": self.config["seed"],
                "group": tracking["group"],
                "run_dir": str(self.run_dir),
                "config.fingerprint": fingerprint(computing(self.config)),
                **tags,
                **tracking["tags"],
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
            experiment=experiment_of(self.config),
            run_name=tracking["run_name"] or self.name(),
            parent=about.parent,
            system_metrics=tracking["system_metrics"],
        )
        self.tracker.start()

    def close(self, journal: Journal, error: BaseException | None) -> None:
        """Say how the run ended, wait until everything has arrived, and tell what has not."""
        if self.tracker is None:
            return
        stopped = isinstance(error, Terminated | KeyboardInterrupt)
        status = "FINISHED" if error is None else "KILLED" if stopped else "FAILED"
        if error is not None:
            secrets = secrets_of(self.config, self.about.unresolved)
            journal.event("tags", values={"error": hide(f"{type(error).__name__}: {error}", secrets)[:1000]})
            if (file := self.run_dir / ERROR).exists():
                file.write_text(hide(file.read_text(), secrets))
                journal.event("artifact", path=str(file), artifact_path=None)
        timeout = self.config["tracking"]["timeout"]
        if isinstance(error, Terminated):
            timeout = min(timeout, STOPPED_SECONDS)
        elif isinstance(error, KeyboardInterrupt):
            timeout = min(timeout, 1.0)
        self.tracked = self.tracker.finish(status, timeout=timeout)
        if not self.tracked.uploaded:
            print(
                f"record: {self.tracked.spooled_points} points spooled in {journal.path} ({self.tracked.error}); "
                f"send them later with: accelerator tracking sync {short(self.run_dir)}",
                file=sys.stderr,
            )

    def name(self) -> str:
        """What the run is called when nobody named it; two runs may share it."""
        if self.about.name is not None:
            return self.about.name
        model, data = (self.config[section] for section in ("model", "data"))
        return " on ".join(part.get("name") or part["_target_"].rpartition(".")[2] for part in (model, data))

    @property
    def where(self) -> list[tuple[str, str]]:
        """Where the record is to be found: labels and what they say."""
        if self.tracked is None or self.tracked.run_id is None:
            return []
        rows = [("MLflow run", f"{self.tracked.run_id} in {self.tracked.uri}")]
        if self.tracked.ui_command:
            rows += [("look at it", self.tracked.ui_command), ("", self.tracked.link or "")]
        return rows


def experiment_of(config: Mapping[str, Any]) -> str:
    """The experiment's name: that of the working directory, unless the config gives one."""
    return config["tracking"]["experiment"] or Path.cwd().name or "accelerator"


def check_store(config: Mapping[str, Any]) -> None:
    """See whether the record can be kept, before anything is trained; tell if it will have to wait.

    Raises:
        ConfigError: it could not; why, and the remedy.
    """
    from accelerator.tracking import preflight

    tracking = config["tracking"]
    if not tracking["enabled"]:
        return
    interval = tracking["system_metrics"]
    if interval is not None and interval < 1:
        raise ConfigError(f"tracking.system_metrics={interval:g}: expected the seconds between two samples, at least 1, or null")
    for warning in preflight.check(tracking["uri"], experiment_of(config)):
        log.warning("record: %s", warning)


class Record(Callback):
    """Opens the record of a training when everything is built, and closes it after everything else is over.

    Args:
        config: resolved, plain.
        about: what else is told.
        run_dir: the run's folder.
    """

    priority = -10
    main_only = True

    def __init__(self, config: Mapping[str, Any], about: About, run_dir: Path) -> None:
        self.config = config
        self.record = RunRecord(config, about, run_dir)
        self._pieces: int | None = None

    def run_start(self, context: Context) -> None:
        """Open it."""
        assert context.journal is not None
        self._pieces = context.engine.accumulate
        self.record.open(
            context.journal,
            {
                "engine": self.config["engine"].get("name"),
                "schedule": self.config["multilevel"].get("name"),
                "parameters": sum(p.numel() for p in context.levels[0].parameters()),
            },
        )

    def step_end(self, context: Context) -> None:
        """Take down a change: by a schedule, or because memory ran out."""
        if (now := context.engine.accumulate) != self._pieces and context.journal is not None:
            context.journal.event(
                "change", name="trainer.accumulate", was=self._pieces, now=now, step=context.state.step
            )
            self._pieces = now

    def run_end(self, context: Context) -> None:
        """Log the best checkpoint, and close it."""
        journal, checkpoints, error = context.journal, context.checkpoints, context.error
        assert journal is not None
        best = checkpoints.best() if checkpoints is not None else None
        if best is not None and error is None:
            for path in (best, best.with_suffix(".json")):
                journal.event("artifact", path=str(path), artifact_path=CHECKPOINTS)
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

    console = Console(highlight=False, soft_wrap=True)
    table = Table("metric", "value", title="Result", title_justify="left")
    for name, value in sorted(result.metrics.items()):
        table.add_row(name, f"{value:.5g}")
    for name, text in measures.items():
        table.add_row(name, text)
    table.add_row("seconds", f"{result.seconds:.1f}")
    console.print(table)
    for label, text in rows:
        console.print(f"{label:<17}{text}")


def short(path: Path) -> str:
    """A path as it can be typed from here."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
