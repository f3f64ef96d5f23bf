"""What every command does: errors become a sentence and an exit code, notices a line, the project importable."""

from __future__ import annotations

import logging
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from accelerator.errors import AcceleratorError, ConfigError, UserError


def exit_code_of(act: Callable[[], int], *, debug: bool) -> int:
    """Act, and tell what went wrong.

    Args:
        act: the command; returns its exit code.
        debug: show where an error was raised.

    Returns:
        The exit code; see `accelerator.cli.app.main`.
    """
    try:
        with working_directory_importable(), notices_in_a_line():
            return act()
    except AcceleratorError as error:
        report(error, debug=debug)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped at once", file=sys.stderr)
        return 130
    except Exception as error:
        # A fault of ours or of the user's code: its traceback is what helps.
        traceback.print_exception(error)
        return 1


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
    if isinstance(error, UserError) and not debug:
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
