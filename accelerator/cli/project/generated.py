"""Files that commands write into a project: never over what a person edited, and known again later.

``configs/.generated.json`` holds the SHA-256 of each config as it was generated, so that one nobody has edited can be
told from one that somebody has.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerator.cli.project.project import Project, check_inside
from accelerator.errors import ConfigError
from accelerator.utilities.files import short, write_together

NAME = ".generated.json"

NEW, SAME, UPDATED, REPLACED, KEPT = "new", "unchanged", "updated", "replaced", "kept"


@dataclass
class Generated:
    """What is known of a project's generated configs.

    Args:
        project: whose they are.
    """

    project: Project
    entries: dict[str, dict[str, Any]] = field(init=False)

    def __post_init__(self) -> None:
        self.entries = {}
        if not self.file.exists():
            return
        try:
            content = json.loads(self.file.read_text(encoding="utf-8"))
            self.entries = {str(key): dict(entry) for key, entry in content.items() if isinstance(entry, dict)}
        except (OSError, ValueError, AttributeError) as error:
            warnings.warn(
                f"{short(self.file)} cannot be read ({error}): the configs that were generated so far count as written "
                "by hand; take an older version of it from version control, or remove it",
                stacklevel=2,
            )

    @property
    def file(self) -> Path:
        """Where it is written down."""
        return self.project.configs / NAME

    def entry(self, path: Path) -> dict[str, Any] | None:
        """What is known of a config; None if it was not generated."""
        return self.entries.get(self._key(path))

    def untouched(self, path: Path) -> bool:
        """Whether a config stands as it was generated."""
        entry = self.entry(path)
        return entry is not None and path.is_file() and entry.get("sha256") == sha256(path.read_bytes())

    def outcome(self, path: Path, text: str, *, force: bool = False) -> str:
        """What writing a config would be: `NEW`, `SAME`, `UPDATED` (nobody edited it), `REPLACED`, or `KEPT`."""
        check_inside(path, self.project.root)
        if not path.exists() and not path.is_symlink():
            return NEW
        if path.is_file() and path.read_text(encoding="utf-8", errors="replace") == text:
            return SAME
        if path.is_symlink() or not path.is_file():
            raise ConfigError(f"{short(path)} is no plain file: it is not replaced")
        if self.untouched(path):
            return UPDATED
        return REPLACED if force else KEPT

    def write(self, files: Mapping[Path, str]) -> None:
        """Write files, those that were generated and others, and what is remembered: all of it, or nothing."""
        manifest = {self.file: json.dumps(dict(sorted(self.entries.items())), indent=2) + "\n"} if self.entries else {}
        write_together({**files, **manifest})
        if not manifest:
            self.file.unlink(missing_ok=True)

    def remember(self, path: Path, text: str, **facts: Any) -> None:
        """A config is generated with this text; some facts about it."""
        if not self.project.is_the_platform:
            self.entries[self._key(path)] = {"sha256": sha256(text.encode()), **facts}

    def forget(self, path: Path) -> None:
        """A config is gone."""
        self.entries.pop(self._key(path), None)

    def _key(self, path: Path) -> str:
        return path.relative_to(self.project.configs).as_posix()


def sha256(data: bytes) -> str:
    """The digest, in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def check_absent(files: Mapping[Path, str]) -> None:
    """See that none of some files is there with another content.

    Raises:
        ConfigError: names every one that is.
    """
    there = [path for path, text in files.items() if path.exists() and path.read_text(encoding="utf-8") != text]
    if there:
        raise ConfigError(f"{short(path)} is there already: choose another name, or remove it" for path in there)
