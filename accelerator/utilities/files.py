"""Small text files, written whole or not at all, and paths as a person types them; without importing torch."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from accelerator.errors import UserError

FOLDER_NAME = re.compile(r"[\w+-][\w.+-]*")  # one folder, here: not ".."


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
    except BaseException as error:  # Ctrl-C too leaves nothing behind
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            other = f"{error.filename}: " if error.filename not in (None, str(temporary)) else ""
            raise UserError(f"could not write {path}: {other}{error.strerror or error}") from error
        raise


def write_together(files: Mapping[Path, str]) -> None:
    """Write several files, and the folders above them: all, or, where one fails or Ctrl-C comes, none.

    Raises:
        UserError: one of them cannot be written; every file is as it was.
    """
    before = {path: path.read_text(encoding="utf-8") if path.is_file() else None for path in files}
    made = {folder for path in files for folder in path.parents if not folder.exists()}
    begun: list[Path] = []
    try:
        for path, text in files.items():
            begun.append(path)
            write_text(path, text)
    except BaseException:
        for path in begun:
            with suppress(OSError, UserError):
                if (old := before[path]) is None:
                    path.unlink(missing_ok=True)
                else:
                    write_text(path, old)
        for folder in sorted(made, reverse=True):  # the inner ones first
            with suppress(OSError):
                folder.rmdir()
        raise


def short(path: Path) -> str:
    """A path as it can be typed from here."""
    path = path.absolute()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
