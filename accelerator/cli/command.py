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
from pathlib import Path

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
        # A fault of ours or of the user's code: its traceback is what helps.
        traceback.print_exception(error)
        return 1


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
    """A project's own modules are found from its folder, as ``python script.py`` would find them."""
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
