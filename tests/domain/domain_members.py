"""Every component of the domains, for the conformance suites."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

import domain
from accelerator.utilities.base_registry import load

CONFIGS = Path(__file__).parents[2] / "configs"
REQUIRED = "???"


def packages() -> list[str]:
    return [f"domain.{module.name}" for module in pkgutil.iter_modules(domain.__path__) if module.ispkg]


def members(kind: str) -> dict[str, str]:
    """The path of each member by name."""
    return {
        name: path
        for package in packages()
        for name, path in importlib.import_module(package).COMPONENTS.get(kind, {}).items()
    }


def component(kind: str, name: str) -> Callable[..., Any]:
    return load(members(kind)[name])


def knobs(kind: str, name: str) -> dict[str, inspect.Parameter]:
    """The constructor's parameters that a config sets: without those that the runtime fills in."""
    filled = {"model": ("input_shape", "output_shape"), "loss": ("prediction", "target")}.get(kind, ())
    parameters = inspect.signature(component(kind, name)).parameters
    return {key: value for key, value in parameters.items() if key not in filled}


def read_yaml(file: Path) -> dict[str, Any]:
    return yaml.safe_load(file.read_text())
