"""What every command does: errors become a sentence and an exit code, notices a line, the project importable."""

from __future__ import annotations

import logging
import os
import select
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

from accelerator.errors import AcceleratorError, ConfigError, UserError


def exit_code_of(act: Callable[[], int], *, debug: bool, runs_project: bool = True) -> int:
    """Act, and tell what went wrong.

    Args:
        act: the command; returns its exit code.
        debug: show where an error was raised.
        runs_project: whether the command imports the project's modules. For one that only reads, none of them can
            stand in for a module of ours or of the standard library.

    Returns:
        The exit code; see `accelerator.cli.app.main`.
    """
    try:
        with working_directory_importable() if runs_project else nullcontext(), notices_in_a_line():
            code = act()
            sys.stdout.flush()
            return code
    except AcceleratorError as error:
        report(error, debug=debug)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped at once", file=sys.stderr)
        return 130
    except BrokenPipeError as error:
        if not _nobody_reads():
            traceback.print_exception(error)
            return 1
        return 0
    except Exception as error:
        if not debug and (told := _stands_in(error)) is not None:
            report(ConfigError(told), debug=debug)
            return ConfigError.exit_code
        # A fault of ours or of the user's code: its traceback is what helps.
        traceback.print_exception(error)
        return 1


def _stands_in(error: BaseException) -> str | None:
    """What is wrong where a module lacks something because a file of the project has taken its name; else None."""
    module = error.obj if isinstance(error, AttributeError) else None
    name = error.name if isinstance(error, ImportError) else module.__name__ if isinstance(module, ModuleType) else ""
    head = (name or "").partition(".")[0]
    here = Path.cwd()
    file = Path(getattr(sys.modules.get(head), "__file__", None) or here)
    if not file.is_relative_to(here) or len(file.relative_to(here).parts) not in (1, 2):
        return None
    elsewhere = PathFinder.find_spec(head, [entry for entry in sys.path if Path(entry or here).resolve() != here])
    if head not in sys.stdlib_module_names and elsewhere is None:
        return None
    own = file if file.parent == here else file.parent
    return (
        f"{own.name} in {here} takes the place of the module '{head}' that others import ({error}): "
        "rename it, and what imports it (--debug shows where it was raised)"
    )


def _nobody_reads() -> bool:
    """Whether what is printed has no reader any more (``| head``); what is left of it then goes nowhere."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), select.POLLOUT)
        gone = any(event & select.POLLERR for _, event in poll.poll(0))
    except (OSError, ValueError, AttributeError):  # it is no file, or the system has no poll
        return False
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it when it ends
    return gone


def report(error: AcceleratorError, *, debug: bool) -> None:
    """Tell an error in a sentence, or each of several in its own."""
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
    if (
        isinstance(error, UserError) and not isinstance(error, ConfigError) and not debug
    ):  # a typing mistake says it all
        console.print(Text("(--debug shows where it was raised)", "dim"))


@contextmanager
def working_directory_importable() -> Iterator[None]:
    """A project's own modules are found from its folder, as ``python script.py`` would find them.

    They come first: behind what is installed, an older installed copy of the project would run in its place, unnoticed.
    """
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.path.remove(here)


@contextmanager
def notices_in_a_line() -> Iterator[None]:
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
