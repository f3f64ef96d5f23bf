"""Computed arrays kept on disk: written whole or not at all, and computed again when they cannot be read."""

from __future__ import annotations

import logging
import os
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)

Arrays = dict[str, NDArray[np.float32]]


def default_cache_dir() -> Path:
    """``$XDG_CACHE_HOME/accelerator``, or ``~/.cache/accelerator``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "accelerator"


def cached_arrays(file: Path, shapes: dict[str, tuple[int, ...]], compute: Callable[[], Arrays]) -> Arrays:
    """Read the arrays in ``file``, or compute them and write them there.

    Processes that want the same file at once compute it once: the others wait on the lock beside it. A file that is
    damaged (its zip checksum, a missing array, another shape) is computed again with a warning; a folder that cannot
    be written costs a warning and the computing, never the run.

    Args:
        file: the .npz; its name must tell everything that the content depends on.
        shapes: what the file has to hold, by name.
        compute: gives the arrays.
    """
    if (arrays := _read(file, shapes, warn=False)) is not None:
        return arrays
    with _locked(file) as writable:
        # Again under the lock: another process may have written it while we waited.
        if writable and (arrays := _read(file, shapes, warn=True)) is not None:
            return arrays
        arrays = compute()
        if writable:
            try:
                _write(file, arrays)
            except OSError as error:
                warnings.warn(f"could not keep {file}: {error}; it is computed again next time", stacklevel=2)
    return arrays


def _read(file: Path, shapes: dict[str, tuple[int, ...]], *, warn: bool) -> Arrays | None:
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in shapes}
        for name, shape in shapes.items():
            if arrays[name].shape != shape:
                raise ValueError(f"'{name}' has shape {arrays[name].shape} instead of {shape}")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        if warn:
            warnings.warn(f"{file} is damaged ({error}); it is computed again", stacklevel=3)
        return None
    return arrays


@contextmanager
def _locked(file: Path) -> Iterator[bool]:
    """Hold the lock beside ``file``; gives False where the folder cannot be written or locked."""
    from filelock import FileLock

    lock = FileLock(f"{file}.lock")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except (OSError, NotImplementedError) as error:
        warnings.warn(
            f"the cache folder {file.parent} cannot be used ({error}); computing without it. "
            "Set data.cache_dir to a folder you may write to",
            stacklevel=4,
        )
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _write(file: Path, arrays: Arrays) -> None:
    # Beside the target, so that the rename is atomic; one name, since only the holder of the lock writes.
    temporary = file.with_name(f".{file.name}.tmp")
    try:
        with temporary.open("wb") as stream:
            np.savez(stream, **arrays)  # pyright: ignore[reportArgumentType]
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    log.info("kept %s", file)
