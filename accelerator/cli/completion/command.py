"""Shell completion: what the word at the cursor could become.

The scripts of ``accelerator completion`` (`accelerator.cli.completion.scripts`) ask for it by
``accelerator -sc query=SHELL``, with the line in ``COMP_LINE``, as those of Hydra do.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from typing import Any
from unittest.mock import patch

from accelerator.cli.commands import COMMANDS, Command
from accelerator.cli.completion.configs import Candidate, overrides, pipeline_keys, pipelines, steps, trained_runs

# The commands whose arguments compose a config, and their flags.
COMPOSING = ("train", "tune", "evaluate", "accelerate", "analyze-data", "analyze-model")
_FLAGS = {
    "--help": "what can be typed",
    "--explain": "every value with the file that set it, and stop",
    "--debug": "show the traceback of a mistake",
    "--overrides": "more overrides in one argument",
    "--multirun": "run every combination of key=a,b",
    "--cfg": "print the composed config: --cfg job",
    "--resolve": "with --cfg: interpolations filled in",
    "--info": "what was composed: --info defaults",
    "--config-dir": "a further folder of configs",
}
_DRY_RUN = {"--dry-run": "build everything, take one step, write nothing"}


def answer(shell: str) -> str:
    """What to print for a shell: a candidate a line; for all but bash with a tab and what it is."""
    line = os.environ.get("COMP_LINE", "")
    point = os.environ.get("COMP_POINT", "")
    if point.isdecimal() and int(point) <= len(line):
        line = line[: int(point)]
    typed, current = split(line)
    seen: dict[str, Candidate] = {}
    for candidate in candidates(typed, current):
        if candidate.text.startswith(current):
            seen.setdefault(candidate.text, candidate)
    found = seen.values()
    return "\n".join(_line(each, shell) for each in found)


def split(line: str) -> tuple[list[str], str]:
    """The whole words after the program's name, and the one that is being typed; quotes as in a shell."""
    reader = shlex.shlex(line, posix=True, punctuation_chars=False)
    reader.whitespace_split, reader.commenters = True, ""
    try:
        words = list(reader)
    except ValueError:  # a quote is still open
        words = line.split()
    current = "" if not line or line[-1].isspace() or len(words) < 2 else words.pop()
    return words[1:], current


def candidates(typed: Sequence[str], current: str) -> Iterable[Candidate]:
    """What the word could become.

    Args:
        typed: the words after ``accelerator``.
        current: its beginning.
    """
    if not typed:
        commands = [Candidate(name, command.summary) for name, command in COMMANDS.items()]
        return [*commands, Candidate("--help", "what can be typed"), Candidate("--version")]
    if (command := COMMANDS.get(typed[0])) is None:
        return []
    rest = typed[1:]
    if typed[0] in COMPOSING and not any(word.startswith("--train-fn") for word in rest):
        return _composing(typed[0], rest, current)
    if typed[0] == "pipeline":
        return _of_pipeline(rest, current)
    return _of_parser(typed[0], command, rest, current)


def _composing(command: str, typed: Sequence[str], current: str) -> Iterator[Candidate]:
    if typed and typed[-1] in ("--cfg", "-c"):
        yield from (Candidate(word) for word in ("job", "hydra", "all"))
    elif typed and typed[-1] in ("--info", "-i"):
        yield from map(Candidate, ("defaults", "defaults-tree", "config", "searchpath", "plugins", "all"))
    elif current.startswith("-"):
        flags = _FLAGS | (_DRY_RUN if command == "train" else {})
        yield from (Candidate(flag, tells) for flag, tells in flags.items())
    elif typed and typed[-1] in ("--config-dir", "-cd"):
        return
    else:
        yield from overrides(current, typed)


def _of_pipeline(typed: Sequence[str], current: str) -> Iterator[Candidate]:
    named = [word for word in typed if not word.startswith("-") and "=" not in word]
    names = steps(named[0]) if named else []
    if current.startswith("-"):
        yield from _of_parser("pipeline", None, typed, current)
    elif not named:
        yield from pipelines()
    elif typed[-1] in ("--force", "--until") or (typed[-1] in names and "--force" in typed):
        yield from map(Candidate, names)
    elif (step := current.partition(":"))[1]:
        yield from (Candidate(f"{step[0]}:{each.text}", each.tells) for each in overrides(step[2], typed))
    else:
        yield from (Candidate(f"{name}:", "an override of this step") for name in [*names, "all"])
        yield from map(Candidate, pipeline_keys(named[0]))


def _of_parser(name: str, command: Command | None, typed: Sequence[str], current: str) -> Iterator[Candidate]:
    """What a command that is no composition takes, told by its own parser."""
    command = command or COMMANDS[name]
    if command.actions is not None:
        actions = _found(command.actions)
        action = next((word for word in typed if word in actions), None)
        if action is None:
            if not current.startswith("-"):
                yield from (Candidate(key, action.summary) for key, action in actions.items())
            return
        typed = typed[typed.index(action) + 1 :]
        parser = _parser_of(command, [action, "--help"])
    else:
        parser = _parser_of(command, ["--help"])
    if parser is None:
        return
    flag = next((each for each in parser._actions if typed and typed[-1] in each.option_strings), None)
    if flag is not None and flag.nargs != 0:
        yield from _values(name, flag, [])
    elif current.startswith("-"):
        for each in parser._actions:
            for option in [text for text in each.option_strings if text.startswith("--")] or each.option_strings[:1]:
                yield Candidate(option, _first_line(each.help))
    else:
        places = [each for each in parser._actions if not each.option_strings]
        given = _given(parser, typed)
        place = places[min(len(given), len(places) - 1)] if places else None
        if place is not None and (len(given) < len(places) or place.nargs in ("*", "+")):
            yield from _values(name, place, given)


