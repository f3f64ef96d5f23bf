"""``accelerator train``: compose, check, train, and say where to look."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import shutil
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from accelerator.errors import AcceleratorError, ConfigError, RunDirectoryError, Terminated, UserError

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
    debug = "--debug" in arguments
    try:
        options, rest = _own_options(arguments)
        if options.help:
            from accelerator.cli.help import train_help

            print(train_help())
            return 0
        with _working_directory_importable(), _notices_in_a_line():
            return _act(options, rest)
    except AcceleratorError as error:
        _report(error, debug=debug)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped at once", file=sys.stderr)
        return 130
    except Exception as error:
        # A fault of ours or of the user's code: its traceback is what helps.
        traceback.print_exception(error)
        return 1


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
        with _working_directory_importable(), composer() as compose:
            config = compose(arguments)
            run_dir = Path(config.hydra.run.dir).absolute()
    except COMPOSITION_ERRORS as error:
        raise diagnose(arguments, error) from error
    with _working_directory_importable():
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
    from accelerator.cli.record import Record
    from accelerator.cli.resume import check_unchanged, computing, recorded
    from accelerator.runtime.checkpoint.meta_handler import fingerprint
    from accelerator.runtime.run import check_config, execute
    from accelerator.runtime.run_directory import CHECKPOINTS, owned
    from accelerator.tracking.provenance import git_tags

    with _removed_if_unused(run_dir):
        values, unresolved = plain(config), plain(config, resolve=False)
        check_config(values)
        resume = Path(values["resume"]) if values["resume"] else None
        in_place = resume is not None and resume.is_dir()
        with owned(run_dir):
            if in_place:
                check_unchanged(values, unresolved, run_dir)
            record = Record(values, unresolved, run_dir, recorded(overrides))
            assert resume is None or resume.is_absolute()
            result = execute(
                values,
                run_dir,
                resume=resume / CHECKPOINTS if in_place and resume is not None else resume,
                fingerprint=fingerprint(computing(values)),
                commit=git_tags().get("git.commit"),
                callbacks={"record": record},
            )
    record.print_summary(result)
    return result


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
    parser = _Parser(prog="accelerator train", add_help=False, allow_abbrev=False)
    for flag in _FLAGS:
        parser.add_argument(flag, action="store_true")
    parser.add_argument("-h", dest="help", action="store_true")
    parser.add_argument("--overrides", default="")
    options, rest = parser.parse_known_args(arguments)
    try:
        return options, rest + shlex.split(options.overrides)
    except ValueError as error:
        raise ConfigError(f"--overrides {options.overrides!r} cannot be split as a shell would: {error}") from error


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see accelerator train --help")


def _report(error: AcceleratorError, *, debug: bool) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if debug:
        traceback.print_exception(error)
    problems = error.problems if isinstance(error, ConfigError) else [str(error)]
    if error.exit_code > 128:  # a signal, not an error
        console.print(Text(str(error)))
        return
    what = "error" if len(problems) == 1 else f"{len(problems)} errors"
    console.print(Text.assemble((f"{what}: ", "bold red"), problems[0] if len(problems) == 1 else ""))
    for problem in problems if len(problems) > 1 else ():
        console.print(Text(f"  • {problem}"))
    if isinstance(error, UserError) and not debug:
        console.print(Text("(--debug shows where it was raised)", "dim"))


@contextmanager
def _working_directory_importable() -> Iterator[None]:
    """A project's own modules are found from its folder, as ``python script.py`` would find them."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.path.remove(here)


@contextmanager
def _notices_in_a_line() -> Iterator[None]:
    """What the package, the domains and warnings have to say goes to stderr as plain sentences."""
    handler = logging.StreamHandler()
    loggers = [logging.getLogger(name) for name in ("accelerator", "domain")]
    for logger in loggers:
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
        try:
            yield
        finally:
            for logger in loggers:
                logger.removeHandler(handler)


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
