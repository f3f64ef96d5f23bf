"""The record of a sweep: a run of its own, with one nested run a job, and a table of them at the end.

Hydra builds `SweepRecord` (``hydra.callbacks`` in configs/main.yaml) and tells it when a multirun starts and ends,
whichever launcher runs the jobs; what became of a job is read off its folder, and off what failing jobs have noted.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from accelerator.cli.compose.composed import FAILURES
from accelerator.cli.run_files import overrides_in
from accelerator.errors import AcceleratorError
from accelerator.runtime.run_directory import JOURNAL, RESULT
from accelerator.tracking import spool
from accelerator.utilities.files import short

SUMMARY = "sweep.json"


@dataclass
class JobOutcome:
    """What became of one job.

    Attributes:
        folder: the job's.
        overrides: what distinguishes it.
        status: FINISHED, FAILED or KILLED.
        metrics: its last values, and those of its best checkpoint where it has them.
        run_id: of its record.
        seconds: it trained.
        error: why it failed.
    """

    folder: Path
    overrides: list[str]
    status: str
    metrics: dict[str, float]
    run_id: str | None
    seconds: float | None
    error: str | None = None


class JobsFailedError(AcceleratorError):
    """Jobs failed in processes of a launcher.

    Args:
        failures: as the jobs have noted them.
    """

    def __init__(self, failures: list[dict[str, Any]]) -> None:
        first = failures[0]
        what = "a job" if len(failures) == 1 else f"{len(failures)} jobs"
        super().__init__(f"{what} of the sweep failed; job {first['job']}: {first['error']}")
        self.exit_code = first["exit_code"]


def note_failure(sweep: Path, job: int, overrides: list[str], error: BaseException, secrets: set[str]) -> None:
    """Note that a job failed, for the process that leads the sweep; from any process.

    Args:
        sweep: its folder.
        job: the job's number.
        overrides: what it was composed with.
        error: what it raised.
        secrets: what must not stand in a file.
    """
    from accelerator.tracking.masking import hide, mask_arguments

    text = str(error) if isinstance(error, AcceleratorError) else f"{type(error).__name__}: {error}"
    noted = {
        "job": job,
        "overrides": mask_arguments(overrides),
        "error": hide(text, secrets),
        "exit_code": error.exit_code if isinstance(error, AcceleratorError) else 1,
    }
    sweep.mkdir(parents=True, exist_ok=True)
    with (sweep / FAILURES).open("a") as file:  # a short line is appended whole, whoever else appends
        file.write(json.dumps(noted, ensure_ascii=False) + "\n")


def failures_in(sweep: Path) -> list[dict[str, Any]]:
    """What failing jobs have noted, in the order of their numbers."""
    file = sweep / FAILURES
    lines = file.read_text().splitlines() if file.exists() else []
    return sorted(map(json.loads, lines), key=lambda noted: noted["job"])


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

    def __getstate__(self) -> dict[str, Any]:
        """A launcher's other process gets one that records nothing: the record is this process's."""
        return {"_record": None, "_journal": None, "_base": None}

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Take down what is swept."""
        logging.getLogger("hydra_plugins").setLevel(logging.CRITICAL)  # which jobs failed is told here
        self._folder = Path(config.hydra.sweep.dir).absolute()
        (self._folder / FAILURES).unlink(missing_ok=True)
        overrides: Any = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
        self._swept, self._fixed = _split(overrides)
        # What a config file sweeps over, unless the command line sets it.
        typed = {override.split("=", 1)[0].lstrip("+~") for override in overrides}
        params = config.hydra.sweeper.get("params") or {}
        self._swept |= {str(key): str(value) for key, value in params.items() if key not in typed}
        self._base = config
        if not str(config.hydra.launcher.get("_target_", "")).endswith("BasicLauncher"):
            self._open()

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """Open the record, if it is not; remove Hydra's copy of the config: it holds secrets of the command line."""
        (Path(config.hydra.sweep.dir) / "multirun.yaml").unlink(missing_ok=True)
        if self._base is not None and self._journal is None:
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
        monitor, mode = config.checkpoint.monitor, config.checkpoint.mode
        (self._folder / "multirun.yaml").unlink(missing_ok=True)
        jobs = outcomes(self._folder, self._swept)
        LAST_FAILURES.extend(failures_in(self._folder))
        (self._folder / FAILURES).unlink(missing_ok=True)
        if not jobs:
            self._close({}, jobs)
            return
        if self._record is None:
            _remove_if_empty(self._folder)
        best = best_of(jobs, monitor, mode)
        _print(jobs, best, monitor)
        print(f"{'run directory':<17}{short(self._folder)}")
        measured = {"jobs": float(len(jobs)), "failed": float(sum(job.status != "FINISHED" for job in jobs))}
        if best is not None:
            measured |= {f"best/{key}": value for key, value in best.metrics.items()}
            measured["best/job"] = float(jobs.index(best))
        self._close(measured, jobs)

    def _close(self, measured: Mapping[str, float], jobs: list[JobOutcome]) -> None:
        if self._record is None:
            return
        self._journal.metrics(measured, 0)
        if jobs:
            file = self._folder / SUMMARY
            file.write_text(json.dumps([vars(job) for job in jobs], default=str, indent=1))
            self._journal.event("artifact", path=str(file), artifact_path=None)
        error = (
            None if jobs and all(job.status == "FINISHED" for job in jobs) else _Unfinished("not every job ended well")
        )
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


