"""A command whose arguments compose a config: ``accelerator train model=mlp``, ``accelerator evaluate load=last``.

What is common to all of them stands here: their flags, Hydra, sweeps, and every mistake told in a sentence.
"""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerator.cli.actions import Parser
from accelerator.cli.command import exit_code_of, notices_in_a_line, working_directory_importable
from accelerator.cli.compose.composed import FAILURES, Composed, removed_if_unused
from accelerator.cli.compose.path_checks import check_paths
from accelerator.errors import ConfigError, ConfigFileError, RunDirectoryError, Terminated

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from accelerator.cli.sweep import SweepRecord
    from accelerator.runtime.run import Result

FLAGS = ("--help", "--explain", "--dry-run", "--debug")


@dataclass(frozen=True)
class ComposedCommand:
    """One such command.

    Attributes:
        name: what is typed.
        job: what it does with a composed config.
        help: its help text.
        dry_run: what ``--dry-run`` does; None where there is no such flag.
    """

    name: str
    job: Callable[[Composed], Result]
    help: Callable[[], str]
    dry_run: Callable[[DictConfig], None] | None = None

    def main(self, arguments: list[str]) -> int:
        """The command line's entry.

        Returns:
            The exit code; see `accelerator.cli.app.main`.
        """

        def act() -> int:
            options, rest = _own_options(self.name, arguments)
            if options.help:
                print(self.help())
                return 0
            _act(self, options, rest)
            return 0

        return exit_code_of(act, debug="--debug" in arguments)

    def __call__(self, overrides: Sequence[str] = ()) -> Result:
        """The same from Python.

        Raises:
            AcceleratorError: as the command line would report; the user's own exceptions pass through.
        """
        from accelerator.cli.compose.compose import COMPOSITION_ERRORS, check_present, composer, composition
        from accelerator.cli.compose.mistakes import diagnose
        from accelerator.cli.resume import resolve

        if isinstance(overrides, str):
            raise ConfigError(
                f"{self.name}({overrides!r}): expected a list of overrides, such as {overrides.split()!r}"
            )
        check_paths(overrides)
        arguments = resolve(list(overrides))
        try:
            with working_directory_importable(), composer() as compose:
                config = compose(arguments)
                run_dir = Path(config.hydra.run.dir).absolute()
                choices = dict(config.hydra.runtime.choices)
                files = composition(arguments)
        except COMPOSITION_ERRORS as error:
            raise diagnose(arguments, error) from error
        check_present(config)
        with working_directory_importable():
            return self.job(Composed(config, run_dir, arguments, choices, files))


def _act(command: ComposedCommand, options: argparse.Namespace, arguments: list[str]) -> None:
    from yaml import YAMLError

    from accelerator.cli.compose.compose import COMPOSITION_ERRORS, check_present, composer
    from accelerator.cli.compose.mistakes import check_flags, diagnose, located
    from accelerator.cli.resume import resolve

    check_flags(arguments, list(FLAGS))
    check_paths(arguments)
    arguments = resolve(arguments)
    jobs = _Jobs(command)
    try:
        if {"-m", "--multirun"}.intersection(arguments):
            from accelerator.cli.hydra_utils.sweep_check import check_sweep, first_job

            check_sweep(arguments, signatures=command.name == "train")
            if options.explain or options.dry_run:
                arguments = first_job(arguments)
                print(f"the sweep's first job: {shlex.join(arguments)}")
        if options.explain:
            from accelerator.cli.compose.explain import explain

            explain(arguments, signatures=command.name == "train")
        elif options.dry_run:
            if command.dry_run is None:
                raise ConfigError(f"accelerator {command.name} has no --dry-run: it is for accelerator train")
            with composer() as compose:
                config = compose(arguments)
            check_present(config)
            command.dry_run(config)
        else:
            _launch(jobs, [*arguments, f"hydra.job.name={command.name}"])
    except COMPOSITION_ERRORS as error:
        raise diagnose(arguments, error) from error
    except YAMLError as error:
        raise ConfigError(f"a config file is not valid YAML: {' '.join(str(error).split())}") from error
    except ConfigFileError:
        raise
    except ConfigError as error:
        raise located(error, arguments) from error
    except SystemExit:
        if jobs.raised:
            raise jobs.raised[-1] from None
        raise
    except OSError as error:
        if jobs.started:
            raise
        # Nothing has happened yet but Hydra making the run directory.
        key = "hydra.sweep.dir" if {"-m", "--multirun"}.intersection(arguments) else "hydra.run.dir"
        raise RunDirectoryError(
            f"cannot make the run directory {error.filename}: {error.strerror}; set {key} to a folder you may write to"
        ) from error


