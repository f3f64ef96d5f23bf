"""``accelerator train``: compose, check, train, and say where to look."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerator.cli.actions import Parser
from accelerator.cli.command import exit_code_of, working_directory_importable
from accelerator.errors import ConfigError, RunDirectoryError, Terminated

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from accelerator.runtime.run import Result

_FLAGS = ("--help", "--explain", "--dry-run", "--debug")

# Which jobs Hydra has called, and what they raised: Hydra would print its own report of an exception it sees.
_started: list[Path] = []
_raised: list[BaseException] = []


def train_command(arguments: list[str]) -> int:
    """The command line's entry.

    Returns:
        The exit code; see `accelerator.cli.app.main`.
    """

    def act() -> int:
        options, rest = _own_options(arguments)
        if options.help:
            from accelerator.cli.help import train_help

            print(train_help())
            return 0
        return _act(options, rest)

    return exit_code_of(act, debug="--debug" in arguments)


def train(overrides: Sequence[str] = ()) -> Result:
    """Train from Python what ``accelerator train <overrides>`` trains.

    >>> result = train(["model=mlp", "trainer.max_epochs=1"])  # doctest: +SKIP
    >>> result.metrics["test/loss"]  # doctest: +SKIP

    Raises:
        AcceleratorError: as the command line would report; the user's own exceptions pass through.
    """
    from accelerator.cli.compose import COMPOSITION_ERRORS, composer
    from accelerator.cli.mistakes import diagnose
    from accelerator.cli.resume import resolve

    if isinstance(overrides, str):
        raise ConfigError(f"train({overrides!r}): expected a list of overrides, such as {overrides.split()!r}")
    arguments = resolve(list(overrides))
    try:
        with working_directory_importable(), composer() as compose:
            config = compose(arguments)
            run_dir = Path(config.hydra.run.dir).absolute()
    except COMPOSITION_ERRORS as error:
        raise diagnose(arguments, error) from error
    with working_directory_importable():
        return run_job(config, run_dir, arguments)


def _act(options: argparse.Namespace, arguments: list[str]) -> int:
    from yaml import YAMLError

    from accelerator.cli.compose import COMPOSITION_ERRORS, composer, launch
    from accelerator.cli.mistakes import check_flags, diagnose, located
    from accelerator.cli.resume import resolve

    check_flags(arguments, list(_FLAGS))
    arguments = resolve(arguments)
    try:
        if options.explain:
            from accelerator.cli.explain import explain

            explain(arguments)
        elif options.dry_run:
            with composer() as compose:
                config = compose(arguments)
            _dry_run(config)
        else:
            _started.clear()
            _raised.clear()
            launch(_job, arguments)
            if _raised:
                raise _raised[0]
    except COMPOSITION_ERRORS as error:
        raise diagnose(arguments, error) from error
    except YAMLError as error:
        raise ConfigError(f"a config file is not valid YAML: {' '.join(str(error).split())}") from error
    except ConfigError as error:
        raise located(error, arguments) from error
    except SystemExit:
        if _raised and isinstance(_raised[-1], Terminated):
            raise _raised[-1] from None
        raise
    except OSError as error:
        if _started:
            raise
        # Nothing has happened yet but Hydra making the run directory.
        raise RunDirectoryError(
            f"cannot make the run directory {error.filename}: {error.strerror}; set hydra.run.dir to a folder "
            "you may write to"
        ) from error
    return 0


def _job(config: DictConfig) -> float | None:
    """What Hydra calls for each job; returns the objective of a sweep."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    from accelerator.cli.resume import recorded

    hydra = HydraConfig.get()
    overrides: Any = OmegaConf.to_container(hydra.overrides.task, resolve=False)
    _started.append(Path(hydra.runtime.output_dir))
    if hydra.mode is not RunMode.RUN:
        print(f"job {hydra.job.num}: {shlex.join(recorded(overrides))}")
    try:
        result = run_job(config, _started[-1], overrides)
    except BaseException as error:
        _raised.append(error)
        if hydra.mode is RunMode.RUN:
            return None
        if isinstance(error, Terminated):
            # Hydra goes on with the next job after any Exception; a signal is meant for the sweep.
            raise SystemExit(error.exit_code) from error
        raise
    return result.metrics.get(config.checkpoint.monitor)


def run_job(config: DictConfig, run_dir: Path, overrides: Sequence[str]) -> Result:
    """Check a composed config, train it in a folder, keep its record, and print where to look.

    Args:
        config: composed; Hydra's own part may be in it.
        run_dir: the run's folder.
        overrides: what it was composed with, for the record.
    """
    from accelerator.cli.compose import plain
    from accelerator.cli.resume import check_unchanged, recorded
    from accelerator.runtime.engine.device import count_of
    from accelerator.runtime.run import check_config
    from accelerator.runtime.run_directory import owned
    from accelerator.utilities import distributed

    with _removed_if_unused(run_dir):
        values, unresolved = plain(config), plain(config, resolve=False)
        check_config(values)
        job = Job(values, unresolved, run_dir, recorded(overrides))
        if distributed.launched() is not None:
            job = _agreed(job)
        with owned(job.run_dir) if distributed.rank() == 0 else nullcontext():
            if job.in_place and distributed.rank() == 0:
                check_unchanged(values, unresolved, job.run_dir)
            engine = values["engine"]
            ranks = count_of(engine.get("devices"))
            if ranks == 1 or distributed.launched() is not None:
                return job()
            from accelerator.cli.launch import on_ranks

            waiting = {key: engine[key] for key in ("restarts", "timeout") if key in engine}
            return on_ranks(job, ranks, run_dir=job.run_dir, **waiting)


