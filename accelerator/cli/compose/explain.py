"""``accelerator train --explain``: each value, the file that set it, and what it builds; then what is wrong with it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
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
from accelerator.runtime.context.component import find, is_component, parameters_of
from accelerator.runtime.metrics import kind_of
from accelerator.runtime.run import check_config, import_modules
from accelerator.utilities.files import short
from accelerator.utilities.nested import leaves

PACKAGED = "accelerator/configs"  # where a wheel has the packaged files: in a project, ./configs are its own

COMMAND_LINE = "command line"

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


def explain(overrides: Sequence[str], *, signatures: bool) -> None:
    """Print the composed config as a table: key, value, where it was set; components with their path.

    Args:
        overrides: as on the command line.
        signatures: compare with the components' signatures too, for commands that build them all.

    Raises:
        ConfigError: a module of the user's does not import, or a value does not fit; the table is printed before.
    """
    with composer() as compose:
        config = compose(overrides)
        sources = Sources(overrides)
    values = plain(config)
    wrong: ConfigError | None = None
    try:
        check_config(values) if signatures else import_modules(values["imports"])
    except ConfigError as error:
        wrong = error
    _print(values, sources)
    if wrong is not None:
        raise wrong


def _print(values: dict[str, Any], sources: Sources) -> None:
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


def _rows(values: dict[str, Any], sources: Sources, imports: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
    for section, value in values.items():
        yield from _walk(value, section, _KINDS.get(section), sources, imports)


def _walk(
    node: Any, key: str, kind: str | None, sources: Sources, imports: tuple[str, ...]
) -> Iterator[tuple[str, str, str]]:
    if not isinstance(node, dict) or not node:
        yield key, _text(node), sources.of(key)
        return
    target = None
    if is_component(node):
        target = _target(kind, node, key, imports)
        named = f"{key}.{'name' if node.get('_target_') in (None, '???') else '_target_'}"
        yield key, f"→ {_path(target)}" if target is not None else "→ nothing of that name", sources.of(named)
    for name, value in node.items():
        yield from _walk(value, f"{key}.{name}", kind, sources, imports)
    if target is not None:
        for name, parameter in parameters_of(target).items():
            if name not in node and parameter.default is not inspect.Parameter.empty:
                yield f"{key}.{name}", _text(parameter.default), f"default of {target.__name__}"


def _target(kind: str | None, node: dict[str, Any], key: str, imports: tuple[str, ...]) -> Any:
    try:
        return find(kind or kind_of(node, key), node, key, imports)
    except ConfigError:
        return None


class Sources:
    """Where each value of a composed config was set; to be made inside `composer`.

    Args:
        overrides: as on the command line.
    """

    def __init__(self, overrides: Sequence[str]) -> None:
        loader = GlobalHydra.instance().config_loader()
        self._set_by: dict[str, str] = {}
        self._order: list[str] = []
        for default in loader.compute_defaults_list(CONFIG_NAME, opened(overrides), RunMode.RUN).defaults:
            if default.config_path is None or default.config_path.startswith("hydra/"):
                continue
            loaded = loader.repository.load_config(default.config_path)  # pyright: ignore[reportAttributeAccessIssue]
            where = _shown(loaded.path, default.config_path)
            self._order.append(where)
            content: Any = OmegaConf.to_container(loaded.config, resolve=False)
            for key, _ in leaves(content):
                if key.split(".")[0] not in ("defaults", "hydra"):
                    self._set_by[f"{default.package}.{key}" if default.package else key] = where
        self._order.append(COMMAND_LINE)
        self._set_by |= {override.lstrip("+~").split("=", 1)[0]: COMMAND_LINE for override in overrides}

    def of(self, key: str) -> str:
        """The last file of the defaults list that sets a key, or the mapping it came with; or the command line."""
        while key:
            if key in self._set_by:
                return self._set_by[key]
            key = key.rpartition(".")[0]
        return ""

    def is_later(self, key: str, other: str) -> bool:
        """Whether a key was set after another: by a later file, or on the command line."""
        return self._order.index(self.of(key)) > self._order.index(self.of(other))


def _shown(root: str, name: str) -> str:
    if root.startswith("structured:"):
        return "accelerator/cli/compose/schema.py"
    folder = Path(root.removeprefix("file://"))
    if folder == packaged_configs() and not folder.is_relative_to(Path.cwd()):
        return f"{PACKAGED}/{name}.yaml"
    return short(folder / f"{name}.yaml")


def _path(target: Any) -> str:
    return f"{target.__module__}:{target.__qualname__}"


def _text(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
