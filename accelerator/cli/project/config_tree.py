"""The config tree read as files: which option is which component, with which values, and what it chooses besides."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerator.cli.project.catalogue import Catalogue
from accelerator.cli.project.component_yaml import MISSING, PLACES
from accelerator.cli.project.kinds import KINDS, Kind
from accelerator.cli.project.project import load_mapping
from accelerator.errors import ConfigError, did_you_mean
from accelerator.utilities.signatures import Signature, signature_of

_OF_FOLDER = {kind.folder: kind for kind in KINDS.values()}


@dataclass(frozen=True)
class Part:
    """One component of an option.

    Attributes:
        key: where it stands in the file; "" for the whole of it.
        kind: what it is.
        reference: its ``name`` or ``_target_``, as ``(which, value)``.
        values: the arguments that are set.
    """

    key: str
    kind: Kind
    reference: tuple[str, str]
    values: Mapping[str, Any]

    def signature(self, catalogue: Catalogue) -> Signature:
        """What the component takes.

        Raises:
            ConfigError: there is no such component (any more).
        """
        which, value = self.reference
        if which == "_target_":
            return signature_of(value, catalogue.source)
        # A metric may be named by a loss: it is then averaged over samples.
        for kind in (self.kind, KINDS["loss"]) if self.kind.name == "metric" else (self.kind,):
            if (path := catalogue.names(kind).get(value) or catalogue.in_namespace(kind, value)) is not None:
                return signature_of(path, catalogue.source)
        if (elsewhere := catalogue.elsewhere(self.kind, value)) is not None:
            raise ConfigError(
                f"the {self.kind.name} '{value}' is registered in {elsewhere[0]}, which no run imports: add it to the "
                "imports in configs/project/default.yaml"
            )
        near = did_you_mean(value, catalogue.names(self.kind), show=0)
        raise ConfigError(f"there is no {self.kind.name} '{value}' (any more){near}")

    @property
    def is_open(self) -> bool:
        """Whether the component is still to be named on the command line."""
        return self.reference[1] == MISSING


@dataclass(frozen=True)
class Option:
    """A file of a config group.

    Attributes:
        group: its folder below ``configs``; "" for a config of its own, such as ``main``.
        name: the option.
        file: where it stands.
        summary: its first line of comment.
        chooses: options of other groups that it takes, as ``group=option``.
        parts: the components in it.
    """

    group: str
    name: str
    file: Path
    summary: str
    chooses: tuple[str, ...]
    parts: tuple[Part, ...]


def options_below(root: Path) -> Iterator[Path]:
    """The YAML files of a config folder, sorted."""
    yield from (path for path in sorted(root.rglob("*.yaml")) if path.is_file())


def read_option(file: Path, root: Path) -> Option:
    """Read one file.

    Raises:
        ConfigError: it cannot be read.
    """
    content = load_mapping(file)
    group = file.parent.relative_to(root).as_posix()
    group = "" if group == "." else group
    kind = _OF_FOLDER.get(group)
    parts = () if kind is None else tuple(_parts(kind, content))
    return Option(group, file.stem, file, _summary(file), tuple(_chosen(content, group)), parts)


def chosen_by(option: Option, options: Iterable[Option]) -> list[str]:
    """Which of some options choose one, as ``group=option``; a config of no group by its name."""
    taken = f"{option.group}={option.name}"
    choosing = [other for other in options if taken in other.chooses and other != option]
    return [f"{other.group}={other.name}".lstrip("=") for other in choosing]


def _parts(kind: Kind, content: Mapping[str, Any]) -> Iterator[Part]:
    if kind.form == "section":
        yield from _part(kind, "", content)
        return
    if kind.name != "transform":
        for key, entry in content.items():
            yield from _part(kind, str(key), entry)
        return
    for place in PLACES:
        for key, entry in (content.get(place) or {}).items():
            yield from _part(kind, f"{place}.{key}", entry)


def _part(kind: Kind, key: str, section: Any) -> Iterator[Part]:
    if not isinstance(section, Mapping):
        return
    for which in ("_target_", "name"):
        if isinstance(section.get(which), str):
            beside = {name for name, _ in kind.beside}
            values = {k: v for k, v in section.items() if k not in ("name", "_target_", "defaults") and k not in beside}
            yield Part(key, kind, (which, section[which]), values)
            return


def _chosen(content: Mapping[str, Any], group: str) -> Iterator[str]:
    """The options that a defaults list names, as ``group=option``."""
    for item in content.get("defaults") or []:
        if isinstance(item, str) and item != "_self_":
            yield _option_at(item.split("@")[0], group)
        if isinstance(item, Mapping):
            for key, value in item.items():
                where = str(key).removeprefix("optional ").removeprefix("override ").split("@")[0].lstrip("/")
                for each in value if isinstance(value, list) else [value]:
                    if each is not None and not where.startswith("hydra"):
                        yield f"{where}={each}"


def _option_at(path: str, group: str) -> str:
    """``group=option`` of a path in a defaults list, which is relative to the group unless it begins with a slash."""
    whole = path.lstrip("/") if path.startswith("/") or not group else f"{group}/{path}"
    folder, _, name = whole.rpartition("/")
    return f"{folder}={name}"


def _summary(file: Path) -> str:
    """The first line of a file's own comment, else what stands behind its first line."""
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        if line and not line.startswith("#"):
            return line.partition(" # ")[2].strip() if MISSING in line else ""
        if (text := line.lstrip("# ").strip()) and not text.startswith("@package"):
            return text
    return ""