@dataclass(frozen=True)
class Job:
    """A run, composed and checked: what each of its ranks is given.

    Args:
        values: the config, resolved, plain.
        unresolved: the same before interpolation.
        run_dir: the run's folder; somebody else sees to it that it is no other's.
        overrides: what the user typed.
    """

    values: dict[str, Any]
    unresolved: dict[str, Any]
    run_dir: Path
    overrides: list[str]

    @property
    def resume(self) -> Path | None:
        """The run directory or checkpoint to go on from."""
        return Path(self.values["resume"]) if self.values["resume"] else None

    @property
    def in_place(self) -> bool:
        """Whether the run goes on in its own folder."""
        return self.resume is not None and self.resume.is_dir()

    def __call__(self, again: bool = False) -> Result:
        """Train, and keep the record.

        Args:
            again: go on from the folder's own newest checkpoint, after a restart.
        """
        from accelerator.cli.record import Record
        from accelerator.cli.resume import computing
        from accelerator.runtime.checkpoint.meta_handler import fingerprint
        from accelerator.runtime.run import execute
        from accelerator.runtime.run_directory import CHECKPOINTS
        from accelerator.tracking.provenance import git_tags
        from accelerator.utilities import distributed

        record = Record(self.values, self.unresolved, self.run_dir, self.overrides)
        assert self.resume is None or self.resume.is_absolute()
        result = execute(
            self.values,
            self.run_dir,
            resume=self.run_dir / CHECKPOINTS if self.in_place or again else self.resume,
            fingerprint=fingerprint(computing(self.values)),
            commit=git_tags().get("git.commit"),
            callbacks={"record": record},
        )
        if distributed.rank() == 0:
            record.print_summary(result)
        return result


def _agreed(job: Job) -> Job:
    """Rank 0's job, for all that torchrun started: each has composed its own, in a folder of its own."""
    from accelerator.runtime.engine.device import backend_of, find_device
    from accelerator.utilities import distributed

    engine = job.values["engine"]
    device = find_device(engine.get("device", "auto"), engine.get("devices"))
    distributed.start(backend_of(device), engine.get("timeout", 120.0))
    agreed = distributed.from_main(job)
    if distributed.rank() > 0 and job.run_dir != agreed.run_dir:
        with suppress(OSError):
            job.run_dir.rmdir()
    return agreed


def _dry_run(config: DictConfig) -> None:
    from rich.console import Console

    from accelerator.cli.compose import plain
    from accelerator.runtime.run import check_config, dry_run

    values = plain(config)
    check_config(values)
    context = dry_run(values)
    parameters = [sum(p.numel() for p in level.parameters()) for level in context.levels]
    console = Console(highlight=False)
    console.print(f"{values['model'].get('name') or values['model']['_target_']}: {parameters[0]:,} parameters")
    console.print(f"data: inputs {context.data.input_shape}, targets {context.data.output_shape} a sample")
    if context.network is not None:
        for level, cost in enumerate(context.costs):
            console.print(f"level {level}: {parameters[level]:,} parameters, a step costs {cost:.3g} of the full one")
    visits: list[list[str]] = []  # a cycle in one line
    for stage in context.stages:
        if not stage.cycle:
            visits.append([])
        visits[-1].append(f"level {stage.level}: {stage.steps:,} steps")
    for visit, same in groupby(visits):
        times = len(list(same))
        console.print(" · ".join(visit) + (f", {times:,} times over" if times > 1 else ""))
    console.print("dry run: everything fits; nothing was written")


def _own_options(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = Parser(prog="accelerator train", add_help=False, allow_abbrev=False)
    for flag in _FLAGS:
        parser.add_argument(flag, action="store_true")
    parser.add_argument("-h", dest="help", action="store_true")
    parser.add_argument("--overrides", default="")
    options, rest = parser.parse_known_args(arguments)
    try:
        return options, rest + shlex.split(options.overrides)
    except ValueError as error:
        raise ConfigError(f"--overrides {options.overrides!r} cannot be split as a shell would: {error}") from error


@contextmanager
def _removed_if_unused(run_dir: Path) -> Iterator[None]:
    """A run that never started leaves no folder behind."""
    try:
        yield
    except BaseException:
        with suppress(OSError):
            left = {path.name for path in run_dir.iterdir()}
            if left <= {".lock"}:
                shutil.rmtree(run_dir)
                for parent in list(run_dir.parents)[:2]:
                    if parent.name in ("outputs", "multirun") or parent.parent.name in ("outputs", "multirun"):
                        os.rmdir(parent)
        raise
