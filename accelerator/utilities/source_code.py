"""Modules as text: where a dotted name is defined, found by reading source files and never by importing them.

Importing a module runs it. What only wants to know a signature reads the file instead: nothing of it acts, whatever
stands in it.
"""

from __future__ import annotations

import ast
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from accelerator.errors import ConfigError, did_you_mean

LARGEST = 5_000_000  # bytes of a source file: nobody writes a longer one
_HOPS = 20  # re-exports that are followed before a name counts as one that leads nowhere

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """A module, read.

    Attributes:
        name: dotted.
        file: its source.
        tree: what stands there.
    """

    name: str
    file: Path
    tree: ast.Module

    @property
    def package(self) -> str:
        """What relative imports in it are relative to."""
        return self.name if self.file.name == "__init__.py" else self.name.rpartition(".")[0]


class Found(NamedTuple):
    """A class or function, and the module that defines it."""

    module: Module
    node: Definition
    qualname: str

    @property
    def path(self) -> str:
        """Where it is defined, as ``module:attribute``."""
        return f"{self.module.name}:{self.qualname}"


class SourceCode:
    """Reads modules, each once.

    Args:
        root: a project's folder, searched first, as if it were on the path.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = root
        self._modules: dict[str, Module | None] = {}

    def module(self, name: str) -> Module | None:
        """A module by its dotted name; None if there is no source file of that name.

        Raises:
            ConfigError: the file cannot be read as Python.
        """
        if name not in self._modules:
            file = module_file(name, self.root)
            self._modules[name] = None if file is None else Module(name, file, parse(file))
        return self._modules[name]

    def take(self, name: str, file: Path, text: str) -> None:
        """Let a module be what a text says, whether its file is there yet or not."""
        self._modules[name] = Module(name, file, ast.parse(text))

    def find(self, path: str) -> Found:
        """The class or function at ``package.module.Name`` (or ``package.module:Name``), re-exports followed.

        Raises:
            ConfigError: there is no such module or no such name, or it is made at run time only.
        """
        parts = path.replace(":", ".").split(".")
        if not all(part.isidentifier() for part in parts):
            raise ConfigError(f"'{path}' is no dotted path of a class or function, such as torch.nn.SmoothL1Loss")
        for split in range(len(parts) - 1, 0, -1):
            if (module := self.module(".".join(parts[:split]))) is not None:
                return self._within(module, parts[split:], path)
        if len(parts) == 1:
            raise ConfigError(f"'{path}' names no module: write package.module.{path}, or file.py:{path}")
        raise ConfigError(f"{path}: no source code of a module '{parts[0]}' is found here; install it or mend the path")

    def names(self, module: Module, hops: int = 4) -> list[str]:
        """The names that a module binds at its top, those of a ``from … import *`` too."""
        found = bound_names(module.tree)
        for node in _statements(module.tree.body) if hops else ():
            if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
                source = self.module(imported_from(module, node))
                found += [] if source is None else self.names(source, hops - 1)
        return found

    def _within(self, module: Module, parts: list[str], path: str) -> Found:
        found = self._attribute(module, parts[0], _HOPS)
        for part in parts[1:]:
            if isinstance(found, Module):
                found = self._attribute(found, part, _HOPS)
            elif found is not None:
                inner = [node for node in found.node.body if isinstance(node, Definition) and node.name == part]
                found = Found(found.module, inner[-1], f"{found.qualname}.{part}") if inner else None
        if isinstance(found, Found):
            return found
        if isinstance(found, Module):
            raise ConfigError(f"{path} is a module: name a class or function in it")
        if parts[0] in bound_names(module.tree):
            raise ConfigError(
                f"{path} is made when {module.name} is imported, so its signature cannot be read from its source: "
                "--trust imports it"
            )
        known = [name for name in self.names(module) if not name.startswith("_")]
        raise ConfigError(f"{path}: no '{parts[0]}' in {module.name}{did_you_mean(parts[0], known)}")

    def _attribute(self, module: Module, name: str, hops: int) -> Found | Module | None:
        """What a name stands for at the top of a module; None if that cannot be told."""
        if hops == 0:
            return None
        found: Found | Module | None = None
        for node in _statements(module.tree.body):
            if isinstance(node, Definition) and node.name == name:
                found = Found(module, node, name)
            elif isinstance(node, ast.ImportFrom):
                source = imported_from(module, node)
                for alias in node.names:
                    if alias.name == "*" and not name.startswith("_"):
                        found = self._of(source, name, hops) or found
                    elif (alias.asname or alias.name) == name:
                        found = self._of(source, alias.name, hops) or found
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.asname == name or (alias.asname is None and alias.name.split(".")[0] == name):
                        found = self.module(alias.name if alias.asname else name) or found
            elif isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
                found = self.resolve(module, node.value, hops - 1) or found
        return found or self.module(f"{module.name}.{name}")

    def resolve(self, module: Module, node: ast.expr, hops: int = _HOPS) -> Found | Module | None:
        """What an expression such as ``nn.Module`` names in a module; None if it is no such name, or leads nowhere."""
        if isinstance(node, ast.Name):
            return self._attribute(module, node.id, hops)
        if isinstance(node, ast.Attribute):
            around = self.resolve(module, node.value, hops)
            return self._attribute(around, node.attr, hops - 1) if isinstance(around, Module) else None
        return None

    def _of(self, source: str, name: str, hops: int) -> Found | Module | None:
        module = self.module(source)
        return None if module is None else self._attribute(module, name, hops - 1)


def module_file(name: str, root: Path | None = None) -> Path | None:
    """The source file of a module, found without importing it or the packages around it.

    Args:
        name: dotted.
        root: a folder that is searched before the path.
    """
    head, *rest = name.split(".")
    path = sys.path if root is None else [str(root), *sys.path]
    # As the interpreter does: a folder without __init__.py gives way to a package further down the path.
    spec: ModuleSpec | None = PathFinder.find_spec(head, path)
    try:
        if spec is None or spec.origin is None:
            spec = find_spec(head) or spec
    except (ValueError, ImportError):
        return None
    at = head
    for part in rest:
        if spec is None or spec.submodule_search_locations is None:
            return None
        at = f"{at}.{part}"
        spec = PathFinder.find_spec(at, list(spec.submodule_search_locations))
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    file = Path(spec.origin)
    return file if file.is_file() else None


def parse(file: Path) -> ast.Module:
    """A source file as a tree; nothing in it acts.

    Raises:
        ConfigError: it is not Python.
    """
    try:
        if file.stat().st_size > LARGEST:
            raise ConfigError(f"{file} is larger than {LARGEST // 1_000_000} MB: no source code that is read here")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its escape sequences: not for us to tell
            return ast.parse(file.read_bytes(), str(file))
    except SyntaxError as error:
        raise ConfigError(f"{file}, line {error.lineno}: not valid Python: {error.msg}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise ConfigError(f"{file} cannot be read as Python: {error or type(error).__name__}") from error
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from error


def imported_from(module: Module, node: ast.ImportFrom) -> str:
    """The module that a ``from … import`` names, absolute."""
    if not node.level:
        return node.module or ""
    parts = module.package.split(".")
    base = ".".join(parts[: len(parts) - node.level + 1])
    return f"{base}.{node.module}" if node.module else base


def bound_names(tree: ast.Module) -> list[str]:
    """The names that a module binds at its top."""
    names: list[str] = []
    for node in _statements(tree.body):
        if isinstance(node, Definition):
            names.append(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names += [alias.asname or alias.name.split(".")[0] for alias in node.names if alias.name != "*"]
        elif isinstance(node, ast.Assign):
            names += [target.id for target in node.targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.append(node.target.id)
    return names


def assigned(tree: ast.Module, name: str) -> ast.expr | None:
    """The expression that a module gives a name last, at its top."""
    value: ast.expr | None = None
    for node in _statements(tree.body):
        if isinstance(node, ast.Assign):
            value = node.value if any(isinstance(t, ast.Name) and t.id == name for t in node.targets) else value
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == name:
            value = node.value
    return value


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module that bind names at its top, those inside ``if``, ``try`` and ``with`` too."""
    for node in body:
        yield node
        for inner in ("body", "orelse", "handlers", "finalbody"):
            if isinstance(node, ast.If | ast.Try | ast.With):
                for child in getattr(node, inner, []):
                    yield from _statements(child.body if isinstance(child, ast.ExceptHandler) else [child])