def _given(parser: argparse.ArgumentParser, typed: Sequence[str]) -> list[str]:
    """The words that are no flag and no flag's value."""
    takes = {text for each in parser._actions if each.nargs != 0 for text in each.option_strings}
    pairs = zip(["", *typed], typed, strict=False)
    return [word for before, word in pairs if not word.startswith("-") and before not in takes]


def _values(command: str, place: argparse.Action, given: Sequence[str]) -> Iterator[Candidate]:
    """What an argument of a command can be, by the choices it has or by what its help calls it."""
    if place.choices is not None:
        yield from (Candidate(str(choice)) for choice in place.choices)
    name = place.metavar if isinstance(place.metavar, str) else place.dest
    for word in (f"{command} {name}", name, *name.split("|")):  # RUN|FOLDER
        if word in _BY_METAVAR:
            yield from _BY_METAVAR[word](given)
            return


def _runs(_: Sequence[str]) -> Iterator[Candidate]:
    from pathlib import Path

    from accelerator.cli.which_run import run_id

    yield Candidate("last", "the newest run here")
    for folder, _text in trained_runs():
        if (id := run_id(Path(folder))) is not None:
            yield Candidate(id[:8], folder)
        yield Candidate(folder)


def _kinds_to_add(_: Sequence[str]) -> Iterator[Candidate]:
    from accelerator.cli.project.kinds import KINDS

    yield from map(Candidate, [*KINDS, "experiment", "domain"])


def _kinds_to_list(_: Sequence[str]) -> Iterator[Candidate]:
    from accelerator.cli.project.list_command import kinds

    yield from map(Candidate, kinds())


def _names(given: Sequence[str]) -> Iterator[Candidate]:
    from accelerator.cli.project.list_command import kinds, listed

    if given and given[0] in kinds():
        yield from (Candidate(each.name, each.summary) for each in listed(given[0]))


def _group_options(_: Sequence[str]) -> Iterator[Candidate]:
    from accelerator.cli.project.configure import packaged_groups

    for group, options in packaged_groups().items():
        yield Candidate(group)
        yield from (Candidate(f"{group}={option}") for option in options)


def _shells(_: Sequence[str]) -> Iterator[Candidate]:
    from accelerator.cli.completion.scripts import SCRIPTS

    yield from map(Candidate, SCRIPTS)


# By what a parser calls an argument; with the command before it where it means something else in each.
_BY_METAVAR: Mapping[str, Callable[[Sequence[str]], Iterator[Candidate]]] = {
    "RUN": _runs,
    "add KIND": _kinds_to_add,
    "list KIND": _kinds_to_list,
    "NAME": _names,
    "GROUP[=OPTION]": _group_options,
    "SHELL": _shells,
}


class _Asked(BaseException):
    """Carries a parser out of the command that made it; no command catches it."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


def _parser_of(command: Command, arguments: list[str]) -> argparse.ArgumentParser | None:
    """The parser that a command makes: it is asked for help, and stopped where it would print or parse."""

    parse = argparse.ArgumentParser.parse_known_args

    def stop(parser: argparse.ArgumentParser, *given: Any, **options: Any) -> Any:
        if "-h" not in parser._option_string_actions:  # one that takes a part of the words only
            return parse(parser, *given, **options)
        raise _Asked(parser)

    nowhere = open(os.devnull, "w")  # noqa: SIM115
    methods = patch.multiple(argparse.ArgumentParser, print_help=stop, parse_known_args=stop)
    with nowhere, methods, redirect_stdout(nowhere), redirect_stderr(nowhere):
        try:
            _found(command.act)(arguments)
        except _Asked as asked:
            return asked.parser
        except SystemExit:
            return None
    return None


def _found(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def _first_line(text: str | None) -> str:
    return (text or "").splitlines()[0] if text and text != argparse.SUPPRESS else ""


def _line(candidate: Candidate, shell: str) -> str:
    text = re.sub(r"[\x00-\x1f]", " ", candidate.text)
    tells = re.sub(r"[\x00-\x1f]", " ", candidate.tells)
    return text if shell == "bash" or not tells else f"{text}\t{tells[:_TOLD]}"


_TOLD = 100  # characters of what a candidate is


def complete_command(arguments: list[str]) -> int:
    """Answer ``-sc query=SHELL``; nothing is ever said of a mistake, for it would stand in the user's line."""
    what, _, shell = (arguments[1] if len(arguments) > 1 else "query=bash").partition("=")
    if what == "install":
        from accelerator.cli.completion.scripts import completion_command

        return completion_command([shell])
    try:
        if found := answer(shell):
            print(found, flush=True)
    except Exception:
        return 1
    return 0
