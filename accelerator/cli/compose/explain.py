"""``accelerator train --explain``: each value, the file that set it, and what it builds."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from accelerator.cli.compose.compose import CONFIG_NAME, composer, opened, plain
from accelerator.cli.paths import packaged_configs
from accelerator.errors import ConfigError
from accelerator.runtime.context.component import find, is_component
from accelerator.runtime.metrics import kind_of
from accelerator.utilities.nested import leaves

# Sections whose own keys are the component's arguments; the others hold components by name.
_KINDS = {
    "engine": "engine",
    "multilevel": "multilevel",
    "data": "data",
    "model": "model",
    "loss": "loss",
    "optimizer": "optimizer",
    "scheduler": "scheduler",
    "transform": "transform",
    "callbacks": "callback",
    "acceleration": "acceleration",
}


def explain(overrides: Sequence[str]) -> None:
    """Print the composed config as a table: key, value, where it was set; components with their path.

    Args:
        overrides: as on the command line.
    """
    with composer() as compose:
        config = compose(overrides)
        sources = _sources(overrides)
    values = plain(config)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("key", "value", "set by"):
        table.add_column(column, overflow="fold")
    for key, value, where in _rows(values, sources, tuple(values["imports"])):
        table.add_row(key, value, where)
    console = Console(highlight=False)
    if console.is_terminal:
        console.print(table)
        return
    # A pipe has no width of its own: rows are not folded there.
    wide = Console(highlight=False, width=1000)
    with wide.capture() as capture:
        wide.print(table)
    print("\n".join(line.rstrip() for line in capture.get().splitlines()))


def _rows(values: dict[str, Any], sources: dict[str, str], imports: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
    for section, value in values.items():
        yield from _walk(value, section, _KINDS.get(section), sources, imports)


def _walk(
    node: Any, key: str, kind: str | None, sources: dict[str, str], imports: tuple[str, ...]
) -> Iterator[tuple[str, str, str]]:
    if not isinstance(node, dict) or not node:
        yield key, _text(node), _source(key, sources)
        return
    target = None
    if is_component(node):
        target = _target(kind, node, key, imports)
        named = f"{key}.{'name' if '_target_' not in node else '_target_'}"
        yield key, f"→ {_path(target)}" if target is not None else "→ nothing of that name", _source(named, sources)
    for name, value in node.items():
        yield from _walk(value, f"{key}.{name}", kind, sources, imports)
    if target is not None:
        for name, parameter in inspect.signature(target).parameters.items():
            if name not in node and parameter.default is not inspect.Parameter.empty:
                yield f"{key}.{name}", _text(parameter.default), f"default of {target.__name__}"


def _target(kind: str | None, node: dict[str, Any], key: str, imports: tuple[str, ...]) -> Any:
    try:
        return find(kind or kind_of(node, key), node, key, imports)
    except ConfigError:
        return None


def source_of(overrides: Sequence[str]) -> Callable[[str], str]:
    """A function from a dotted key to the file that set it; to be called inside `composer`."""
    sources = _sources(overrides)
    return lambda key: _source(key, sources)


def _sources(overrides: Sequence[str]) -> dict[str, str]:
    """For each dotted key, the last file of the defaults list that sets it, or the command line."""
    loader = GlobalHydra.instance().config_loader()
    found: dict[str, str] = {}
    for default in loader.compute_defaults_list(CONFIG_NAME, opened(overrides), RunMode.RUN).defaults:
        if default.config_path is None or default.config_path.startswith("hydra/"):
            continue
        loaded = loader.repository.load_config(default.config_path)  # pyright: ignore[reportAttributeAccessIssue]
        where = _shown(loaded.path, default.config_path)
        content: Any = OmegaConf.to_container(loaded.config, resolve=False)
        for key, _ in leaves(content):
            if key.split(".")[0] not in ("defaults", "hydra"):
                found[f"{default.package}.{key}" if default.package else key] = where
    found |= {override.lstrip("+~").split("=", 1)[0]: "command line" for override in overrides}
    return found


def _source(key: str, sources: dict[str, str]) -> str:
    """Where a key was set, or the mapping it came with."""
    while key:
        if key in sources:
            return sources[key]
        key = key.rpartition(".")[0]
    return ""


def _shown(root: str, name: str) -> str:
    if root.startswith("structured:"):
        return "accelerator/cli/compose/schema.py"
    path = Path(root.removeprefix("file://"))
    folder = "configs" if path == packaged_configs() else str(path)
    return f"{folder}/{name}.yaml"


def _path(target: Any) -> str:
    return f"{target.__module__}:{target.__qualname__}"


def _text(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
