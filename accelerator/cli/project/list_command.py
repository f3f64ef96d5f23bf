"""``accelerator list``: every component and every option, with its parameters, and where it lives; nothing is imported.

What the packaged options take is in an index (`accelerator.cli.project.component_index`); the rest is read from source.
"""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from accelerator.cli.actions import run_alone
from accelerator.cli.project.kinds import KINDS, Kind
from accelerator.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from accelerator.cli.project.catalogue import Catalogue
    from accelerator.cli.project.component_index import Argument, Entry
    from accelerator.utilities.signatures import Signature

_EPILOG = """examples:
  accelerator list                          the kinds, and the options of each
  accelerator list optimizer                each optimizer: what it is, what it takes, where it lives
  accelerator list optimizer adam           one of them, its arguments in a table
  accelerator list callback --json          for programs

An option is typed as group=option (model=mlp). What is listed with the option of no group is named inside a section:
accelerator train callbacks.stop.name=early_stopping."""

# Groups that hold no components but choices of them.
_CHOICES = {
    "pipeline": "accelerator pipeline {}",
    "tune": "accelerator tune tune={}",
    "experiment": "accelerator train experiment={}",
    "tracking": "accelerator train tracking={}",
}

# How a member that is no option of a group is used.
_BY_NAME = {
    "callback": "accelerator train callbacks.{0}.name={0}",
    "metric": "accelerator train metrics.{0}.name={0}",
    "transform": "accelerator train transform.input.{0}.name={0}",
}

_FURTHER = {
    "optimizer": "any class of torch.optim answers to its name too: accelerator train optimizer.name=Adamax",
    "scheduler": "any class of torch.optim.lr_scheduler answers to its name too: accelerator add scheduler StepLR",
    "metric": "any loss answers as a metric too: metrics.mae.name=mae",
    "loss": "those of torch.nn are taken by their path: accelerator add loss smooth --target torch.nn.SmoothL1Loss",
}


class Listed(NamedTuple):
    """One thing that can be named.

    Attributes:
        kind: what it is.
        name: what is typed.
        summary: in one line.
        use: a command line with it.
        source: ``packaged``, ``project``, or the distribution that brings it.
        file: of the option; None for what is named inside a section only.
        components: where what it builds is defined, by its key in the file; "" for the whole of it.
        chooses: options of other groups that it takes.
        parameters: by their key.
    """

    kind: str
    name: str
    summary: str
    use: str
    source: str
    file: str | None
    components: dict[str, str]
    chooses: list[str]
    parameters: dict[str, Argument]


def list_command(arguments: list[str]) -> int:
    """The command line's entry; see `accelerator.cli.app.main` for the exit codes."""
    description = "List what can be named in a config: components and options, with what they take."
    return run_alone("list", description, _EPILOG, _arguments, _act, arguments)


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("kind", nargs="?", metavar="KIND", help=", ".join(kinds()))
    parser.add_argument("name", nargs="?", metavar="NAME", help="only this one, with what each argument is for")
    parser.add_argument("--json", action="store_true", help="print it for programs")


def _act(options: Namespace) -> int:
    kind = None if options.kind is None else _kind(options.kind)
    found = listed(kind)
    if options.name is not None:
        if not (named := [each for each in found if each.name == options.name]):
            near = did_you_mean(options.name, [each.name for each in found])
            raise ConfigError(f"there is no {kind} '{options.name}'{near}")
        found = named
    if options.json:
        print(json.dumps([_plain(each) for each in found], indent=1, ensure_ascii=False))
    elif kind is None:
        _print_kinds(found)
    elif options.name is not None:
        for each in found:
            _print_one(each)
    else:
        _print_kind(kind, found)
    return 0


def kinds() -> list[str]:
    """What can be listed."""
    return [*KINDS, *_CHOICES]


