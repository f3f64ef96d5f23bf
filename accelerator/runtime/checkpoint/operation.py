"""Atomic file work, and what stands in a checkpoint: it is on disk whole, or not at all.

The temporary file stands beside its target (on another file system a rename would be a copy), is flushed to the
disk, renamed, and then the directory is flushed. Nothing that is read back can run code: tensors are safetensors,
everything else is JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from accelerator.errors import CheckpointError

TEMPORARY = ".tmp"
CHUNK = (
    4 << 20
)  # bytes hashed and written at a time: between two the writer needs the interpreter, and so the loop waits

_TENSOR, _COMPLEX, _PAIRS, _AGAIN = "__tensor__", "__complex__", "__pairs__", "__again__"

# What the format calls them. It has no complex128: that is kept as pairs of float64.
_DTYPES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.uint32: "U32",
    torch.int32: "I32",
    torch.uint64: "U64",
    torch.int64: "I64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.complex64: "C64",
    torch.complex128: "F64",
}


def write_steps(path: Path, parts: Sequence[bytes | memoryview]) -> Generator[None, None, tuple[str, int]]:
    """Write a file so that a kill at any moment leaves the old one or the new one; piece by piece.

    Hashing and writing release the interpreter's lock, so other threads run on meanwhile.

    Args:
        path: the file.
        parts: its content, one after another.

    Yields:
        After each `CHUNK`.

    Returns:
        SHA-256 and size in bytes.

    Raises:
        CheckpointError: the disk is full or the folder not writable; the old file is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    digest, size = hashlib.sha256(), sum(map(len, parts))
    try:
        with temporary.open("wb", buffering=0) as file:
            for part in map(memoryview, parts):
                for start in range(0, len(part), CHUNK):
                    rest = part[start : start + CHUNK]
                    digest.update(rest)
                    while rest:  # the system may take less than it is given
                        rest = rest[file.write(rest) :]
                    yield
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_directory(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise CheckpointError(
            f"could not write {path} ({size:,} bytes): {error.strerror or error}; {_free(path.parent)}"
        ) from error
    return digest.hexdigest(), size


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file as `write_steps` does, in one go.

    Raises:
        CheckpointError: the disk is full or the folder not writable; the old file is untouched.
    """
    for _ in write_steps(path, [data]):
        pass


def remove_temporary(directory: Path) -> None:
    """Remove what writes that were killed left behind."""
    for leftover in directory.glob(f".*{TEMPORARY}"):
        leftover.unlink(missing_ok=True)


@dataclass(frozen=True)
class Layout:
    """Where everything of a nest stands in its file.

    Attributes:
        header: the first bytes: a length, and JSON with the place of each tensor and the nest of plain values.
        tensors: each tensor and where its bytes begin after the header.
        size: bytes after the header.
    """

    header: bytes
    tensors: list[tuple[Tensor, int]]
    size: int


def lay_out(tree: Any) -> Layout:
    """Plan the safetensors file of a nest of dicts, lists, plain values and tensors; tuples come back as lists.

    The plain values are taken as they are now, the tensors are referred to. The format is that of
    https://github.com/huggingface/safetensors#format.

    Raises:
        TypeError: something else is in the nest; a checkpoint holds plain values and tensors only.
    """
    found: dict[str, Tensor] = {}
    header: dict[str, Any] = {"__metadata__": {"tree": json.dumps(_flatten(tree, "", found, {}))}}
    tensors, end = [], 0
    # The widest first: then every tensor begins at a multiple of its own width, as the format asks.
    for name, tensor in sorted(found.items(), key=lambda item: -item[1].element_size()):
        start, end = end, end + tensor.nbytes
        shape = [*tensor.shape, 2] if tensor.dtype is torch.complex128 else list(tensor.shape)
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": shape, "data_offsets": [start, end]}
        tensors.append((tensor, start))
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    return Layout(len(text).to_bytes(8, "little") + text, tensors, end)


def fill(buffer: Tensor, layout: Layout) -> None:
    """Copy a layout's tensors into a buffer of bytes on the CPU; asynchronously if it is pinned."""
    pinned = buffer.is_pinned() if buffer.numel() else False
    for tensor, start in layout.tensors:
        if tensor.numel():
            place = buffer[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
            place.copy_(tensor.detach(), non_blocking=pinned)


def encode(tree: Any) -> bytes:
    """A nest of dicts, lists, plain values and tensors, as one safetensors file; see `lay_out`."""
    layout = lay_out(tree)
    buffer = torch.empty(layout.size, dtype=torch.uint8)
    fill(buffer, layout)
    return layout.header + buffer.numpy().tobytes()


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


def is_ours(path: Path) -> bool:
    """Whether a file is a checkpoint that `encode` could have made."""
    try:
        with safe_open(path, framework="pt") as file:
            return "tree" in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def _flatten(node: Any, path: str, tensors: dict[str, Tensor], places: dict[Any, str]) -> Any:
    if isinstance(node, Tensor):
        if node.dtype not in _DTYPES or node.layout is not torch.strided:
            raise TypeError(
                f"{path}: a checkpoint holds dense tensors of plain numbers, not {node.layout}, {node.dtype}"
            )
        # What stands in two places (an average and its callback's, a cycle's optimizer) is written once, read twice.
        place = (node.data_ptr(), node.shape, node.stride(), node.dtype, node.device) if node.numel() else path
        if place in places:
            again = {_TENSOR: places[place], _AGAIN: True}
            return {**again, _COMPLEX: True} if node.dtype is torch.complex128 else again
        while path in tensors:  # two paths can read alike ({"a": {"b": …}, "a/b": …}, or the keys 0 and "0")
            path += "#"
        tensors[path] = node
        places[place] = path
        return {_TENSOR: path, _COMPLEX: True} if node.dtype is torch.complex128 else {_TENSOR: path}
    if isinstance(node, Mapping):
        if all(isinstance(key, str) for key in node):
            return {key: _flatten(value, f"{path}/{key}", tensors, places) for key, value in node.items()}
        if not all(key is None or isinstance(key, bool | int | float | str) for key in node):
            raise TypeError(f"{path}: the keys of a checkpoint are text or numbers: {list(node)[:5]}")
        # JSON keys are text; an optimizer's state is keyed by number.
        return {_PAIRS: [[key, _flatten(value, f"{path}/{key}", tensors, places)] for key, value in node.items()]}
    if isinstance(node, list | tuple):
        return [_flatten(value, f"{path}/{index}", tensors, places) for index, value in enumerate(node)]
    if node is None or isinstance(node, bool | int | float | str):
        return node
    raise TypeError(f"{path}: a checkpoint holds plain values and tensors, not {type(node).__name__}")


def _unflatten(node: Any, file: Any) -> Any:
    if isinstance(node, dict):
        if _TENSOR in node:
            tensor = file.get_tensor(node[_TENSOR])
            tensor = tensor.clone() if _AGAIN in node else tensor  # two places share no memory once read
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
