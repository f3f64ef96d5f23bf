"""The project around the working directory: its configs, its own packages, and what may be written in it.

``configs/project/default.yaml`` is what every run here begins with. Its ``imports`` name the project's packages: what
they register has a name in every config, and what they hold may be a ``_target_``.
"""

from __future__ import annotations

import keyword
import os
import re
import sys
from dataclasses import dataclass
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerator.cli.paths import packaged_configs
from accelerator.errors import ConfigError, UserError
from accelerator.utilities.files import short
from accelerator.utilities.shell import quote

PROJECT_FILE = "project/default.yaml"

_IMPORTS = re.compile(r"^imports:[ \t]*\[(?P<names>[^\]\n]*)\]", re.MULTILINE)


# The same as a list of lines.
_ITEMS = re.compile(r"^imports:[ \t]*(#.*)?\n((?P<indent>[ \t]*)-[ \t]+[\w.]+[ \t]*(#.*)?\n)+", re.MULTILINE)


@dataclass(frozen=True)
class Project:
    """What stands in a folder.

    Attributes:
        root: the folder.
        imports: packages and modules that every run here imports.
    """

    root: Path
    imports: tuple[str, ...]

    @property
    def configs(self) -> Path:
        """Where its YAML stands."""
        return self.root / "configs"

    @property
    def file(self) -> Path:
        """What every run begins with."""
        return self.configs / PROJECT_FILE

    @property
    def package(self) -> str | None:
        """The package that its own components stand in: the first of its imports that is a folder here."""
        folders = (name for name in self.imports if (self.root / name / "__init__.py").is_file())
        return next(folders, None)

    @property
    def is_the_platform(self) -> bool:
        """Whether its configs are the packaged ones: the checkout of the platform itself."""
        return self.configs.resolve() == packaged_configs()

    def with_import(self, module: str) -> str | None:
        """The text of `file` with one more import; None if it has it already.

        Raises:
            ConfigError: ``imports`` stands there in a form that only its author can add to.
        """
        if module in self.imports or module.split(".")[0] in self.imports:
            return None
        if not self.file.exists():
            return (
                "# @package _global_\n"
                "# What every run here begins with; an experiment and the command line have the last word.\n"
                f"imports: [{module}] # what these register has a name; what they hold may be a _target_\n"
            )
        text = self.file.read_text(encoding="utf-8")
        if _IMPORTS.search(text):
            names = ", ".join([*self.imports, module])
            return _IMPORTS.sub(lambda _: f"imports: [{names}]", text, count=1)
        if not re.search(r"^imports:", text, re.MULTILINE):
            return f"{text.rstrip()}\nimports: [{module}]\n"
        if _ITEMS.search(text):
            return _ITEMS.sub(lambda found: f"{found[0]}{found['indent']}- {module}\n", text, count=1)
        raise ConfigError(f"{short(self.file)}: add '{module}' to its imports: they are not written as a list of names")


def here() -> Project:
    """The project of the working directory."""
    root = Path.cwd()
    file = root / "configs" / PROJECT_FILE
    imports = load_mapping(file).get("imports") or [] if file.exists() else []
    if not isinstance(imports, list) or not all(isinstance(name, str) for name in imports):
        raise ConfigError(f"{short(file)}: imports={imports!r}: expected a list of modules, such as [my_package]")
    return Project(root, tuple(imports))


def to_write_in() -> Project:
    """The project of the working directory, for a command that writes into it.

    Raises:
        UserError: the folder belongs to the project around it, and would become another one.
    """
    root = Path.cwd()
    for folder in () if (root / "configs").exists() else root.parents:
        if any((folder / "configs" / mark).is_file() for mark in (PROJECT_FILE, ".generated.json")):
            way = quote(os.path.relpath(folder, root))
            raise UserError(
                f"this folder is inside the project {folder}: cd {way} first; accelerator init begins another one here"
            )
    return here()


def load_mapping(file: Path) -> dict[str, Any]:
    """The content of a YAML file; nothing in it acts.

    Raises:
        ConfigError: it cannot be read, or holds no mapping.
    """
    from yaml import YAMLError, load

    from accelerator.cli.compose.yaml_traps import checked

    try:
        from yaml import CSafeLoader as Loader
    except ImportError:
        from yaml import SafeLoader as Loader
    try:
        content = load(checked(file), Loader) or {}
    except YAMLError as error:
        raise ConfigError(f"{short(file)} is not valid YAML: {' '.join(str(error).split())}") from error
    return content


def hidden(name: str, root: Path) -> str | None:
    """What a package of this name in a folder would hide from a program that runs there; None if nothing."""
    if name in sys.stdlib_module_names:
        return "a module of Python's own"
    own = {root.resolve(), Path.cwd()}
    try:
        path = [entry for entry in sys.path if Path(entry or ".").resolve() not in own]
        spec = PathFinder.find_spec(name, path) or find_spec(name)
    except (ValueError, ImportError):
        return None
    if spec is None or spec.origin is None or Path(spec.origin).is_relative_to(root.resolve()):
        return None
    return spec.origin


def check_name(name: str, what: str) -> str:
    """See that a name can be a file's, an option's and, in code, a Python name.

    Raises:
        ConfigError: it cannot.
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name, re.ASCII) or keyword.iskeyword(name):
        able = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_")
        near = f" — '{able}' can" if re.match(r"[A-Za-z]", able) and able != name else ""
        raise ConfigError(
            f"'{name}' cannot be the name of {what}{near}: letters, digits and underscores, a letter first, "
            "no word of Python"
        )
    return name


def check_inside(path: Path, root: Path) -> Path:
    """See that a file to be written, or removed, is in the project, also when links are followed.

    Raises:
        UserError: it is not.
    """
    if not path.resolve().is_relative_to(root.resolve()):
        raise UserError(f"{path} leads to {path.resolve()}, outside of the project {root}: nothing is written there")
    return path
