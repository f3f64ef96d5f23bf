"""The command ``accelerator``: which command was asked for; everything else is imported by that command."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from importlib import import_module
from typing import Any, NoReturn

from accelerator import __version__
from accelerator.cli.commands import COMMANDS, SECTIONS
from accelerator.errors import UserError, did_you_mean

_FLAGS = ("-h", "--help", "--version")

_EXAMPLES = """examples:
  accelerator train                                   the default run: a cascade of networks on a Poisson problem
  accelerator train model=mlp optimizer.lr=0.01       another model, another learning rate
  accelerator train --explain                         every value, and the file it comes from
  accelerator train -m optimizer.lr=0.1,0.01          a sweep
  accelerator list model                              every model, and what it takes
  accelerator checkpoint list                         what the newest run has saved

"accelerator COMMAND --help" tells more, with examples."""


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code: 0 done, 1 a fault, 3 a mistake in config or data, 130 or 143 stopped by a signal.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog="accelerator",
        usage="accelerator COMMAND ...",
        description="Compose a PyTorch run from YAML, train it on any engine, keep its record.",
        epilog=_commands() + _EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"accelerator {__version__}")
    parser.add_argument("command", nargs="?", help=argparse.SUPPRESS)
    # What follows the command is its own business: Hydra's flags and overrides look like nothing argparse knows.
    if argv and argv[0] in ("-sc", "--shell-completion"):
        return _complete(argv)
    if argv and argv[0] not in (*COMMANDS, *_FLAGS):
        what, known = ("flag", _FLAGS) if argv[0].startswith("-") else ("command", COMMANDS)
        near = did_you_mean(argv[0], known, show=0) or "; accelerator --help lists what there is"
        print(f"error: there is no {what} '{argv[0]}'{near}", file=sys.stderr)
        return UserError.exit_code
    chosen, rest = parser.parse_args(argv[:1]), argv[1:]
    if chosen.command is None:
        parser.print_help()
        return 0
    # torch's CPU threads spin while they wait for one another: with another process on the machine (our uploader is
    # one) steps took 3 times as long; waiting passively costs nothing measurable. Read once, when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return _found(COMMANDS[chosen.command].act)(rest)


def _commands() -> str:
    """The commands by what they are for."""
    width = max(map(len, COMMANDS))
    lines = []
    for title, names in SECTIONS.items():
        lines += [title, *(f"  {name:<{width}}  {COMMANDS[name].summary}" for name in names), ""]
    return "\n".join([*lines, ""])


def _found(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def _complete(argv: list[str]) -> int:
    """Answer a shell, or do with Hydra's flag what Hydra does."""
    from accelerator.cli.completion.command import complete_command

    return complete_command(argv)


def entry() -> NoReturn:
    """The command as a process of its own."""
    try:
        code = main()
    except KeyboardInterrupt:  # while the command is imported: it has not begun
        code = 128 + signal.SIGINT
    leave(code)


def leave(code: int) -> NoReturn:
    """End the process."""
    if code == 128 + signal.SIGINT:
        # Python's own way out takes seconds with torch loaded; whoever pressed Ctrl-C waits for the prompt.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    entry()
