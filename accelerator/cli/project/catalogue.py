"""Which components there are and where they are defined, without importing any of them.

Three sources: the tables ``COMPONENTS`` of the packages behind the entry points ``accelerator.domains``, what the
project's own modules register, and torch's namespaces for the kinds whose members are known by their class names.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import entry_points
from pathlib import Path
from typing import NamedTuple

from accelerator.cli.paths import packaged_configs
from accelerator.cli.project.kind_check import wrong_kind
from accelerator.cli.project.kinds import KINDS, Kind
from accelerator.cli.project.project import Project, load_mapping
from accelerator.errors import ConfigError, did_you_mean
from accelerator.utilities.base_registry import ENTRY_POINT_GROUP, NAMESPACES
from accelerator.utilities.files import short
from accelerator.utilities.source_code import Module, SourceCode, assigned, imported_from, parse

# Folders of a project in which no component of its own is looked for.
PASSED_OVER = frozenset(
    {"tests", "outputs", "multirun", "studies", "mlruns", "mlartifacts", "build", "dist", "node_modules"}
)

_DEPTH = 3  # folders below the project in which modules are looked for that nothing imports


class _Registered(NamedTuple):
    """What a project's modules register: paths by kind and name, what is wrong, and what two components are called."""

    members: dict[str, dict[str, str]]
    problems: list[str]
    twice: set[tuple[str, str]]


@dataclass
class Catalogue:
    """What can be named in the configs of a project.

    Args:
        project: whose modules count beside the installed packages.

    Attributes:
        source: through which files are read.
    """

    project: Project
    source: SourceCode = field(init=False)

    def __post_init__(self) -> None:
        self.source = SourceCode(self.project.root)

    @cached_property
    def packaged(self) -> dict[str, dict[str, str]]:
        """The path of each member by kind and name, of all installed packages of components.

        Raises:
            ConfigError: a package's table cannot be read without importing it.
        """
        found: dict[str, dict[str, str]] = {kind: {} for kind in KINDS}
        for entry in entry_points(group=ENTRY_POINT_GROUP):
            for kind, members in self._table(entry.value).items():
                found.setdefault(kind, {}).update(members)
        return found

    @property
    def own(self) -> dict[str, dict[str, str]]:
        """The same of what the project's imports register: the modules named there, and what those import of theirs."""
        return self._registered.members

    @property
    def problems(self) -> list[str]:
        """What keeps modules of the project from being read, and which names two components have."""
        return self._registered.problems

    @property
    def twice(self) -> set[tuple[str, str]]:
        """Kind and name of what two components are called."""
        return self._registered.twice

    def warn(self) -> None:
        """Tell the `problems`, where they keep a command from nothing else."""
        for problem in self.problems:
            warnings.warn(problem, stacklevel=2)

    @cached_property
    def _registered(self) -> _Registered:
        read = _Registered({kind: {} for kind in KINDS}, [], set())
        for name in self.project.imports:
            for module in self._imported(name, read.problems):
                for kind, member, target in registrations(module.tree):
                    path = f"{module.name}:{target}"
                    known = read.members[kind].get(member) or self.packaged[kind].get(member) or path
                    if known == path:
                        read.members[kind][member] = path
                    else:
                        read.twice.add((kind, member))
                        read.problems.append(
                            f"two {kind} components are called '{member}': {known} and {path}; rename one"
                        )
        return read

    def names(self, kind: Kind) -> dict[str, str]:
        """The registered members of a kind, with their paths."""
        return self.packaged[kind.name] | self.own[kind.name]

    def in_namespace(self, kind: Kind, name: str) -> str | None:
        """The path of a class of torch that answers to its own name; None if there is no such class."""
        namespace = NAMESPACES.get(kind.name)
        if namespace is None:
            return None
        try:
            found = self.source.find(f"{namespace}.{name}")
        except ConfigError:
            return None
        ours = found.module.name.startswith(namespace) and isinstance(found.node, ast.ClassDef)
        return f"{namespace}:{name}" if ours else None

    def elsewhere(self, kind: Kind, name: str) -> tuple[str, str] | None:
        """A module of the project that registers the name though no run imports it yet, and the member's path."""
        for file in _own_files(self.project.root):
            if b"register" not in file.read_bytes():
                continue
            module = ".".join(file.relative_to(self.project.root).with_suffix("").parts).removesuffix(".__init__")
            try:
                found = {(k, n): target for k, n, target in registrations(parse(file))}
            except ConfigError:
                continue
            if (kind.name, name) in found:
                return module, f"{module}:{found[kind.name, name]}"
        return None

    def unknown(self, kind: Kind, name: str) -> ConfigError:
        """What is to be said of a name that nothing answers to."""
        known = [*self.names(kind)]
        if kind.name in NAMESPACES and (module := self.source.module(NAMESPACES[kind.name])) is not None:
            for each in self.source.names(module):
                path = self.in_namespace(kind, each) if each[:1].isupper() else None
                if path is not None and wrong_kind(kind, path, self.source) is None:
                    known.append(each)
        folded = {name.lower() for name in known}
        known += [name for name in _presets(kind) if name.lower() not in folded]  # adam is Adam
        return ConfigError(
            f"there is no {kind.name} '{name}'{did_you_mean(name, known)}; give --target package.module.Name or "
            f"file.py:Name for one that is not registered, --new to begin one"
        )

    def _table(self, package: str) -> dict[str, dict[str, str]]:
        module = self.source.module(package)
        table = None if module is None else assigned(module.tree, "COMPONENTS")
        try:
            content = None if table is None else ast.literal_eval(table)
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise ConfigError(
                f"{package} is installed as a package of components, and its COMPONENTS is no table that can be read "
                "without importing it: {kind: {name: 'module:attribute'}}"
            )
        return content

    def _imported(self, name: str, problems: list[str]) -> Iterator[Module]:
        """A module, and those of its own package that importing it imports; ``problems`` gets what cannot be read."""
        head, waiting, seen = name.split(".")[0], [name], set()
        while waiting:
            if (at := waiting.pop()) in seen:
                continue
            seen.add(at)
            try:
                module = self.source.module(at)
            except ConfigError as error:
                problems += error.problems
                continue
            if module is None:
                continue
            yield module
            if imports_all(module):
                waiting += _modules_below(module)
            for node in ast.walk(module.tree):
                if isinstance(node, ast.Import):
                    waiting += [alias.name for alias in node.names if alias.name.split(".")[0] == head]
                elif isinstance(node, ast.ImportFrom):
                    base = imported_from(module, node)
                    if base.split(".")[0] == head:
                        waiting += [base, *(f"{base}.{alias.name}" for alias in node.names)]


