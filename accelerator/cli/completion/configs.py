"""What can stand in a command line that composes a config: groups and their options, sections and their keys, values.

The config folders are read as files and nothing is composed: Hydra alone takes longer to import than a shell waits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from accelerator.cli.paths import packaged_configs
from accelerator.cli.project.catalogue import Catalogue
from accelerator.cli.project.component_yaml import defaults_of, written
from accelerator.cli.project.config_tree import read_option
from accelerator.cli.project.kinds import KINDS
from accelerator.cli.project.project import Project, here, load_mapping
from accelerator.errors import ConfigError
from accelerator.utilities.nested import leaves

_LITERAL = re.compile(r"Literal\[(?P<words>[^\]]*)\]")
_HYDRA = ("hydra.run.dir", "hydra.sweep.dir", "hydra/launcher", "hydra/sweeper")
_RUNS = 20  # newest runs that are offered
_NOT_CHOSEN = ("pipeline", "project")  # groups that no override chooses from


class Candidate(NamedTuple):
    """What the word could become, and what that is."""

    text: str
    tells: str = ""


class Key(NamedTuple):
    """What is known of a value: what it is now, its type, what it is for."""

    value: str = ""
    type: str = ""
    text: str = ""

    @property
    def tells(self) -> str:
        """In a line."""
        now = f"{self.type} = {self.value}" if self.type and self.value else self.type or self.value
        return ": ".join(part for part in (now, self.text) if part)


def overrides(current: str, typed: Sequence[str]) -> list[Candidate]:
    """What an override that begins so could be.

    Args:
        current: the beginning.
        typed: the other overrides of the command line.
    """
    sign = re.match(r"[+~]*", current)
    assert sign is not None
    prefix, rest = sign.group(), current[sign.end() :]
    configs = Configs(typed, _here())
    key, equals, value = rest.partition("=")
    found = list(configs.values(key, value) if equals else configs.keys(rest))
    if "~" in prefix:  # what is removed has no value, and may be a mapping
        found = [Candidate(each.text.rstrip("=."), each.tells) for each in found] + [
            each for each in found if each.text.endswith(".")
        ]
    return [Candidate(f"{prefix}{each.text}", each.tells) for each in found]


def pipelines() -> list[Candidate]:
    """The pipelines there are."""
    configs = Configs((), _here())
    return [Candidate(name, configs.summary("pipeline", name)) for name in configs.options("pipeline")]


def steps(pipeline: str) -> list[str]:
    """The names of a pipeline's steps."""
    content = Configs((), _here()).content("pipeline", pipeline)
    found = content.get("steps") or {}
    return list(found) if isinstance(found, Mapping) else []


def pipeline_keys(pipeline: str) -> list[str]:
    """Its own values."""
    content = Configs((), _here()).content("pipeline", pipeline)
    return [f"vars.{name}=" for name in content.get("vars") or {}]


