"""The record of one run of any command: files in the run's folder, and MLflow."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerator.errors import ConfigError, Terminated
from accelerator.runtime.journal import Journal
from accelerator.runtime.model_manifest import check_formats
from accelerator.runtime.run_directory import ERROR, write_fault
from accelerator.tracking import bridge, server
from accelerator.tracking.artifact_stores import absolute, settle
from accelerator.tracking.locations import locate
from accelerator.tracking.masking import hide, secrets_of
from accelerator.tracking.tracker import TrackedRun, Tracker
from accelerator.utilities.files import short

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
        fingerprint: of what decides the result, for telling whether two configs compute the same.
        left_out: sections of the config that are for other commands; they are no params of this run.
    """

    command: str
    unresolved: Mapping[str, Any]
    overrides: Sequence[str] = ()
    choices: Mapping[str, Any] | None = None
    files: Sequence[Mapping[str, str]] = ()
    parent: Path | None = None
    kind: str | None = None
    name: str | None = None
    fingerprint: str = ""
    left_out: Collection[str] = ()


class RunRecord:
    """The record of one run of any command.

    Args:
        config: resolved, plain.
        about: what else is told.
        run_dir: the run's folder.
        tracker: makes what keeps the record; a study's trials share one uploader (`accelerator.tracking.fleet`).
    """

    def __init__(
        self, config: Mapping[str, Any], about: About, run_dir: Path, *, tracker: Callable[..., Tracker] = Tracker
    ) -> None:
        self.config, self.about, self.run_dir = config, about, run_dir
        self._make_tracker = tracker
        self.tracker: Tracker | None = None
        self.tracked: TrackedRun | None = None

    def open(self, journal: Journal, tags: Mapping[str, Any]) -> None:
        """Write the config and where it came from into the folder, and open the MLflow run.

        Args:
            journal: of the run.
            tags: what this run tells of itself; None as a value leaves one out.
        """
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
            {section: values for section, values in self.config.items() if section not in about.left_out},
            unresolved=about.unresolved,
            overrides=about.overrides,
            argv=["accelerator", about.command, *(["-m"] if about.kind == "sweep" else []), *about.overrides],
            choices=choices,
            tags={
                "kind": about.kind or about.command,
                "seed": self.config.get("seed"),  # a sweep over seeds has none of its own
                "group": tracking["group"],
                "run_dir": str(self.run_dir),
                "config.fingerprint": about.fingerprint or None,
                **tags,
                **tracking["tags"],
            },
        )
        journal.event("params", values=described.params)
        journal.event("tags", values=described.tags)
        for path in files:
            journal.event("artifact", path=str(path), artifact_path=None)
        self.tracker = self._make_tracker(
            self.run_dir,
            journal=journal,
            uri=tracking["uri"],
            experiment=experiment_of(self.config),
            run_name=tracking["run_name"] or self.name(),
            parent=about.parent,
            system_metrics=tracking["system_metrics"],
            artifacts=absolute(tracking["artifacts"]) if tracking["artifacts"] else None,
        )
        self.tracker.start()
        if tracking["server"] == "auto":
            server.ensure_in_background(tracking["uri"])

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

    @contextmanager
    def kept(self, journal: Journal, tags: Mapping[str, Any]) -> Iterator[None]:
        """Open while inside; what is raised there is on record, a fault with its traceback. See `open`."""
        (self.run_dir / ERROR).unlink(missing_ok=True)
        self.open(journal, tags)
        error = None
        try:
            yield
        except BaseException as raised:
            error = raised
            write_fault(self.run_dir, raised)
            raise
        finally:
            self.close(journal, error)

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
        shown = [text for text in (self.tracked.ui_command, self.tracked.link) if text]
        return [*rows, *zip(("look at it", ""), shown, strict=False)]


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
        raise ConfigError(
            f"tracking.system_metrics={interval:g}: expected the seconds between two samples, at least 1, or null"
        )
    check_formats(tracking["model"])
    _, told = settle(tracking["artifacts"], locate(tracking["uri"]).uri, experiment_of(config))
    if told:
        log.warning("record: %s", told)
    for warning in preflight.check(tracking["uri"], experiment_of(config)):
        log.warning("record: %s", warning)
