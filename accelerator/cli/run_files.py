"""What a run's folder holds of how the run was composed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from accelerator.errors import RunDirectoryError
from accelerator.runtime.run_directory import CONFIG, OVERRIDES

COMPOSITION = "composition.yaml"


def config_in(folder: Path) -> dict[str, Any]:
    """The config as it was recorded: secrets masked, interpolations resolved.

    Raises:
        RunDirectoryError: there is none, or what is there is no config.
    """
    content = _content(folder / CONFIG)
    if not isinstance(content, dict):
        raise _damaged(folder / CONFIG, "it holds no mapping")
    return content


def overrides_in(folder: Path) -> list[str]:
    """What was typed; nothing where the folder does not tell.

    Raises:
        RunDirectoryError: what is there is no list of overrides.
    """
    if not (folder / OVERRIDES).exists():
        return []
    content = _content(folder / OVERRIDES)
    if not isinstance(content, list) or any(isinstance(each, list | Mapping) for each in content):
        raise _damaged(folder / OVERRIDES, "it holds no list of overrides")
    return [str(each) for each in content]


def composition_in(folder: Path) -> dict[str, Any]:
    """The command, and what its config was composed of; nothing where the folder does not tell.

    Raises:
        RunDirectoryError: what is there tells nothing.
    """
    if not (folder / COMPOSITION).exists():
        return {}
    content = _content(folder / COMPOSITION)
    if not isinstance(content, dict):
        raise _damaged(folder / COMPOSITION, "it holds no mapping")
    return content


def _content(file: Path) -> Any:
    try:
        return OmegaConf.to_container(OmegaConf.load(file))
    except (OSError, YAMLError, UnicodeDecodeError, OmegaConfBaseException) as error:
        raise _damaged(file, " ".join(str(error).split())) from error


def _damaged(file: Path, why: str) -> RunDirectoryError:
    return RunDirectoryError(
        f"{file} is not as a run leaves it: {why}; put it back as it was, or begin a new run in another folder"
    )
