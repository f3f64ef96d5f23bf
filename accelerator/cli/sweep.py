"""The record of a sweep: a run of its own, with one nested run a job, and a table of them at the end.

Hydra builds `SweepRecord` (``hydra.callbacks`` in configs/main.yaml) and tells it when a multirun starts and ends,
whichever launcher runs the jobs; what became of a job is read off its folder, and off what failing jobs have noted.
"""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from accelerator.cli.compose.composed import FAILURES
from accelerator.cli.sweep_jobs import (
    NOT_RUN,
    JobOutcome,
    arrive,
    best_of,
    commands_for,
    failures_in,
    outcomes,
    show,
    signal_of,
)
from accelerator.errors import Terminated
from accelerator.runtime.run_directory import JOURNAL
from accelerator.tracking.fleet import Fleet
from accelerator.tracking.record import STOPPED_SECONDS
from accelerator.utilities.files import short

SUMMARY = "sweep.json"


# Of the sweep that has ended last in this process; Hydra gives its callbacks no other way to tell.
LAST_FAILURES: list[dict[str, Any]] = []


class SweepRecord(Callback):
    """Opens the sweep's record before its first job, and closes it after the last.

    Hydra's own launcher runs the jobs in this process, after it has composed them all: the record is then opened with
    the first of them, so that a mistake in the config leaves none. Other launchers run them elsewhere.
    """

    def __init__(self) -> None:
        self._record: Any = None
        self._journal: Any = None
        self._base: DictConfig | None = None
        self._planned: dict[int, Sequence[str]] = {}
        self._folders: dict[int, Path] = {}
        self._fleet: Fleet | None = None

    def __getstate__(self) -> dict[str, Any]:
        """A launcher's other process gets one that records nothing: the record is this process's."""
        return {"_record": None, "_journal": None, "_base": None, "_planned": {}, "_folders": {}, "_fleet": None}

    def plan(self, job_overrides: Sequence[Sequence[str]], first: int) -> None:
        """Take down which jobs are to run, for telling at the end which did not; see `Launcher.launch` of Hydra's."""
        self._planned |= dict(enumerate(job_overrides, first))

    def fleet(self) -> Fleet | None:
        """One uploader for all jobs of this process; each of its own would import MLflow, and be waited for."""
        if self._fleet is None and self._record is not None and self._base is not None:
            self._fleet = Fleet(self._folder, self._base.tracking.uri, compare=True)
        return self._fleet

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Take down what is swept."""
        logging.getLogger("hydra_plugins").setLevel(logging.CRITICAL)  # which jobs failed is told here
        self._folder = Path(config.hydra.sweep.dir).absolute()
        with suppress(OSError):  # a file in the folder's place: Hydra fails of it too, and that is told
            (self._folder / FAILURES).unlink(missing_ok=True)
        overrides: Any = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
        self._swept, self._fixed = _split(overrides)
        # What a config file sweeps over, unless the command line sets it.
        typed = {override.split("=", 1)[0].lstrip("+~") for override in overrides}
        params = config.hydra.sweeper.get("params") or {}
        self._swept |= {str(key): str(value) for key, value in params.items() if key not in typed}
        self._base = config
        if not str(config.hydra.launcher.get("_target_", "")).endswith("BasicLauncher"):
            with suppress(FileExistsError, NotADirectoryError):  # as above
                self._open()
            if logs := config.hydra.launcher.get("submitit_folder"):
                where = short(Path(str(logs).partition("%j")[0]))  # a folder for each job stands there
                print(f"the jobs are submitted; what they print goes to {where}", flush=True)

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """Open the record, if it is not; remove Hydra's copy of the config: it holds secrets of the command line."""
        (Path(config.hydra.sweep.dir) / "multirun.yaml").unlink(missing_ok=True)
        if self._base is None:  # a single run, or another process's
            return
        self._folders[config.hydra.job.num] = Path(config.hydra.runtime.output_dir).absolute()
        if self._journal is None:
            self._open()

    def _open(self) -> None:
        from accelerator.cli.compose.compose import composition, plain
        from accelerator.cli.compose.schema import SECTIONS_OF
        from accelerator.cli.record import About, RunRecord
        from accelerator.cli.resume import computing, recorded
        from accelerator.runtime.checkpoint.meta_handler import fingerprint
        from accelerator.runtime.journal import Journal

        config = self._base
        if config is None or not config.tracking.enabled:
            return
        overrides: Any = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
        values = _without(plain(config), self._swept)
        about = About(
            config.hydra.job.name,
            plain(config, resolve=False),
            recorded(overrides),
            {group: option for group, option in config.hydra.runtime.choices.items() if group not in self._swept},
            composition(self._fixed),
            Path(config.tracking.parent).absolute() if config.tracking.parent else None,
            kind="sweep",
            fingerprint=fingerprint(computing(values)),
            left_out=[section for section, commands in SECTIONS_OF.items() if config.hydra.job.name not in commands],
            name=f"sweep of {', '.join(self._swept)}" if self._swept else "sweep",
        )
        self._folder.mkdir(parents=True, exist_ok=True)
        self._journal = Journal(self._folder / JOURNAL)
        self._record = RunRecord(values, about, self._folder)
        self._record.open(self._journal, {})

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Tell what became of the jobs, and close the record."""
        if not self._folder.is_dir():
            return
        if "ray" in sys.modules and str(config.hydra.launcher.get("_target_", "")).endswith("RayLauncher"):
            from accelerator.tuning.ray_cluster import leave

            leave()
        monitor, mode = config.checkpoint.monitor, config.checkpoint.mode
        (self._folder / "multirun.yaml").unlink(missing_ok=True)
        planned = {self._folders.get(job, self._folder / str(job)): typed for job, typed in self._planned.items()}
        failures = failures_in(self._folder)
        # Between two jobs it is Hydra, which calls this while it is left, that the signal reaches.
        signals = [noted["signal"] for noted in failures if noted["signal"]]
        stopped = signals[0] if signals else signal_of(sys.exc_info()[1])
        if self._fleet is not None:
            arrive(self._fleet, list(planned), min(config.tracking.timeout, STOPPED_SECONDS if stopped else math.inf))
        jobs = outcomes(self._folder, self._swept, planned)
        LAST_FAILURES.extend(failures)
        (self._folder / FAILURES).unlink(missing_ok=True)
        if all(job.status == NOT_RUN for job in jobs):
            _remove_if_empty(self._folder)
            self._close({}, [], stopped)
            return
        if self._record is None:
            _remove_if_empty(self._folder)
        best = best_of(jobs, monitor, mode)
        show(jobs, best, monitor)
        print(f"{'run directory':<17}{short(self._folder)}")
        self._tell_rest(config, [planned[job.folder] for job in jobs if job.status == NOT_RUN])
        count = {status: sum(job.status == status for job in jobs) for status in ("FAILED", "KILLED", NOT_RUN)}
        measured = {"jobs": float(len(jobs) - count[NOT_RUN]), "failed": float(count["FAILED"])}
        measured |= {key: float(count[of]) for key, of in (("stopped", "KILLED"), ("not_run", NOT_RUN)) if count[of]}
        if best is not None:
            measured |= {f"best/{key}": value for key, value in best.metrics.items()}
            measured["best/job"] = float(jobs.index(best))
        self._close(measured, jobs, stopped)

    def _tell_rest(self, config: DictConfig, jobs: Sequence[Sequence[str]]) -> None:
        """Say how the jobs that were not run can be; a sweeper that chooses them would choose others."""
        if not str(config.hydra.sweeper.get("_target_", "")).endswith("BasicSweeper"):
            return
        typed: Any = OmegaConf.to_container(config.hydra.overrides.hydra, resolve=False)
        for number, command in enumerate(commands_for(config.hydra.job.name, jobs, typed)):
            print(f"{'' if number else 'run the rest':<17}{command}")

    def _close(self, measured: Mapping[str, float], jobs: list[JobOutcome], stopped: str | None) -> None:
        if self._record is None:
            return
        self._journal.metrics(measured, 0)
        if jobs:
            file = self._folder / SUMMARY
            file.write_text(json.dumps([vars(job) for job in jobs], default=str, indent=1))
            self._journal.event("artifact", path=str(file), artifact_path=None)
        error: BaseException | None = Terminated(stopped) if stopped else None
        if error is None and not (jobs and all(job.status == "FINISHED" for job in jobs)):
            error = _Unfinished("not every job ended well")
        self._record.close(self._journal, error)
        self._journal.close()
        for label, text in self._record.where:
            print(f"{label:<17}{text}")


def _remove_if_empty(sweep: Path) -> None:
    """A sweep none of whose jobs has begun leaves no folder behind."""
    with suppress(OSError):
        sweep.rmdir()
        if sweep.parent.parent.name == "multirun":
            sweep.parent.rmdir()
            sweep.parent.parent.rmdir()


class _Unfinished(Exception):  # noqa: N818 - what the record of the sweep says, raised by nobody
    pass


def _split(overrides: list[str]) -> tuple[dict[str, str], list[str]]:
    """The swept keys with what they are swept over, and the overrides that are the same for all jobs."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    swept, fixed = {}, []
    for override in overrides:
        parsed = OverridesParser.create().parse_override(override)
        if parsed.is_sweep_override():
            swept[override.split("=", 1)[0].lstrip("+~")] = override.split("=", 1)[1]
        else:
            fixed.append(override)
    return swept, fixed


def _without(values: dict[str, Any], keys: Mapping[str, str]) -> dict[str, Any]:
    """The config that all jobs share: without what is swept, be it a value or a whole section."""
    for key in keys:
        node: Any = values
        *parents, last = key.split("/")[-1].split(".")
        for name in parents:
            node = node.get(name) if isinstance(node, dict) else None
        if isinstance(node, dict):
            node.pop(last, None)
    return values