def outcomes(sweep: Path, swept: Mapping[str, str]) -> list[JobOutcome]:
    """The jobs of a sweep, in order, read off their folders.

    Args:
        sweep: its folder.
        swept: the keys by which jobs differ.
    """
    found = []
    failed = {str(noted["job"]): noted for noted in failures_in(sweep)}
    for folder in sorted((path.parent for path in sweep.glob(f"*/{JOURNAL}")), key=_number):
        result = json.loads((folder / RESULT).read_text()) if (folder / RESULT).exists() else {}
        overrides = overrides_in(folder)
        state = spool.load(folder / spool.STATE, spool.State)
        status = "FINISHED" if result else (state and state.closed) or "FAILED"
        noted = failed.pop(folder.name, {})
        found.append(
            JobOutcome(
                folder,
                _of(swept, overrides),
                status,
                result.get("metrics", {}) | result.get("best_metrics", {}),
                result.get("run_id") or (state and state.run_id),
                result.get("seconds"),
                noted.get("error"),
            )
        )
    # A mistake in a job's config is told before anything is written.
    for name, noted in failed.items():
        overrides = _of(swept, noted["overrides"])
        found.append(JobOutcome(sweep / name, overrides, "FAILED", {}, None, None, noted["error"]))
    return sorted(found, key=lambda job: _number(job.folder))


def _of(swept: Mapping[str, str], overrides: Iterable[Any]) -> list[str]:
    """Those of a job's overrides by which it differs from others."""
    return [text for text in map(str, overrides) if text.split("=", 1)[0].lstrip("+~") in swept]


def best_of(jobs: list[JobOutcome], monitor: str, mode: str) -> JobOutcome | None:
    """The finished job whose monitored value is best; None if none has one that is a number."""
    rated = [job for job in jobs if job.metrics.get(monitor, float("nan")) == job.metrics.get(monitor)]
    rated = [job for job in rated if monitor in job.metrics]
    if not rated:
        return None
    return (max if mode == "max" else min)(rated, key=lambda job: job.metrics[monitor])


def _print(jobs: list[JobOutcome], best: JobOutcome | None, monitor: str) -> None:
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:  # a pipe has no width of its own: rows are not folded there
        console = Console(highlight=False, soft_wrap=True, width=1000)
    columns = ("job", "overrides", "status", f"best {monitor}", "seconds", "run")
    table = Table(*columns, title="Sweep", title_justify="left")
    for number, job in enumerate(jobs):
        value = job.metrics.get(monitor)
        table.add_row(
            str(number),
            " ".join(job.overrides),
            job.status.lower(),
            "–" if value is None else f"{value:.5g}" + (" ← best" if job is best else ""),
            "–" if job.seconds is None else f"{job.seconds:.1f}",
            (job.run_id or "–")[:8],
        )
    console.print(table)
    for number, job in enumerate(jobs):
        if job.error:
            console.print(f"job {number} failed: {job.error.splitlines()[0]}", markup=False)


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


def _number(folder: Path) -> tuple[int, str]:
    return (int(folder.name) if folder.name.isdigit() else 1 << 30, folder.name)