def listed(kind: str | None = None) -> list[Listed]:
    """What can be named: of one kind, or of all."""
    from accelerator.cli.project.catalogue import Catalogue
    from accelerator.cli.project.component_index import index_of
    from accelerator.cli.project.project import here

    project = here()
    catalogue, entries = Catalogue(project), index_of(project)
    found: list[Listed] = []
    for name in kinds() if kind is None else [kind]:
        group = KINDS[name].folder if name in KINDS else name
        options = [_of_entry(name, entry, catalogue) for entry in entries if entry.group == group]
        found += sorted(options, key=lambda each: each.name)
        if name in KINDS:
            # Where a file holds components under names of their own, each can be named without the file too.
            whole = options if KINDS[name].form == "section" else []
            taken = {path for each in whole for path in each.components.values()}
            found += _members(KINDS[name], catalogue, taken, {each.name for each in options})
    catalogue.warn()
    return found


def _kind(word: str) -> str:
    """The kind that was typed, in the singular or as its folder is called."""
    folders = {kind.folder.rpartition("/")[2]: name for name, kind in KINDS.items()}
    plurals = {f"{name}s": name for name in kinds()} | {"losses": "loss", "pipelines": "pipeline"}
    word = ({name: name for name in kinds()} | folders | plurals).get(word, word)
    if word not in kinds():
        raise ConfigError(f"there is no kind of component '{word}'{did_you_mean(word, kinds(), show=20)}")
    return word


def _of_entry(kind: str, entry: Entry, catalogue: Catalogue) -> Listed:
    """An option; what its file leaves to the component's own default is added."""
    from accelerator.cli.paths import packaged_configs

    parameters = dict(entry.arguments)
    if kind in KINDS:
        for key, path in entry.components.items():
            for name, argument in _parameters(KINDS[kind], path, catalogue).items():
                parameters.setdefault(f"{key}.{name}" if key else name, argument)
    own = catalogue.project.configs / entry.group / f"{entry.name}.yaml"
    of_project = own.is_file() and not catalogue.project.is_the_platform
    file = own if of_project else packaged_configs() / entry.group / f"{entry.name}.yaml"
    use = KINDS[kind].use if kind in KINDS else _CHOICES[kind]
    if kind == "callback" and (entry.name in ("default", "none") or entry.chooses):
        use = "accelerator train callbacks={}"
    return Listed(
        kind,
        entry.name,
        entry.summary,
        use.format(entry.name),
        "project" if of_project else "packaged",
        str(file),
        entry.components,
        entry.chooses,
        parameters,
    )


def _members(kind: Kind, catalogue: Catalogue, taken: set[str], names: set[str]) -> Iterator[Listed]:
    """The registered components that no option of the group builds."""
    for name, path in sorted(catalogue.names(kind).items()):
        signature = _signature(path, catalogue)
        where = path if signature is None else signature.path
        if where in taken or name in names:
            continue
        use = _BY_NAME.get(kind.name, f"accelerator add {kind.name} {{0}}")
        source = "project" if name in catalogue.own[kind.name] else _distribution(path)
        yield Listed(
            kind.name,
            name,
            "" if signature is None else signature.summary,
            use.format(name),
            source,
            None,
            {"": where},
            [],
            _parameters(kind, path, catalogue),
        )


def _parameters(kind: Kind, path: str, catalogue: Catalogue) -> dict[str, Argument]:
    from accelerator.cli.project.component_index import Argument
    from accelerator.cli.project.component_yaml import defaults_of

    if (signature := _signature(path, catalogue)) is None:
        return {}
    settable = kind.settable(signature)
    described = {parameter.name: parameter for parameter in settable.parameters}
    return {
        name: Argument(value, described[name].type, described[name].text)
        for name, value in defaults_of(settable).items()
    }


def _signature(path: str, catalogue: Catalogue) -> Signature | None:
    from accelerator.utilities.signatures import signature_of

    try:
        return signature_of(path, catalogue.source)
    except ConfigError:  # made at run time, or gone
        return None


@cache
def _packages() -> dict[str, str]:
    """The distribution behind each package of components."""
    from accelerator.utilities.base_registry import ENTRY_POINT_GROUP

    return {entry.value: entry.dist.name for entry in entry_points(group=ENTRY_POINT_GROUP) if entry.dist is not None}


def _distribution(path: str) -> str:
    from accelerator.cli.machine.verify import DISTRIBUTION

    name = next((name for package, name in _packages().items() if path.startswith(f"{package}.")), "")
    return "packaged" if name in ("", DISTRIBUTION) else name


