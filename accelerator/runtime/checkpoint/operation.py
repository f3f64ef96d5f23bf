"""Atomic file work: a checkpoint is on disk whole, or not at all.

The temporary file stands beside its target (on another file system a rename would be a copy), is flushed to the
disk, renamed, and then the directory is flushed. Nothing that is read back can run code: tensors are safetensors,
everything else is JSON.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from accelerator.errors import CheckpointError

TEMPORARY = ".tmp"

_TENSOR, _COMPLEX, _PAIRS = "__tensor__", "__complex__", "__pairs__"


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that a kill at any moment leaves the old one or the new one.

    Raises:
        CheckpointError: the disk is full or the folder not writable; the old file is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_directory(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise CheckpointError(
            f"could not write {path} ({len(data):,} bytes): {error.strerror or error}; {_free(path.parent)}"
        ) from error


def remove_temporary(directory: Path) -> None:
    """Remove what writes that were killed left behind."""
    for leftover in directory.glob(f".*{TEMPORARY}"):
        leftover.unlink(missing_ok=True)


def encode(tree: Any) -> bytes:
    """A nest of dicts, lists, plain values and tensors, as one safetensors file; tuples come back as lists.

    Raises:
        TypeError: something else is in the nest; a checkpoint holds plain values and tensors only.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_flatten(tree, "", tensors))
    return save(tensors, metadata={"tree": text})


def decode(path: Path) -> Any:
    """The nest `encode` put into the file, its tensors on the CPU.

    Raises:
        CheckpointError: the file is not a whole checkpoint.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tree = json.loads((file.metadata() or {})["tree"])
            return _unflatten(tree, file)
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise CheckpointError(f"{path} is not a whole checkpoint of ours: {error}") from error


def _flatten(node: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(node, Tensor):
        # A copy of its own: tied weights share memory, which the format refuses.
        copy = torch.empty_like(node, device="cpu", memory_format=torch.contiguous_format).copy_(node.detach())
        # Two paths can read alike ({"a": {"b": …}, "a/b": …}, or the keys 0 and "0").
        path = path if path not in tensors else f"{path}#{len(tensors)}"
        if copy.dtype is torch.complex128:  # unknown to the format
            tensors[path] = torch.view_as_real(copy)
            return {_TENSOR: path, _COMPLEX: True}
        tensors[path] = copy
        return {_TENSOR: path}
    if isinstance(node, Mapping):
        if all(isinstance(key, str) for key in node):
            return {key: _flatten(value, f"{path}/{key}", tensors) for key, value in node.items()}
        if not all(key is None or isinstance(key, bool | int | float | str) for key in node):
            raise TypeError(f"{path}: the keys of a checkpoint are text or numbers: {list(node)[:5]}")
        # JSON keys are text; an optimizer's state is keyed by number.
        return {_PAIRS: [[key, _flatten(value, f"{path}/{key}", tensors)] for key, value in node.items()]}
    if isinstance(node, list | tuple):
        return [_flatten(value, f"{path}/{index}", tensors) for index, value in enumerate(node)]
    if node is None or isinstance(node, bool | int | float | str):
        return node
    raise TypeError(f"{path}: a checkpoint holds plain values and tensors, not {type(node).__name__}")


def _unflatten(node: Any, file: Any) -> Any:
    if isinstance(node, dict):
        if _TENSOR in node:
            tensor = file.get_tensor(node[_TENSOR])
            return torch.view_as_complex(tensor) if _COMPLEX in node else tensor
        if _PAIRS in node:
            return {key: _unflatten(value, file) for key, value in node[_PAIRS]}
        return {key: _unflatten(value, file) for key, value in node.items()}
    if isinstance(node, list):
        return [_unflatten(value, file) for value in node]
    return node


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _free(directory: Path) -> str:
    try:
        stats = os.statvfs(directory)
    except OSError:
        return "the folder cannot be reached"
    return f"{stats.f_bavail * stats.f_frsize:,} bytes free there"