class Configs:
    """The config folders, as the overrides that stand there already choose from them.

    Args:
        typed: those overrides.
        project: whose configs come before the packaged ones.
    """

    def __init__(self, typed: Sequence[str], project: Project) -> None:
        self.project = project
        self.roots = [project.configs, *([] if project.is_the_platform else [packaged_configs()])]
        pairs = (word.lstrip("+").partition("=") for word in typed if "=" in word and not word.startswith("-"))
        self.typed = {key: value for key, _, value in pairs}
        self._indices: dict[str, dict[str, Any]] = {}

    @cached_property
    def aliases(self) -> dict[str, str]:
        """The short names of groups, as ``main.yaml`` has them."""
        return self._main["hydra"]["aliases"]

    @cached_property
    def groups(self) -> list[str]:
        """The groups one can choose from, by the name that is typed."""
        names = {long: short for short, long in self.aliases.items()}
        found = {file.parent.relative_to(root).as_posix() for root in self.roots for file in root.rglob("*.yaml")}
        return sorted(
            names.get(group, group)
            for group in found
            if group not in (".", *_NOT_CHOSEN) and not group.endswith("/options")
        )

    def options(self, group: str) -> list[str]:
        """The options of a group, by the name that is typed or by its folder."""
        folder = self.aliases.get(group, group)
        return sorted({file.stem for root in self.roots for file in (root / folder).glob("*.yaml")})

    def content(self, group: str, option: str) -> dict[str, Any]:
        """What an option's file holds; nothing if it cannot be read."""
        if (found := self._file(group, option)) is not None:
            with suppress(ConfigError):
                return load_mapping(found[1])
        return {}

    def summary(self, group: str, option: str) -> str:
        """The first line of its file's comment; without one, what the index says of the packaged option."""
        if (found := self._file(group, option)) is None:
            return ""
        with suppress(ConfigError):
            if (told := read_option(found[1], found[0]).summary) or found[0] != packaged_configs():
                return told
            return self._index(group)[option]["summary"]
        return ""

    @cached_property
    def choices(self) -> dict[str, list[str]]:
        """The options that a run with these overrides takes, by the group's folder."""
        chosen: dict[str, list[str]] = {}
        for item in self._main["defaults"]:
            if isinstance(item, dict):
                for key, option in item.items():
                    if option is not None and not str(key).startswith("override "):
                        chosen[str(key).removeprefix("optional ")] = _list(option)
        typed = {self.aliases.get(key, key): _list(value) for key, value in self.typed.items() if self.options(key)}
        chosen |= typed
        fixed = set(typed)
        for groups in (("experiment", "project"), [*chosen]):
            further = {
                where: [option]
                for group in groups
                for name in chosen.get(group, ())
                for where, option in self._chosen_by(group, name)
                if where not in fixed
            }
            chosen |= further
            fixed |= set(further)
        return chosen

    def keys(self, beginning: str) -> Iterator[Candidate]:
        """Groups, sections and values that begin so, one level down."""
        section, dot, _ = beginning.partition(".")
        if not dot:
            yield from self._at_the_top(beginning)
            return
        if section == "hydra":  # few, and none but whole
            yield from (Candidate(f"{key}=") for key in _HYDRA if key.startswith(beginning))
            return
        below: dict[str, Key] = {}
        depth = beginning.count(".")
        for key, known in self._section(section).items():
            if key.startswith(beginning):
                parts = key.split(".")
                more = len(parts) > depth + 1
                below.setdefault(f"{'.'.join(parts[: depth + 1])}{'.' if more else '='}", Key() if more else known)
        yield from (Candidate(key, known.tells) for key, known in below.items())

    def values(self, key: str, beginning: str) -> Iterator[Candidate]:
        """What a group or a value can be set to."""
        head = re.match(r".*[\[,]", beginning)  # a list of options, or what a sweep goes through
        before = "" if head is None else head.group()
        if options := self.options(key) if key in self.groups or key in self.aliases.values() else []:
            words = [(option, self.summary(self.aliases.get(key, key), option)) for option in options]
        elif key in ("resume", "load"):
            words = [("last", "the newest run here"), ("best", "its best checkpoint"), *trained_runs()]
        else:
            words = [(word, "") for word in self._words(key)]
        there = set(re.split(r"[\[,]", before))
        for word, tells in words:
            if word.startswith(beginning[len(before) :]) and word not in there:
                yield Candidate(f"{key}={before}{word}", tells)

    @cached_property
    def _main(self) -> dict[str, Any]:
        return load_mapping(packaged_configs() / "main.yaml")

    def _index(self, group: str) -> dict[str, Any]:
        from accelerator.cli.project.component_index import FOLDER

        if group not in self._indices:
            self._indices[group] = load_mapping(FOLDER / f"{group.replace('/', '.')}.yaml")
        return self._indices[group]

    def _file(self, group: str, option: str) -> tuple[Path, Path] | None:
        for root in self.roots:
            if (file := root / group / f"{option}.yaml").is_file():
                return root, file
        return None

    def _chosen_by(self, group: str, option: str) -> Iterator[tuple[str, str]]:
        if (found := self._file(group, option)) is not None:
            with suppress(ConfigError):
                for choice in read_option(found[1], found[0]).chooses:
                    where, _, name = choice.rpartition("=")
                    if where != group and self.options(where):
                        yield where, name

    def _at_the_top(self, beginning: str) -> Iterator[Candidate]:
        from accelerator.cli.compose.schema import RunConfig

        for group in self.groups:
            now = self.choices.get(self.aliases.get(group, group))
            yield Candidate(
                f"{group}=", f"one of {len(self.options(group))}" + (f", now {','.join(now)}" if now else "")
            )
        groups = set(self.groups)
        for field in fields(RunConfig):
            default = field.default_factory() if field.default_factory is not MISSING else field.default
            if is_dataclass(default) or isinstance(default, dict) or field.name == "tune":
                yield Candidate(f"{field.name}.", "a section")
            elif field.name not in groups:
                yield Candidate(f"{field.name}=", "" if default is None else f"now {written(default)}")
        if beginning.startswith("hydra"):
            yield from (Candidate(f"{key}=") for key in _HYDRA)

    def _section(self, section: str) -> dict[str, Key]:
        """Every value of a section, by its dotted key."""
        from accelerator.cli.compose.schema import RunConfig, TuneConfig

        hints = get_type_hints(RunConfig)
        closed = TuneConfig if section == "tune" else hints.get(section)
        if closed is not None and is_dataclass(closed):
            return {f"{section}.{name}": key for name, key in _fields(closed).items()}
        return {f"{section}.{key}": known for key, known in self._open_section(section).items()}

    def _open_section(self, section: str) -> dict[str, Key]:
        """What the chosen options set, what their components take besides, and what an experiment or project adds."""
        found: dict[str, Key] = {}
        group = next((each for each in self.choices if each.rpartition("/")[2] == section), section)
        names = list(self.choices.get(group, ()))
        for name in names:  # callbacks=monitoring is the default ones and others
            names += [each for each in self._in_same_group(group, name) if each not in names]
        for name in names:
            found |= self._of_option(group, name)
        for where in ("project", "experiment"):
            for name in self.choices.get(where, ()):
                content = self.content(where, name).get(section)
                found |= _values(content) if isinstance(content, dict) else {}
        return found

    def _in_same_group(self, group: str, option: str) -> Iterator[str]:
        if (found := self._file(group, option)) is not None:
            with suppress(ConfigError):
                for choice in read_option(found[1], found[0]).chooses:
                    where, _, name = choice.rpartition("=")
                    if where == group:
                        yield name

    def _of_option(self, group: str, option: str) -> dict[str, Key]:
        place = self._file(group, option)
        if place is None:
            return {}
        try:
            read = read_option(place[1], place[0])
        except ConfigError:
            return {}
        found = _values({key: value for key, value in self.content(group, option).items() if key != "defaults"})
        catalogue = Catalogue(self.project)
        for part in read.parts:
            for which in ("name", "_target_") if part.key == "" else ():
                if named := self.typed.get(f"{group.rpartition('/')[2]}.{which}"):
                    part = replace(part, reference=(which, named))
            try:
                signature = part.signature(catalogue)
            except ConfigError:
                continue
            settable = part.kind.settable(signature)
            values, known = defaults_of(settable), {p.name: p for p in settable.parameters}
            for name, parameter in known.items():
                if name in values:
                    key = f"{part.key}.{name}" if part.key else name
                    value = found[key].value if key in found else values[name]
                    found[key] = Key(value, parameter.type, parameter.text)
        return found

    def _words(self, key: str) -> list[str]:
        """The values of what has few."""
        section, dot, _ = key.partition(".")
        known = self._section(section).get(key) if dot else None
        if key.endswith(".name"):
            return self._names(key)
        if known is None:
            return []
        if (literal := _LITERAL.search(known.type)) is not None:
            return [word.strip(" '\"") for word in literal["words"].split(",")]
        if re.search(r"\bbool\b", known.type) or known.value in ("true", "false"):
            return ["true", "false"]
        return []

    def _names(self, key: str) -> list[str]:
        """The registered names of the kind that a section holds."""
        kind = next((kind for kind in KINDS.values() if kind.folder.rpartition("/")[2] == key.split(".")[0]), None)
        return [] if kind is None else sorted(Catalogue(self.project).names(kind))


