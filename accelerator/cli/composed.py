"""A command whose arguments compose a config: ``accelerator train model=mlp``, ``accelerator evaluate load=last``.

What is common to all of them stands here: their flags, Hydra, sweeps, and every mistake told in a sentence.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from os import rmdir
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerator.cli.actions import Parser
from accelerator.cli.command import exit_code_of, working_directory_importable
from accelerator.errors import ConfigError, ConfigFileError, RunDirectoryError, Terminated

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from accelerator.runtime.run import Result

PLACES = ("outputs", "multirun", "studies")  # where the folders of runs stand
FLAGS = ("--help", "--explain", "--dry-run", "--debug")


@dataclass(frozen=True)
class Composed:
    """What is asked of one job.

    Attributes:
        config: composed; Hydra's own part may be in it.
        run_dir: the job's folder.
        overrides: what it was composed with.
        choices: the option of each config group.
        files: what it was composed of; see `accelerator.cli.compose.composition`.
        sweep: the folder of the sweep it is a job of.
    """

    config: DictConfig
    run_dir: Path
    overrides: Sequence[str]
    choices: dict[str, Any]
    files: list[dict[str, str]]
    sweep: Path | None = None


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
        from accelerator.cli.compose import COMPOSITION_ERRORS, composer, composition
        from accelerator.cli.mistakes import diagnose
        from accelerator.cli.resume import resolve

        if isinstance(overrides, str):
            raise ConfigError(
                f"{self.name}({overrides!r}): expected a list of overrides, such as {overrides.split()!r}"
            )
        arguments = resolve(list(overrides))
        try:
            with working_directory_importable(), composer() as compose:
                config = compose(arguments)
                run_dir = Path(config.hydra.run.dir).absolute()
                choices = dict(config.hydra.runtime.choices)
                files = composition(arguments)
        except COMPOSITION_ERRORS as error:
            raise diagnose(arguments, error) from error
        with working_directory_importable():
            return self.job(Composed(config, run_dir, arguments, choices, files))


def _act(command: ComposedCommand, options: argparse.Namespace, arguments: list[str]) -> None:
    from yaml import YAMLError

    from accelerator.cli.compose import COMPOSITION_ERRORS, composer, launch
    from accelerator.cli.mistakes import check_flags, diagnose, located
    from accelerator.cli.resume import resolve

    check_flags(arguments, list(FLAGS))
    arguments = resolve(arguments)
    jobs = _Jobs(command)
    try:
        if options.explain:
            from accelerator.cli.explain import explain

            explain(arguments)
        elif options.dry_run:
            if command.dry_run is None:
                raise ConfigError(f"accelerator {command.name} has no --dry-run: it is for accelerator train")
            with composer() as compose:
                config = compose(arguments)
            command.dry_run(config)
        else:
            launch(jobs, [*arguments, f"hydra.job.name={command.name}"])
            if jobs.raised:
                raise jobs.raised[0]
    except COMPOSITION_ERRORS as error:
        raise diagnose(arguments, error) from error
    except YAMLError as error:
        raise ConfigError(f"a config file is not valid YAML: {' '.join(str(error).split())}") from error
    except ConfigFileError:
        raise
    except ConfigError as error:
        raise located(error, arguments) from error
    except SystemExit:
        if jobs.raised and isinstance(jobs.raised[-1], Terminated):
            raise jobs.raised[-1] from None
        raise
    except OSError as error:
        if jobs.started:
            raise
        # Nothing has happened yet but Hydra making the run directory.
        raise RunDirectoryError(
            f"cannot make the run directory {error.filename}: {error.strerror}; set hydra.run.dir to a folder "
            "you may write to"
        ) from error


class _Jobs:
    """What Hydra calls for each job; remembers what they raised, for Hydra would print a report of its own."""

    def __init__(self, command: ComposedCommand) -> None:
        self.command = command
        self.started: list[Path] = []
        self.raised: list[BaseException] = []
        self.__name__ = command.name

    def __call__(self, config: DictConfig) -> float | None:
        """Run the job; returns the objective of a sweep."""
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode
        from omegaconf import OmegaConf

        from accelerator.cli.compose import composition
        from accelerator.cli.resume import recorded

        hydra = HydraConfig.get()
        overrides: Any = OmegaConf.to_container(hydra.overrides.task, resolve=False)
        choices: Any = OmegaConf.to_container(hydra.runtime.choices)
        self.started.append(Path(hydra.runtime.output_dir))
        sweep = Path(hydra.sweep.dir).absolute() if hydra.mode is not RunMode.RUN else None
        if sweep is not None:
            print(f"job {hydra.job.num}: {shlex.join(recorded(overrides))}")
        try:
            composed = Composed(config, self.started[-1], overrides, choices, composition(overrides), sweep)
            result = self.command.job(composed)
        except BaseException as error:
            self.raised.append(error)
            if hydra.mode is RunMode.RUN:
                return None
            if isinstance(error, Terminated):
                # Hydra goes on with the next job after any Exception; a signal is meant for the sweep.
                raise SystemExit(error.exit_code) from error
            raise
        return result.metrics.get(config.checkpoint.monitor)


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


@contextmanager
def removed_if_unused(run_dir: Path) -> Iterator[None]:
    """A run that never started leaves no folder behind."""
    try:
        yield
    except BaseException:
        with suppress(OSError):
            left = {path.name for path in run_dir.iterdir()}
            if left <= {".lock"}:
                shutil.rmtree(run_dir)
                for parent in list(run_dir.parents)[:2]:
                    if parent.name in PLACES or parent.parent.name in PLACES:
                        rmdir(parent)
        raise