def _plain(each: Listed) -> dict[str, Any]:
    parameters = [{"name": key, **argument._asdict()} for key, argument in each.parameters.items()]
    return {**each._asdict(), "parameters": parameters}


def _print_kinds(found: Iterable[Listed]) -> None:
    names: dict[str, list[str]] = {}
    for each in found:
        names.setdefault(each.kind, []).append(each.name if each.source == "packaged" else f"{each.name}*")
    width = max(map(len, names))
    for kind, members in names.items():
        _say((f"{kind:<{width}}  ", "bold"), (", ".join(members), ""), indent=width + 2)
    if any(name.endswith("*") for members in names.values() for name in members):
        print("\n* of this project, or of another package than accelerator")
    print("\nnext: accelerator list KIND  tells what each is, what it takes, and where it lives")


def _print_kind(kind: str, found: list[Listed]) -> None:
    width = max((len(each.name) for each in found), default=0) + 2
    for each in found:
        _say((f"{each.name:<{width}}", "bold"), (each.summary or "–", ""), indent=width)
        _say((" " * width, ""), (_where(each), "dim"), indent=width)
        taken = " · ".join([*map(_typed, each.parameters.items()), *each.chooses])
        if taken:
            _say((" " * width, ""), (taken, "cyan"), indent=width)
    if not found:
        print(f"there is no {kind} yet")
    if kind in _FURTHER:
        print(f"\n{_FURTHER[kind]}")
    if found:
        print(f"\nnext: {found[0].use} · accelerator list {kind} {found[0].name}")


def _print_one(each: Listed) -> None:
    _say((each.name, "bold"), (f"  {each.summary}", ""), indent=2)
    for key, path in each.components.items():
        _say(("  ", ""), (f"{key}: {path}" if key else path, "dim"), indent=4)
    if each.file is not None:
        _say(("  ", ""), (f"{each.source}: {_file(each)}", "dim"), indent=4)
    if each.chooses:
        _say(("  ", ""), (f"takes {', '.join(each.chooses)}", ""), indent=4)
    if each.parameters:
        from rich.console import Console
        from rich.text import Text

        from accelerator.cli.tables import table

        rows = table(["argument", "value", "type", "what it is for"])
        for key, argument in each.parameters.items():
            rows.add_row(*map(Text, (key, argument.value, argument.type, argument.text)))
        console = Console(highlight=False, markup=False, emoji=False, width=_width(200))
        with console.capture() as capture:
            console.print(rows)
        print()
        print("\n".join(line.rstrip() for line in capture.get().splitlines()))
    print(f"\nnext: {each.use}")


def _where(each: Listed) -> str:
    paths = list(dict.fromkeys(each.components.values()))
    parts = [*paths[:2], *(["…"] if len(paths) > 2 else []), each.source]
    return " · ".join(parts if each.file is None else [*parts, _file(each)])


def _file(each: Listed) -> str:
    """The option's file: of a project as it is typed, of the package as it is named everywhere."""
    from accelerator.cli.paths import packaged_configs
    from accelerator.utilities.files import short

    path = Path(each.file or "")
    inside = path.is_relative_to(packaged_configs())
    return f"configs/{path.relative_to(packaged_configs()).as_posix()}" if inside else short(path)


def _typed(parameter: tuple[str, Argument]) -> str:
    name, argument = parameter
    return f"{name}: {argument.type} = {argument.value}" if argument.type else f"{name} = {argument.value}"


def _say(first: tuple[str, str], rest: tuple[str, str], *, indent: int) -> None:
    """A line in two styles, folded with an indent on a terminal, and left whole in a pipe."""
    from rich.text import Text

    from accelerator.cli.tables import clean, console

    head, text = first[0], clean(rest[0])
    if sys.stdout.isatty():
        room = max(_width(200), indent + 20)
        text = textwrap.fill(head + text, room, subsequent_indent=" " * indent, break_on_hyphens=False)[len(head) :]
    console().print(Text.assemble((head, first[1]), (text, rest[1])))


def _width(piped: int) -> int:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else piped
