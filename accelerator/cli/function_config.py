"""The config of a train function: a YAML file of four sections, and what the command line says in place of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from accelerator.errors import ConfigError
from accelerator.experiment.config import ExperimentConfig, experiment_config


def load_config(file: Path | None, overrides: list[str]) -> ExperimentConfig:
    """The config of a file, with ``section.key=value`` in place of what it says.

    Raises:
        ConfigError: the file cannot be read, or holds what is no config.
    """
    return experiment_config(*sections(file, overrides))


def sections(file: Path | None, overrides: list[str]) -> tuple[dict[str, Any], str]:
    """What a file and the command line say, and where that comes from, for messages."""
    source = " and ".join([*([str(file)] if file else []), *(["the command line"] if overrides or not file else [])])
    wrong = [text for text in overrides if not text.startswith("~") and ("=" not in text or text.startswith("-"))]
    if wrong:
        raise ConfigError(f"'{text}': expected section.key=value, as in hyperparameters.lr=0.1" for text in wrong)
    try:
        loaded = OmegaConf.create({}) if file is None else OmegaConf.load(file)
        if not isinstance(loaded, DictConfig):
            raise ConfigError(f"{file} holds a list: expected the sections experiment, hyperparameters, …")
        for text in overrides:
            _put(loaded, text)
        values: Any = OmegaConf.to_container(loaded, resolve=True)
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}; give the config's YAML file, or none") from error
    except (YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from error
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise ConfigError(f"{file or 'the command line'}: {str(error).splitlines()[0]}") from error
    return {key: value or {} for key, value in values.items()}, source


def _put(config: DictConfig, override: str) -> None:
    """Set one key, in place of all that stands there, or with ``~`` before it take one out.

    A key stands in a file with its dots, or nested: both are meant.

    Raises:
        ConfigError: what is to be taken out is not there.
    """
    key = override.lstrip("~").split("=", 1)[0]
    found = _places(config, key)
    if override.startswith("~"):
        if not found:
            raise ConfigError(f"{override}: there is nothing to take out; {key} is not in the config")
        for holder, last in found:
            del holder[last]
        return
    value = OmegaConf.select(OmegaConf.from_dotlist([override]), key)
    for holder, last in found:
        holder[last] = value
    if not found:
        OmegaConf.update(config, key, value, merge=False, force_add=True)


def _places(node: Any, key: str) -> list[tuple[DictConfig, str]]:
    """Where a dotted key stands: each mapping that has it, or its end, with what it is called there."""
    if not isinstance(node, DictConfig):
        return []
    found = [(node, key)] if key in node else []
    for place in (place for place, letter in enumerate(key) if letter == "."):
        if key[:place] in node:
            found += _places(node[key[:place]], key[place + 1 :])
    return found
