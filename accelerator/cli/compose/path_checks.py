"""Paths on a command line and in configs that lead upwards are refused: a folder is named, not climbed to."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from accelerator.errors import ConfigError

# Where Hydra writes.
FOLDERS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir")

_NAME_FLAGS = ("--config-name", "-cn")


def check_paths(arguments: Sequence[str]) -> None:
    """Look at what is typed.

    Raises:
        ConfigError: a folder to write, or the name of a config, leads upwards.
    """
    if problems := [*_of_folders(arguments), *_of_names(arguments)]:
        raise ConfigError(problems)


def climbing(config: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the folders that a config file sets, before interpolation."""
    for key in FOLDERS:
        node: Any = config
        for part in key.split("."):
            node = node.get(part) if isinstance(node, Mapping) else None
        if isinstance(node, str) and climbs(node):
            yield _refused(key, node)


def climbs(path: str) -> bool:
    """Whether a path has a ``..`` in it."""
    return ".." in PurePath(re.sub(r"\\", "/", path)).parts


def _of_folders(arguments: Sequence[str]) -> Iterator[str]:
    for argument in arguments:
        key, equals, value = argument.lstrip("+~").partition("=")
        if equals and key in FOLDERS and climbs(value.strip("'\"")):
            yield _refused(key, value)


def _of_names(arguments: Sequence[str]) -> Iterator[str]:
    for position, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag in _NAME_FLAGS:
            name = value if equals else next(iter(arguments[position + 1 :]), "")
            if climbs(name) or "/" in name or "\\" in name:
                yield f"{flag} {name}: expected the name of a config in the config folders, not a path"


def _refused(key: str, value: str) -> str:
    return f"{key}={value} leads upwards (..): name the folder by its absolute path, or by one below this folder"
