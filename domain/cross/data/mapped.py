"""A .npy file that stays on disk: its rows are read when they are asked for.

Legend: *rows* are those of the file, from 0; a split is a choice of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import FileIO
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from accelerator.errors import DataError

Array = NDArray[Any]
_CHUNK_BYTES = 1 << 22


class MappedTable:
    """The chosen columns of an .npy file of rows: (rows, columns), or (rows, channels, …).

    Rows come through plain reads, which leave nothing in this process's memory: of a map, every page ever touched (and
    those around it) counts as resident until the kernel needs it elsewhere. An array in Fortran's order has no rows
    that lie together, and is mapped.

    Args:
        file: as `numpy.save` writes it.
        inputs: column numbers.
        targets: column numbers.
    """

    def __init__(self, file: Path, inputs: Sequence[int], targets: Sequence[int]) -> None:
        self.file, self.labels = file, False
        self._inputs, self._targets = _slice(inputs), _slice(targets)
        self._map: Any = None
        self._shape, self._dtype = self._array.shape, self._array.dtype
        self._contiguous = bool(self._array.flags.c_contiguous)
        self._offset = int(self._array.offset)

    def __len__(self) -> int:
        return self._shape[0]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_map": None}  # a map would be pickled as the whole array, for a loader's workers

    @property
    def row_bytes(self) -> int:
        """Of a row in the file."""
        return prod(self._shape[1:]) * self._dtype.itemsize

    def read(self, begin: int, end: int) -> Array:
        """The rows begin … end−1 with all their columns, as they are stored; see `pair`."""
        end = min(end, len(self))
        if not self._contiguous:
            return np.ascontiguousarray(self._array[begin:end])
        block = np.empty((end - begin, *self._shape[1:]), self._dtype)
        with self.file.open("rb", buffering=0) as file:
            self._fill(block, file, begin)
        return block

    def _fill(self, block: Array, file: FileIO, begin: int) -> None:
        """Read rows from ``begin`` on into a block."""
        left = block.reshape(-1).view(np.uint8).data
        file.seek(self._offset + begin * self.row_bytes)
        while len(left):
            if not (count := file.readinto(left)):
                raise DataError(f"{self.file} has become shorter while it was read")
            left = left[count:]

    def pair(self, block: Array, pick: Array | None = None) -> tuple[Tensor, Tensor]:
        """Inputs and targets, (rows, columns, …) each, of some rows of a block that was read."""
        rows = None if pick is None else torch.from_numpy(pick)
        whole = torch.from_numpy(block)
        inputs, targets = (_columns(whole, columns, rows) for columns in (self._inputs, self._targets))
        return inputs.float(), targets[:, 0].long() if self.labels else targets.float()

    def take(self, rows: Array) -> tuple[Tensor, Tensor]:
        """Inputs and targets of these rows, wherever they are."""
        if not self._contiguous:
            return self.pair(np.ascontiguousarray(self._array[rows]))
        block = np.empty((len(rows), *self._shape[1:]), self._dtype)
        starts = np.flatnonzero(np.diff(rows, prepend=rows[:1] - 2) != 1)
        with self.file.open("rb", buffering=0) as file:
            for start, end in pairwise([*starts.tolist(), len(rows)]):
                self._fill(block[start:end], file, int(rows[start]))
        return self.pair(block)

    def values_of_targets(self) -> Array:
        """The distinct values in the first column of the targets."""
        found = np.empty(0, self._dtype)
        step = max(1, _CHUNK_BYTES // self.row_bytes)
        for begin in range(0, len(self), step):
            block = torch.from_numpy(self.read(begin, begin + step))
            found = np.union1d(found, _columns(block, self._targets, None)[:, 0].numpy())
        return found

    @property
    def single(self) -> bool:
        """Whether a single column is to be predicted."""
        columns = self._targets
        width = len(columns) if isinstance(columns, list) else columns.stop - columns.start
        return width == 1 and len(self._shape) == 2

    @property
    def integers(self) -> bool:
        """Whether that column holds whole numbers, so perhaps labels."""
        return self.single and self._dtype.kind in "biu"

    @property
    def _array(self) -> Any:
        if self._map is None:
            self._map = np.load(self.file, mmap_mode="c", allow_pickle=False)
        return self._map


class MappedRows(Dataset[tuple[Tensor, Tensor]]):
    """A split: some rows of a table on disk, in this order.

    Args:
        store: the table; `accelerator analyze-data` reads it from its beginning to its end, all splits at once.
        rows: which of its rows; None: all of them.
    """

    def __init__(self, store: MappedTable, rows: Array | None = None) -> None:
        self.store, self.rows = store, rows

    def __len__(self) -> int:
        return len(self.store) if self.rows is None else len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        row = range(len(self))[index] if self.rows is None else int(self.rows[index])
        inputs, targets = self.store.take(np.asarray([row]))
        return inputs[0], targets[0]


def _slice(columns: Sequence[int]) -> slice | list[int]:
    """Neighbouring columns are a view of a row; others have to be gathered."""
    first = columns[0]
    if list(columns) == list(range(first, first + len(columns))):
        return slice(first, first + len(columns))
    return list(columns)


def _columns(block: Tensor, columns: slice | list[int], rows: Tensor | None) -> Tensor:
    chosen = block[:, columns] if isinstance(columns, slice) else block.index_select(1, torch.tensor(columns))
    return chosen if rows is None else chosen.index_select(0, rows)