def trained_runs() -> list[tuple[str, str]]:
    """The folders of the newest runs here, with what each was."""
    from accelerator.cli.which_run import PLACES
    from accelerator.runtime.run_directory import CHECKPOINTS

    found = [path.parent for place in PLACES for path in Path().glob(f"{place}/{CHECKPOINTS}")]
    return [(path.as_posix(), "") for path in sorted(found, key=lambda path: path.stat().st_mtime)[: -_RUNS - 1 : -1]]


def _here() -> Project:
    """The project of the working directory; its configs alone if its project file cannot be read."""
    try:
        return here()
    except ConfigError:
        return Project(Path.cwd(), ())


def _list(option: Any) -> list[str]:
    """The options that are chosen by what stands behind ``group=``."""
    names = option if isinstance(option, list) else str(option).strip("[]").split(",")
    return [str(name).strip() for name in names if str(name) not in ("null", "")]


def _values(content: Mapping[str, Any]) -> dict[str, Key]:
    """Every value of a file, by its dotted key."""
    return {key: Key(value if isinstance(value, str) else written(value)) for key, value in leaves(content)}


def _fields(closed: type) -> dict[str, Key]:
    """The keys of a closed section."""
    hints = get_type_hints(closed)
    found = {}
    for field in fields(closed):
        hint = hints[field.name]
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        value = "" if default is MISSING else written(default)
        shown = hint.__name__ if isinstance(hint, type) and not hasattr(hint, "__args__") else str(hint)
        found[field.name] = Key(value, shown.replace("typing.", ""))
    return found
