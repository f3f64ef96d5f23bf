"""A command that is a family of actions (``accelerator checkpoint list``): parsing, help, and which function acts.

Only argparse is imported here, so that help answers at once; the module of an action is imported when it acts.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Mapping
from typing import NamedTuple, NoReturn

from accelerator.cli.command import exit_code_of
from accelerator.errors import ConfigError, did_you_mean


class Parser(argparse.ArgumentParser):
    """Reports a mistake as the rest of the command line does."""

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong, and where help is."""
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message and unknown.startswith("-"):
            flag = unknown.split()[0].split("=")[0]
            message = f"there is no flag {flag}{did_you_mean(flag, self.flags(), most=1, show=0)}"
        raise ConfigError(f"{message}; see {self.prog} --help")

    def flags(self) -> list[str]:
        """Its flags, and those of its actions."""
        found = list(self._option_string_actions)
        for action in self._actions:
            for parser in action.choices.values() if isinstance(action.choices, dict) else ():
                found += parser.flags() if isinstance(parser, Parser) else []
        return found


class Action(NamedTuple):
    """One action of a command.

    Attributes:
        summary: one line, without a capital or a full stop.
        act: ``"module:function"``; called with the parsed options, returns the exit code or None for 0.
        arguments: adds the action's own to its parser.
        epilog: examples, and what else is to be said.
    """

    summary: str
    act: str
    arguments: Callable[[argparse.ArgumentParser], object] = lambda parser: None
    epilog: str = ""


def run_action(name: str, description: str, epilog: str, actions: Mapping[str, Action], arguments: list[str]) -> int:
    """Parse and act.

    Args:
        name: the command's name.
        description: what it is for.
        epilog: examples of its actions.
        actions: by name, in the order of the help.
        arguments: what was typed after the command.

    Returns:
        The exit code; see `accelerator.cli.app.main`.
    """

    def act() -> int:
        options = _parsed(name, description, epilog, actions, [a for a in arguments if a != "--debug"])
        if options is None:
            return 0
        module, _, function = actions[options.action].act.partition(":")
        return getattr(importlib.import_module(module), function)(options) or 0

    return exit_code_of(act, debug="--debug" in arguments)


def run_alone(
    name: str,
    description: str,
    epilog: str,
    add: Callable[[argparse.ArgumentParser], object],
    act: Callable[[argparse.Namespace], int | None],
    arguments: list[str],
    *,
    runs_project: bool = False,
) -> int:
    """Parse and act, for a command without actions; its words and flags may stand in any order.

    Args:
        name: the command's name.
        description: what it is for.
        epilog: examples.
        add: adds its own arguments to its parser.
        act: called with the parsed options, returns the exit code or None for 0.
        arguments: what was typed after the command.
        runs_project: see `exit_code_of`.

    Returns:
        The exit code; see `accelerator.cli.app.main`.
    """

    def parse_and_act() -> int:
        parser = Parser(
            prog=f"accelerator {name}",
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add(parser)
        if {"-h", "--help"}.intersection(arguments):
            parser.print_help()
            return 0
        return act(parser.parse_intermixed_args([a for a in arguments if a != "--debug"])) or 0

    return exit_code_of(parse_and_act, debug="--debug" in arguments, runs_project=runs_project)


def _parsed(
    name: str, description: str, epilog: str, actions: Mapping[str, Action], arguments: list[str]
) -> argparse.Namespace | None:
    """The options; None after help was printed."""
    style = argparse.RawDescriptionHelpFormatter
    hint = f'{epilog}\n\n"accelerator {name} ACTION --help" tells more.'
    parser = Parser(prog=f"accelerator {name}", description=description, epilog=hint, formatter_class=style)
    commands = parser.add_subparsers(dest="action", metavar="ACTION", title="actions", required=True)
    parsers: dict[str, Parser] = {}
    for key, action in actions.items():
        parsers[key] = commands.add_parser(
            key,
            help=action.summary,
            description=f"{action.summary[0].upper()}{action.summary[1:]}.",
            epilog=action.epilog,
            formatter_class=style,
        )
        action.arguments(parsers[key])
    if not arguments:
        parser.print_help()
        return None
    first = arguments[0]
    if not first.startswith("-") and first not in actions:
        raise ConfigError(f"there is no action '{first}'{did_you_mean(first, actions)}; see {parser.prog} --help")
    if {"-h", "--help"}.intersection(arguments):
        parsers.get(first, parser).print_help()
        return None
    return parser.parse_args(arguments)