def _launch(jobs: _Jobs, arguments: Sequence[str]) -> None:
    """Run the jobs; raises what they raised."""
    from accelerator.cli.compose.compose import COMPOSITION_ERRORS, launch
    from accelerator.cli.sweep import LAST_FAILURES
    from accelerator.cli.sweep_jobs import JobsFailedError

    LAST_FAILURES.clear()
    other = None
    try:
        launch(jobs, arguments)
    except COMPOSITION_ERRORS:
        raise
    except Exception as error:  # of a sweeper that had nothing to go on with, or a fault
        other = error
    if jobs.raised:
        raise jobs.raised[0] from other
    if LAST_FAILURES:  # of jobs in other processes
        raise JobsFailedError(LAST_FAILURES) from other
    if other is not None:
        raise other


class _Jobs:
    """What Hydra calls for each job; keeps what they raised to itself, for Hydra would print a report of its own.

    A launcher may call a copy of it in another process: what is noted in the sweep's folder is for all of them.
    """

    def __init__(self, command: ComposedCommand) -> None:
        self.command = command
        self.started: list[Path] = []
        self.raised: list[BaseException] = []
        self.process = os.getpid()
        self.files: dict[str, list[dict[str, str]]] = {}
        self.record: SweepRecord | None = None  # of the sweep, where its jobs run in this process
        self.__name__ = command.name

    def __call__(self, config: DictConfig) -> float | None:
        """Run the job; returns the objective of a sweep, None if the job failed."""
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode
        from omegaconf import OmegaConf

        from accelerator.cli.compose.compose import check_present, composition
        from accelerator.cli.resume import recorded

        hydra = HydraConfig.get()
        overrides: Any = OmegaConf.to_container(hydra.overrides.task, resolve=False)
        choices: Any = OmegaConf.to_container(hydra.runtime.choices)
        self.started.append(Path(hydra.runtime.output_dir))
        sweep = Path(hydra.sweep.dir).absolute() if hydra.mode is not RunMode.RUN else None
        here = os.getpid() == self.process
        if sweep is not None:
            if config.sweep.on_error == "stop" and (sweep / FAILURES).exists():  # in another process
                return None
            print(f"job {hydra.job.num}: {shlex.join(recorded(overrides))}", flush=True)
        chosen = str(choices)  # they, and nothing else, decide which files are read
        fleet = self.record.fleet() if self.record is not None else None
        composed = Composed(config, self.started[-1], overrides, choices, self.files.get(chosen, []), sweep, fleet)
        try:
            with nullcontext() if here else told_here():
                with removed_if_unused(self.started[-1]):
                    check_present(config)
                if chosen not in self.files:
                    self.files[chosen] = composition(overrides)
                    composed = replace(composed, files=self.files[chosen])
                result = self.command.job(composed)
        except BaseException as error:
            self.raised.append(error)
            if sweep is None:
                return None
            self._failed(composed, sweep, hydra.job.num, error)
            if here and (isinstance(error, Terminated) or config.sweep.on_error == "stop"):
                # Hydra goes on with the next job after any Exception; a signal is meant for the sweep.
                raise SystemExit(getattr(error, "exit_code", 1)) from error
            if not isinstance(error, Exception):
                raise
            return None
        return result.objective(config.checkpoint.monitor)

    def _failed(self, composed: Composed, sweep: Path, job: int, error: BaseException) -> None:
        from accelerator.cli.compose.compose import plain
        from accelerator.cli.record import record_failure
        from accelerator.cli.resume import recorded
        from accelerator.cli.sweep_jobs import note_failure
        from accelerator.tracking.masking import secrets_of

        values = plain(composed.config)
        secrets = secrets_of(values, plain(composed.config, resolve=False))
        note_failure(sweep, job, recorded(composed.overrides), error, secrets)
        record_failure(self.command.name, composed, values, error)


@contextmanager
def told_here() -> Iterator[None]:
    """What a command has around it, for a job in a launcher's process."""
    with working_directory_importable(), notices_in_a_line():
        yield


def _own_options(name: str, arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = Parser(prog=f"accelerator {name}", add_help=False, allow_abbrev=False)
    for flag in FLAGS:
        parser.add_argument(flag, action="store_true")
    parser.add_argument("-h", dest="help", action="store_true")
    parser.add_argument("--overrides", default="")
    options, rest = parser.parse_known_args(arguments)
    try:
        return options, rest + shlex.split(options.overrides)
    except ValueError as error:
        raise ConfigError(f"--overrides {options.overrides!r} cannot be split as a shell would: {error}") from error
