"""Small text files, written whole or not at all, and paths as a person types them; without importing torch."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from accelerator.errors import UserError


def write_text(path: Path, text: str) -> None:
    """Write a file, and the folders above it, so that a kill at any moment leaves the old one or the new one.

    Raises:
        UserError: the disk is full or the folder not writable; the old file is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise UserError(f"could not write {path}: {error.strerror or error}") from error


def short(path: Path) -> str:
    """A path as it can be typed from here."""
    path = path.absolute()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
