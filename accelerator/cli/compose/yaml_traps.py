"""What YAML reads otherwise than it is meant: refused, with the reason, before a value is used.

YAML 1.1 takes ``NO`` for false, ``012`` for ten and ``12:30:45`` for 45045. A file is looked at as a stream of events:
nothing is constructed, whatever its tags ask for, and aliases are counted before they are expanded.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml

from accelerator.cli.compose.path_checks import climbing
from accelerator.errors import ConfigFileError
from accelerator.utilities.files import short

LARGEST = 1_000_000  # bytes of a config file
MOST_NODES = 10_000  # values in a file, its aliases expanded
DEEPEST = 50  # mappings and lists inside one another

_CORE = "tag:yaml.org,2002:"
_PLAIN_TAGS = frozenset(f"{_CORE}{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq"))
_WORDS = {"yes": "true", "on": "true", "no": "false", "off": "false"}
_DIGITS = re.compile(r"-?[0-9]+")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9_]+")
_SEXAGESIMAL = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")


def checked(file: Path) -> str:
    """The text of a config file, once there is no trap in it.

    Raises:
        ConfigFileError: there are; each with its line and what to write instead.
    """
    text = _text(file)
    if problems := [f"{short(file)}, line {line}: {problem}" for line, problem in traps(text)]:
        raise ConfigFileError(problems)
    return text


def traps(text: str) -> Iterator[tuple[int, str]]:
    """Every trap in a YAML text: its line, and what is wrong with it.

    What is no YAML at all ends the search with what the parser says of it.
    """
    try:
        yield from _Walk().over(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = " ".join(part for part in (error.context, error.problem) if part)
        if mark and _at(text, mark) == "\t":
            said = f"a tab in column {mark.column + 1}: indent by spaces"
        yield (mark.line + 1 if mark else 1), f"not valid YAML: {said}"
    except yaml.YAMLError as error:
        yield 1, f"not valid YAML: {' '.join(str(error).split())}"


@contextmanager
def guarded(trusted: Path) -> Iterator[None]:
    """While inside, Hydra reads no file with a trap in it, and each file once, however often it composes.

    A byte order mark before the first line is read past, and faults of defaults lists are told.

    Args:
        trusted: files below this folder are not looked at.
    """
    from hydra._internal.core_plugins.file_config_source import FileConfigSource
    from hydra.plugins.config_source import ConfigSource
    from omegaconf import DictConfig, OmegaConf

    from accelerator.cli.compose.defaults_lists import faults_told

    load, header = FileConfigSource.load_config, ConfigSource._get_header_dict
    known: dict[tuple[str, str], Any] = {}

    def load_once(self: Any, config_path: str) -> Any:
        key = self.path, config_path
        if key not in known:
            known[key] = load_checked(self, config_path)
        return copy.deepcopy(known[key])  # a third of the time of reading it; Hydra takes parts out of what it is given

    def load_checked(self: Any, config_path: str) -> Any:
        name = config_path if config_path.endswith(".yaml") else f"{config_path}.yaml"
        file = Path(self.path) / name
        if Path(self.path) != trusted and file.is_file():
            checked(file)
        loaded = load(self, config_path)
        if Path(self.path) != trusted and isinstance(loaded.config, DictConfig):
            content: Any = OmegaConf.to_container(loaded.config, resolve=False)
            if problems := [f"{short(file)}: {problem}" for problem in climbing(content)]:
                raise ConfigFileError(problems)
        return loaded

    def header_of(text: str) -> Any:
        return header(text.removeprefix("\ufeff"))  # Hydra would not see '# @package' behind it

    with (
        patch.object(FileConfigSource, "load_config", load_once),
        patch.object(ConfigSource, "_get_header_dict", staticmethod(header_of)),
        faults_told(),
    ):
        yield


class _Walk:
    """One pass over the events of a text."""

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}  # of what each anchor names, aliases expanded
        self.open: list[_Node] = []
        self.documents = 0

    def over(self, text: str) -> Iterator[tuple[int, str]]:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        nodes = 0
        for event in yaml.parse(text, Loader=loader):
            line = event.start_mark.line + 1
            if isinstance(event, yaml.DocumentStartEvent):
                self.documents += 1
                if self.documents == 2:
                    yield line, "a second document begins (---): a config file holds one"
            elif isinstance(event, yaml.AliasEvent):
                if event.anchor not in self.sizes:
                    yield line, f"*{event.anchor} stands inside of what it names: it has no end"
                    return
                self._add(self.sizes[event.anchor])
                yield from self._placed(line, None)
            elif isinstance(event, yaml.ScalarEvent):
                yield from _of_scalar(event, line)
                self._add(1)
                if event.anchor:
                    self.sizes[event.anchor] = 1
                yield from self._placed(line, event.value)
            elif isinstance(event, yaml.CollectionStartEvent):
                if not self.open and isinstance(event, yaml.SequenceStartEvent):
                    yield line, "a list: a config file holds a mapping, key: value"
                yield from _of_tag(event.tag, line)
                yield from self._placed(line, None)
                self.open.append(_Node(event.anchor, isinstance(event, yaml.MappingStartEvent), event.flow_style))
                if len(self.open) > DEEPEST:
                    yield line, f"more than {DEEPEST} mappings and lists inside one another"
                    return
            elif isinstance(event, yaml.CollectionEndEvent):
                node = self.open.pop()
                if node.anchor:
                    self.sizes[node.anchor] = node.size
                self._add(node.size)
                nodes = max(nodes, node.size)
            if nodes > MOST_NODES or (self.open and self.open[-1].size > MOST_NODES):
                yield line, f"its aliases stand for more than {MOST_NODES:,} values"
                return
        if not self.documents:
            yield 1, "the file is empty; write {} if nothing is meant to be set"

    def _add(self, size: int) -> None:
        if self.open:
            self.open[-1].size += size

    def _placed(self, line: int, key: str | None) -> Iterator[tuple[int, str]]:
        """Take note of a child of the innermost mapping: keys and values come in turn."""
        if not self.open or not (node := self.open[-1]).mapping:
            if not self.open and key is not None:
                yield line, "a single value: a config file holds a mapping, key: value"
            return
        if node.at_key and key is not None:
            if key in node.keys and key != "<<":
                yield line, f"the key '{key}' stands in line {node.keys[key]} already; keep one of the two"
            node.keys.setdefault(key, line)
        elif node.flow and key == "" and all(_DIGITS.fullmatch(scalar) for scalar in node.last):
            whole, part = node.last
            yield line, f"YAML reads {whole},{part} as two entries: write {whole}.{part}, or [{whole}, {part}]"
        node.last = (node.last[-1], key or "")
        node.at_key = not node.at_key


class _Node:
    def __init__(self, anchor: str | None, mapping: bool, flow: bool) -> None:
        self.anchor, self.mapping, self.flow = anchor, mapping, flow
        self.size = 1
        self.at_key = True
        self.keys: dict[str, int] = {}
        self.last: tuple[str, str] = ("", "")  # two scalars in it, keys and values alike


def _at(text: str, mark: Any) -> str:
    """The character at a mark; "" behind the last."""
    line = "".join(text.splitlines()[mark.line : mark.line + 1])
    return line[mark.column : mark.column + 1]


def _of_scalar(event: Any, line: int) -> Iterator[tuple[int, str]]:
    yield from _of_tag(event.tag, line)
    value = event.value
    if event.tag is not None or not event.implicit[0]:  # quoted, or its type is said
        return
    if (meant := _WORDS.get(value.lower())) is not None and value in (value.lower(), value.upper(), value.title()):
        yield line, f'YAML reads {value} as {meant}: write {meant}, or "{value}" for the word'
    elif _LEADING_ZERO.fullmatch(value):
        octal = f"as {int(value, 8)}, an octal number" if re.fullmatch(r"[-+]?[0-7]+", value) else "as a word"
        number = re.sub(r"^([-+]?)0+(?=\d)", r"\1", value)
        yield line, f'YAML reads {value} {octal}: write {number}, or "{value}" for the text'
    elif _SEXAGESIMAL.fullmatch(value):
        yield line, f'YAML reads {value} as a number to the base of 60: write "{value}" for the text'


def _of_tag(tag: str | None, line: int) -> Iterator[tuple[int, str]]:
    if tag is None or tag in _PLAIN_TAGS or tag == "!":
        return
    shown = tag.replace(_CORE, "!!")
    if shown == "!!binary":
        yield line, "!!binary: a config holds no binary data; name a file instead"
    else:
        yield line, f"the tag {shown} asks for an object: a config holds plain values, and builds by name or _target_"


def _text(file: Path) -> str:
    try:
        if file.stat().st_size > LARGEST:
            raise ConfigFileError(f"{short(file)} is larger than {LARGEST // 1_000_000} MB: no config file")
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigFileError(f"{short(file)} is no text in UTF-8: no config file") from error
    except OSError as error:
        raise ConfigFileError(f"{short(file)} cannot be read: {error.strerror}") from error
    if "\0" in text:
        raise ConfigFileError(f"{short(file)} holds binary data: no config file")
    return text
