"""kornia, which the extra ``cv`` installs."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from accelerator.errors import ConfigError


def kornia(submodule: str) -> Any:
    """The module ``kornia.<submodule>``.

    Raises:
        ConfigError: kornia is not installed.
    """
    try:
        return import_module(f"kornia.{submodule}")
    except ModuleNotFoundError as error:
        if error.name != "kornia":
            raise
        raise ConfigError("ssim and color_space need kornia: pip install kornia") from error
