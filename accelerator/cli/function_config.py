"""The config of a train function: a YAML file of four sections, and what the command line says in place of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from accelerator.cli.compose.reasons import first_line
from accelerator.cli.compose.yaml_traps import checked
from accelerator.errors import ConfigError
from accelerator.experiment.config import TYPED, ExperimentConfig, experiment_config, origin


def load_config(file: Path | None, overrides: list[str]) -> ExperimentConfig:
    """The config of a file, with ``section.key=value`` in place of what it says.

    Raises:
        ConfigError: the file cannot be read, or holds what is no config.
    """
    return experiment_config(*sections(file, overrides))


def sections(file: Path | None, overrides: list[str]) -> tuple[dict[str, Any], str, list[str]]:
    """What a file and the command line say, where it comes from, and the keys that the command line has set."""
    source, typed = str(file or TYPED), []
    parsed = _parsed(overrides)
    at: str | None = None  # the override that is put in its place
    try:
        config = OmegaConf.create({}) if file is None else _of_file(file)
        for override in parsed:
            at = override.input_line
            typed += _put(config, override)
        at = None
        values: Any = OmegaConf.to_container(config, resolve=True)
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        where = at or origin(str(getattr(error, "full_key", None) or ""), source, typed)
        raise ConfigError(f"{where}: {first_line(error)}") from error
    return {key: {} if value is None else value for key, value in values.items()}, source, typed


def _of_file(file: Path) -> DictConfig:
    if not file.exists():
        raise ConfigError(f"{file}: No such file or directory; give the config's YAML file, or none")
    try:
        loaded: Any = OmegaConf.create(checked(file))
    except YAMLError as error:  # what only shows when values are made, such as a merge of what is no mapping
        raise ConfigError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from error
    return loaded


def _parsed(overrides: list[str]) -> list[Override]:
    """What is typed, read as `accelerator train` reads it.

    Raises:
        ConfigError: holds a sentence for each that cannot be read, or that sets no one key to one value.
    """
    parser = OverridesParser.create()
    parsed, problems = [], []
    for text in overrides:
        if not text.startswith("~") and ("=" not in text or text.startswith("-")):
            problems.append(f"'{text}': expected section.key=value, as in hyperparameters.lr=0.1")
            continue
        try:
            override = parser.parse_override(text)
        except HydraException as error:
            problems.append(
                f"'{text}' cannot be read: {first_line(error)}; write key=value, and quote what has spaces or commas"
            )
            continue
        if override.is_sweep_override():
            problems.append(f"{text} is a sweep: a list is written [1, 5], a number 1.5, and text '1,5' in quotes")
        elif override.is_list_extend():
            problems.append(f"{text}: write the whole list, {override.key_or_group}=[…]")
        elif override.package is not None or not override.key_or_group:
            problems.append(f"'{text}': expected section.key=value, as in hyperparameters.lr=0.1")
        parsed.append(override)
    if problems:
        raise ConfigError(problems)
    return parsed


def _put(config: DictConfig, override: Override) -> list[str]:
    """Set one key, in place of all that stands there, or with ``~`` before it take one out.

    A key stands in a file with its dots, or nested: both are meant.

    Returns:
        The key that is the command line's from now on: the first on the way to it that was not there, else itself.

    Raises:
        ConfigError: what is to be taken out is not there, or has another value than is said.
    """
    key, value, said = override.key_or_group, override.value(), override.input_line
    found = _places(config, key)
    if override.is_delete():
        if not found:
            raise ConfigError(f"{said}: there is nothing to take out; {key} is not in the config")
        for holder, last in found:
            if value is not None and holder[last] != value:
                raise ConfigError(f"{said}: {key} has another value; ~{key} takes it out, whatever it is")
            del holder[last]
        return []
    for holder, last in found:
        holder[last] = value
    if found:
        return [key]
    steps = key.split(".")
    ways = [".".join(steps[: count + 1]) for count in range(len(steps))]
    first = next((way for way in ways if not isinstance(OmegaConf.select(config, way), DictConfig)), key)
    OmegaConf.update(config, key, value, merge=False, force_add=True)
    return [first]


def _places(node: Any, key: str) -> list[tuple[DictConfig, str]]:
    """Where a dotted key stands: each mapping that has it, or its end, with what it is called there."""
    if not isinstance(node, DictConfig):
        return []
    found = [(node, key)] if key in node else []
    for place in (place for place, letter in enumerate(key) if letter == "."):
        if key[:place] in node:
            found += _places(node[key[:place]], key[place + 1 :])
    return found