def _presets(kind: Kind) -> list[str]:
    """The packaged options that hold a component under another name than its own."""
    files = (packaged_configs() / kind.folder).glob("*.yaml")
    return [file.stem for file in files if isinstance(load_mapping(file).get("name"), str)]


def registrations(tree: ast.Module) -> Iterator[tuple[str, str, str]]:
    """Kind, name and attribute of what a module registers by ``@register(kind, name)``."""
    for node in tree.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef):
            continue
        for decorator in node.decorator_list:
            if isinstance(decorator, ast.Call) and ast.unparse(decorator.func).rpartition(".")[2] == "register":
                given = [a.value for a in decorator.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
                if len(given) == 2 and given[0] in KINDS:
                    yield given[0], given[1], node.name


def imports_all(module: Module) -> bool:
    """Whether a package imports every module below it, as `accelerator init` writes it."""
    return module.file.name == "__init__.py" and any(
        isinstance(node, ast.Attribute | ast.Name) and ast.unparse(node).rpartition(".")[2] == "walk_packages"
        for node in ast.walk(module.tree)
    )


def _modules_below(package: Module) -> list[str]:
    folder = package.file.parent
    files = (file.relative_to(folder).with_suffix("") for file in folder.rglob("*.py"))
    return [f"{package.name}.{'.'.join(file.parts)}".removesuffix(".__init__") for file in files]


def _own_files(root: Path) -> Iterator[Path]:
    """The modules of a project that could be imported from its folder; links are not followed."""
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        for path in sorted(folder.iterdir()):
            if path.is_symlink() or path.name.startswith(".") or not path.stem.isidentifier():
                continue
            if path.suffix == ".py" and path.is_file():
                yield path
            elif path.is_dir() and not _is_passed_over(path, root):
                waiting.append(path)


def _is_passed_over(folder: Path, root: Path) -> bool:
    deep = len(folder.relative_to(root).parts) > _DEPTH
    return deep or folder.name in PASSED_OVER or (folder / "pyvenv.cfg").exists()


def module_of(file: Path, root: Path) -> str:
    """The dotted name under which a file of the project is imported from its folder.

    Raises:
        ConfigError: there is no such file in the project, or its path is no dotted name.
    """
    path = (root / file).resolve()
    if not path.is_relative_to(root.resolve()):
        raise ConfigError(f"{file} is outside of the project {root}: copy it here, or install it and give its module")
    if not path.is_file():
        near = did_you_mean(file.name, [each.name for each in _own_files(root)])
        raise ConfigError(f"there is no file {short(path)}{near}")
    parts = path.relative_to(root.resolve()).with_suffix("").parts
    if path.suffix != ".py" or not all(part.isidentifier() for part in parts):
        raise ConfigError(f"{file} cannot be imported: a module is a .py file, and its path is made of Python names")
    return ".".join(parts).removesuffix(".__init__")
