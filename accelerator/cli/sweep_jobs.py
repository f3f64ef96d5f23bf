"""What became of a sweep's jobs, read off their folders and off what failing jobs have noted; and a table of them."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from accelerator.cli.compose.composed import FAILURES
from accelerator.cli.run_files import overrides_in
from accelerator.errors import AcceleratorError, Terminated
from accelerator.runtime.run_directory import JOURNAL, RESULT
from accelerator.tracking import spool
from accelerator.tracking.fleet import Fleet, told_late
from accelerator.utilities.files import write_text

NOT_RUN = "NOT RUN"


@dataclass
class JobOutcome:
    """What became of one job.

    Attributes:
        folder: the job's.
        overrides: what distinguishes it.
        status: FINISHED, FAILED, KILLED or NOT RUN.
        metrics: its last values, and those of its best checkpoint where it has them.
        run_id: of its record.
        seconds: it trained.
        error: why it failed, or was stopped.
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


def signal_of(error: BaseException | None) -> str | None:
    """The signal that stopped a job, or a sweep; None if none did."""
    if isinstance(error, Terminated):
        return error.signal_name
    return "SIGINT" if isinstance(error, KeyboardInterrupt) else None


def note_failure(sweep: Path, job: int, overrides: list[str], error: BaseException, secrets: set[str]) -> None:
    """Note that a job failed or was stopped, for the process that leads the sweep; from any process.

    Args:
        sweep: its folder.
        job: the job's number.
        overrides: what it was composed with.
        error: what it raised.
        secrets: what must not stand in a file.
    """
    from accelerator.tracking.masking import hide, mask_arguments

    text = str(error) if isinstance(error, AcceleratorError) else f"{type(error).__name__}: {error}"
    if isinstance(error, KeyboardInterrupt):
        text = "stopped at once"
    noted = {
        "job": job,
        "overrides": mask_arguments(overrides),
        "error": hide(text, secrets),
        "exit_code": error.exit_code if isinstance(error, AcceleratorError) else 1,
        "signal": signal_of(error),
    }
    sweep.mkdir(parents=True, exist_ok=True)
    with (sweep / FAILURES).open("a") as file:  # a short line is appended whole, whoever else appends
        file.write(json.dumps(noted, ensure_ascii=False) + "\n")


def failures_in(sweep: Path) -> list[dict[str, Any]]:
    """What failing jobs have noted, in the order of their numbers."""
    file = sweep / FAILURES
    lines = file.read_text().splitlines() if file.exists() else []
    return sorted(map(json.loads, lines), key=lambda noted: noted["job"])


def arrive(fleet: Fleet, folders: Sequence[Path], patience: float) -> None:
    """Wait until the jobs' records have arrived, and take down with each result which run it is.

    Args:
        fleet: what uploads them.
        folders: the jobs'.
        patience: seconds without progress that are borne; what is left then is told, and stays in the journals.
    """
    if late := fleet.finish(folders, patience):
        print(told_late(late, "jobs"), file=sys.stderr)
    for folder in folders:
        state = spool.load(folder / spool.STATE, spool.State)
        if state is not None and state.run_id is not None and (folder / RESULT).exists():
            result = json.loads((folder / RESULT).read_text()) | {"run_id": state.run_id}
            write_text(folder / RESULT, json.dumps(result, indent=1))


def outcomes(sweep: Path, swept: Mapping[str, str], planned: Mapping[Path, Sequence[str]]) -> list[JobOutcome]:
    """The jobs of a sweep, in order, read off their folders.

    Args:
        sweep: its folder.
        swept: the keys by which jobs differ.
        planned: the overrides of jobs that were to run, by the folder of each, where they are known.
    """
    from accelerator.tracking.masking import mask_arguments

    found = []
    failed = {str(noted["job"]): noted for noted in failures_in(sweep)}
    for folder in sorted((path.parent for path in sweep.glob(f"*/{JOURNAL}")), key=_number):
        result = json.loads((folder / RESULT).read_text()) if (folder / RESULT).exists() else {}
        overrides = overrides_in(folder)
        state = spool.load(folder / spool.STATE, spool.State)
        noted = failed.pop(folder.name, {})
        ended = (state and state.closed) or ("KILLED" if noted.get("signal") else "FAILED")
        found.append(
            JobOutcome(
                folder,
                _of(swept, overrides),
                "FINISHED" if result else ended,
                result.get("metrics", {}) | result.get("best_metrics", {}),
                result.get("run_id") or (state and state.run_id),
                result.get("seconds"),
                noted.get("error"),
            )
        )
    # Of what is stopped before it has begun, or cannot have a folder, there is only the note.
    for name, noted in failed.items():
        ended = "KILLED" if noted["signal"] else "FAILED"
        found.append(JobOutcome(sweep / name, _of(swept, noted["overrides"]), ended, {}, None, None, noted["error"]))
    there = {job.folder for job in found}
    for folder, overrides in planned.items():
        if folder not in there:
            masked = mask_arguments([override.removeprefix("++") for override in overrides])
            found.append(JobOutcome(folder, _of(swept, masked), NOT_RUN, {}, None, None))
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


def show(jobs: list[JobOutcome], best: JobOutcome | None, monitor: str) -> None:
    """Print a table of the jobs, and why those that did not end well did not."""
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
            ended = "" if job.status == "KILLED" else " failed"
            console.print(f"job {number}{ended}: {job.error.splitlines()[0]}", markup=False)


def commands_for(command: str, jobs: Sequence[Sequence[str]], hydra: Sequence[str] = ()) -> list[str]:
    """What to type to run the jobs of a sweep that were not run.

    Args:
        command: the sweep's, ``train``.
        jobs: the overrides of each, in the order of the sweep.
        hydra: what was typed for Hydra.
    """
    ours = ("hydra.mode=", "hydra.job.name=", "hydra.sweep.")
    kept = [override for override in hydra if not override.startswith(ours)]
    return [shlex.join(["accelerator", command, "-m", *kept, *sweep]) for sweep in _sweeps(jobs)]


def _sweeps(jobs: Sequence[Sequence[str]]) -> list[list[str]]:
    """As few sweeps as have just these jobs: ``a=1 b=2`` and ``a=1 b=3`` are one, ``a=1 b=2,3``.

    Jobs that differ in one override only become a sweep over it, beginning with the override that varies fastest: what
    is left of a grid is then one sweep for each override at most.
    """
    sweeps = [tuple((override.removeprefix("++"),) for override in job) for job in jobs]
    for place in reversed(range(len(sweeps[0]) if sweeps else 0)):
        alike: dict[tuple[Any, Any], tuple[str, ...]] = {}
        for sweep in sweeps:
            others = (sweep[:place], sweep[place + 1 :])
            alike[others] = (*alike.get(others, ()), *sweep[place])
        sweeps = [(*before, values, *after) for (before, after), values in alike.items()]
    return [[_joined(overrides) for overrides in sweep] for sweep in sweeps]


def _joined(overrides: Sequence[str]) -> str:
    values = [override.partition("=")[2] for override in overrides]
    return overrides[0] if len(values) == 1 else f"{overrides[0].partition('=')[0]}={','.join(values)}"


def _number(folder: Path) -> tuple[int, str]:
    return (int(folder.name) if folder.name.isdigit() else 1 << 30, folder.name)
