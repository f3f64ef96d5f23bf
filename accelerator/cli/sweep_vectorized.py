"""``sweep.vectorize=N``: jobs of a sweep that train the same small network, trained together.

The jobs are composed first, then up to N that differ only in what each can have for itself (seed, optimizer, schedule,
…) are handed to `accelerator.runtime.vectorized`; the others are left to Hydra's launcher, and a line says why. Every
job has its own folder and its own nested run on record, like a job that was trained alone.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn, run_job, setup_globals
from omegaconf import OmegaConf, open_dict

from accelerator.cli.compose.composed import Composed, removed_if_unused
from accelerator.errors import AcceleratorError, Terminated

if TYPE_CHECKING:
    from hydra._internal.core_plugins.basic_launcher import BasicLauncher

    from accelerator.runtime.context.context import Context
    from accelerator.runtime.run import Result
    from accelerator.tracking.fleet import Fleet

Launch = Callable[[Sequence[Sequence[str]], int], Sequence[JobReturn]]

SPARED = {"callbacks.progress": True, "callbacks.pictures": False}  # whether even if it was asked for
EVERY = 5.0  # seconds between two lines on how far the jobs are


@dataclass
class _Job:
    """A job that was composed.

    Attributes:
        number: of the job in the sweep.
        told: what Hydra is told of it.
        composed: what is asked of it.
        values: its config, resolved, plain.
        alone: why it cannot be trained with others, if so.
    """

    number: int
    told: JobReturn
    composed: Composed
    values: dict[str, Any]
    alone: str | None


def launch(
    launcher: BasicLauncher, one_by_one: Launch, job_overrides: Sequence[Sequence[str]], first: int
) -> list[JobReturn]:
    """Run a launcher's jobs.

    Args:
        launcher: set up by Hydra.
        one_by_one: runs jobs that are not trained together.
        job_overrides: of each job.
        first: the first job's number.

    Returns:
        What Hydra is told of each.

    Raises:
        SystemExit: a signal ended the sweep, or a job failed and ``sweep.on_error=stop``.
    """
    assert launcher.config is not None
    setup_globals()
    Path(launcher.config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
    returns: dict[int, JobReturn] = {}

    def run_alone(number: int) -> None:
        returns[number] = one_by_one([job_overrides[number - first]], number)[0]

    for numbers in _chunks(job_overrides, first, launcher.config.sweep.vectorize):
        if len(numbers) == 1:
            run_alone(numbers[0])
            continue
        jobs: list[_Job] = []
        for number in numbers:
            returns[number] = _compose(launcher, job_overrides[number - first], number, jobs)
        together = _split(jobs)
        if together and (reason := _train(launcher, together)):
            for job in together:
                job.alone = reason
        _tell_why([job for job in jobs if job.alone])
        for job in jobs:
            if job.alone is not None:
                run_alone(job.number)
    return [returns[number] for number in sorted(returns)]


def _chunks(job_overrides: Sequence[Sequence[str]], first: int, most: int) -> list[list[int]]:
    """The numbers of jobs that may be alike, as far as their overrides say, at most so many in a list."""
    from accelerator.cli.compose.compose import aliases
    from accelerator.runtime.vectorized.fitness import decides

    short = {long: name for name, long in aliases().items()}
    alike: dict[tuple[str, ...], list[int]] = {}
    for number, overrides in enumerate(job_overrides, first):
        keys = ((each.split("=", 1)[0].lstrip("+~"), each) for each in overrides)
        decisive = (each for key, each in keys if decides(short.get(key, key)))
        alike.setdefault(tuple(decisive), []).append(number)
    return [numbers[at : at + most] for numbers in alike.values() for at in range(0, len(numbers), most)]


def _compose(launcher: BasicLauncher, overrides: Sequence[str], number: int, jobs: list[_Job]) -> JobReturn:
    """Compose and check a job as Hydra would run it; a mistake is told as it would be there."""
    from accelerator.cli.compose.compose import plain
    from accelerator.cli.load import check_not_accelerated
    from accelerator.runtime.run import Result, check_config
    from accelerator.runtime.vectorized.fitness import why_alone

    assert launcher.hydra_context is not None
    assert launcher.config is not None
    config = launcher.hydra_context.config_loader.load_sweep_config(launcher.config, list(overrides))
    with open_dict(config):
        config.hydra.job.id, config.hydra.job.num = str(number), number
    found: list[tuple[Composed, dict[str, Any], str | None]] = []

    def take(composed: Composed) -> Result:
        with removed_if_unused(composed.run_dir):
            _spare(composed)
            values = plain(composed.config)
            check_not_accelerated(values, "train")
            check_config(values)
            changed = [name for name in ("chdir", "env_set") if config.hydra.job.get(name)]
            alone = f"hydra.job.{changed[0]}: it is for one job at a time" if changed else why_alone(values)
            found.append((composed, values, alone))
        return Result({}, composed.run_dir, None, None, 0, 0.0, 0.0)

    composing: Any = copy.copy(launcher.task_function)
    composing.command = replace(composing.command, job=take)
    told = run_job(
        hydra_context=launcher.hydra_context,
        task_function=composing,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
    jobs += [_Job(number, told, *each) for each in found]
    return told


def _spare(composed: Composed) -> None:
    """Leave out what many runs at once do without: one terminal has one live line, and pictures take a second each."""
    config = composed.config
    for key, always in SPARED.items():
        asked = any(override.lstrip("+").startswith(key) for override in composed.overrides)
        if (always or not asked) and OmegaConf.select(config, key) is not None:
            OmegaConf.update(config, key, None, merge=False)


def _split(jobs: Sequence[_Job]) -> list[_Job]:
    """The jobs that are to be trained together; the others are told why not."""
    from accelerator.runtime.vectorized.fitness import why_apart

    fit = [job for job in jobs if job.alone is None]
    for job in fit[1:]:
        job.alone = why_apart(job.values, fit[0].values)
    fit = [job for job in fit if job.alone is None]
    if len(fit) == 1:
        fit[0].alone = ""  # nothing to be told: there is no other
        return []
    return fit


def _tell_why(jobs: Sequence[_Job]) -> None:
    reasons: dict[str, list[int]] = {}
    for job in jobs:
        assert job.alone is not None
        reasons.setdefault(job.alone, []).append(job.number)
    for reason, numbers in reasons.items():
        which = f"{_listed(numbers)} is" if len(numbers) == 1 else f"{_listed(numbers)} are"
        print(f"{which} trained alone, in spite of sweep.vectorize: {reason}", flush=True)


def _listed(numbers: Sequence[int]) -> str:
    """``job 3``, ``jobs 0-7``, ``jobs 1, 3, 5``."""
    if len(numbers) == 1:
        return f"job {numbers[0]}"
    if list(numbers) == list(range(numbers[0], numbers[-1] + 1)):
        return f"jobs {numbers[0]}-{numbers[-1]}"
    return f"jobs {', '.join(map(str, numbers))}"


def _train(launcher: BasicLauncher, jobs: list[_Job]) -> str | None:
    """Train jobs together, and keep their records.

    Returns:
        Why they cannot be after all; None if they were.
    """
    from accelerator.cli.record import check_store
    from accelerator.cli.sweep_jobs import arrive
    from accelerator.runtime.run_directory import owned
    from accelerator.runtime.vectorized.stack import CannotStackError
    from accelerator.runtime.vectorized.together import execute_together
    from accelerator.tracking.fleet import Fleet
    from accelerator.tracking.record import STOPPED_SECONDS

    check_store(jobs[0].values)
    _allow_files(4 * len(jobs))
    sweep = jobs[0].composed.sweep
    assert sweep is not None
    tracking = jobs[0].values["tracking"]
    # One uploader for all: each of its own would import MLflow at the same time.
    fleet = Fleet(sweep, tracking["uri"]) if tracking["enabled"] else None
    outcomes: list[Result | Exception] = []
    patience = tracking["timeout"]
    with ExitStack() as folders:
        try:
            for job in jobs:
                folders.enter_context(owned(job.composed.run_dir))
            plans = _plans(jobs, fleet)
            outcomes = execute_together(plans, _Told([job.number for job in jobs]))
        except CannotStackError as error:
            return str(error)
        except KeyboardInterrupt:
            patience = 1.0
            raise
        finally:
            if any(isinstance(outcome, Terminated) for outcome in outcomes):
                patience = min(patience, STOPPED_SECONDS)
            if fleet is not None:
                arrive(fleet, [job.composed.run_dir for job in jobs], patience)
    _tell_hydra(launcher, jobs, outcomes)
    return None


def _plans(jobs: Sequence[_Job], fleet: Fleet | None) -> list[Any]:
    from accelerator.cli.record import Record, about_of
    from accelerator.runtime.vectorized.together import Plan
    from accelerator.tracking.fleet import FleetTracker
    from accelerator.tracking.provenance import git_tags

    commit, tracker = git_tags().get("git.commit"), partial(FleetTracker, fleet=fleet)
    plans = []
    for job in jobs:
        about = about_of("train", job.composed, job.values)
        record = Record(job.values, about, job.composed.run_dir, tracker=tracker)
        plans.append(Plan(job.values, job.composed.run_dir, about.fingerprint, commit, {"record": record}))
    return plans


def _tell_hydra(launcher: BasicLauncher, jobs: Sequence[_Job], outcomes: Sequence[Result | Exception]) -> None:
    """Say what became of each job, as if it had run alone."""
    task: Any = launcher.task_function
    stopped: BaseException | None = None
    for job, outcome in zip(jobs, outcomes, strict=True):
        config = job.composed.config
        if not isinstance(outcome, Exception):
            job.told.return_value = outcome.objective(config.checkpoint.monitor)
            continue
        task.raised.append(outcome)
        assert job.composed.sweep is not None
        task._failed(job.composed, job.composed.sweep, job.number, outcome)
        if isinstance(outcome, Terminated):
            stopped = outcome
        elif config.sweep.on_error == "stop":
            stopped = stopped or outcome
    if stopped is not None:
        raise SystemExit(stopped.exit_code if isinstance(stopped, AcceleratorError) else 1) from stopped


def _allow_files(count: int) -> None:
    """Every run has its journal and its lock open: let the process have as many files as the system lets it."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = count + 256
        if soft != resource.RLIM_INFINITY and soft < wanted:
            most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


class _Told:
    """Says now and then how far the jobs are."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self._numbers = numbers
        self._steps, self._begin, self._due = 0, 0.0, 0.0

    def __call__(self, contexts: Sequence[Context]) -> None:
        now = time.monotonic()
        if not self._begin:
            parameters = sum(p.numel() for p in contexts[0].model.parameters())
            print(
                f"{_listed(self._numbers)}: {len(contexts)} networks of {parameters:,} parameters, trained together",
                flush=True,
            )
            self._begin, self._due = now, now + EVERY
            return
        self._steps += len(contexts)
        if now >= self._due:
            self._due = now + EVERY
            state, feed = contexts[0].state, contexts[0].data.train
            print(
                f"{len(contexts)} jobs in epoch {state.epoch + 1} of {contexts[0].config['trainer']['max_epochs']}, "
                f"batch {state.batch:,} of {feed.batches:,}: {self._steps / (now - self._begin):,.0f} steps/s together",
                flush=True,
            )
