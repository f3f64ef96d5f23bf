"""Whether runs begin with a project's configs: each option is composed, and compared with what its components take.

That is what ``accelerator train`` does before it builds anything. It imports the project's modules, and torch.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

from accelerator.cli.command import working_directory_importable
from accelerator.cli.project.config_tree import Option
from accelerator.cli.project.project import Project, hidden
from accelerator.errors import ConfigError, ConfigFileError
from accelerator.utilities.files import short
from accelerator.utilities.nested import leaves

Check = Callable[[dict[str, Any]], None]

# What no run chooses by itself.
_NOT_TRIED = ("", "project", "pipeline")


def trials(
    project: Project, options: Sequence[Option], tried: Sequence[Option], *, signatures: bool
) -> Iterator[tuple[Path, str]]:
    """What keeps runs from beginning: the file it is told of, and why.

    Args:
        project: whose options they are.
        options: all of them that can be read.
        tried: those that a run is composed with, each in turn.
        signatures: compare with signatures too; for that the project's modules are imported.
    """
    from accelerator.cli.compose.compose import composer

    if not options:
        return
    # What every run begins with.
    first = [o for o in options if o.group == "project" or (o.group, o.name) == ("", "main")] or options[:1]
    importable = working_directory_importable() if signatures else nullcontext()
    with importable, redirect_stdout(sys.stderr), composer() as compose:
        check, problem = _check(project) if signatures else (None, None)
        if problem is not None:
            yield from ((option.file, problem) for option in first)
            return
        told = _problems(compose, [], check)
        yield from _of_every_run(told, options, first)
        if any(problem.startswith(("does not compose", "imports:")) for problem in told):
            return  # that its options fail too says nothing of them
        for option in tried:
            if option.group not in _NOT_TRIED and not option.group.endswith("/options"):
                found = _problems(compose, [f"{option.group}={option.name}"], check)
                yield from ((option.file, problem) for problem in found if problem not in told)


def _check(project: Project) -> tuple[Check | None, str | None]:
    """What compares a config with the signatures; or why nothing can be compared, nor trained."""
    try:
        from accelerator.runtime.run import check_config
    except Exception as error:
        heads = {name.split(".")[0] for name in project.imports}
        names = [name for name in heads if hidden(name, project.root) is not None]
        hint = f": a package called '{names[0]}' hides the one that is installed; rename it" if names else ""
        return None, f"no run starts: {type(error).__name__}: {error}{hint}"
    return check_config, None


def _problems(compose: Callable[[Sequence[str]], Any], overrides: list[str], check: Check | None) -> list[str]:
    """Why no run begins with these overrides, but for what is told of a file that cannot be read.

    A value that the command line is to give, ``???``, is no problem.
    """
    from accelerator.cli.compose.compose import COMPOSITION_ERRORS, plain
    from accelerator.cli.compose.reasons import reason

    try:
        values = plain(compose(overrides))
    except COMPOSITION_ERRORS as error:
        return [f"does not compose: {reason(error)}"]
    except ConfigFileError:
        return []
    left_open = {key for key, value in leaves(values) if value == "???"}
    try:
        if check is not None:
            check(values)
    except ConfigError as error:
        return [problem for problem in error.problems if problem.split(" ")[0] not in left_open]
    except SystemExit as error:
        return [f"imports: importing {', '.join(values['imports'])} ends the program: SystemExit: {error}"]
    return []


def _of_every_run(
    problems: list[str], options: Sequence[Option], first: Sequence[Option]
) -> Iterator[tuple[Path, str]]:
    """The same problems, each with the file that brings it into every run."""
    if not problems:
        return
    files = {short(option.file): option.file for option in options}
    where: Callable[[str], str] = lambda key: ""  # noqa: E731
    if not problems[0].startswith("does not compose"):
        from accelerator.cli.compose.explain import Sources

        where = Sources([]).of
    for problem in problems:
        key = re.match(r"[\w.]+", problem)
        file = files.get(where(key.group())) if key else None
        told = problem.replace("does not compose", "no run composes") if file is None else problem
        for at in [option.file for option in first] if file is None else [file]:
            yield at, told if told != problem else f"no run starts: {problem}"
