"""The samples of all splits, in pieces that fit a processor's cache, from the first to the last.

Legend: a *row* is the number by which a sample is found again: its place in the split, or its row in the file where the
splits are rows of one stored table. n samples of a piece, … the sample's own dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from accelerator.errors import DataError
from accelerator.runtime.data.splits import Split

CHUNK_BYTES = 1 << 21
BLOCK = 32  # neighbouring rows that are looked at together, where not all are
UNREADABLE_SHOWN = 5

Rows = NDArray[np.int64]


class Chunk(NamedTuple):
    """Some samples of one split: inputs (n, …) and targets (n, …)."""

    split: str
    rows: Rows
    inputs: Tensor
    targets: Tensor


class Store(Protocol):
    """What several splits may be rows of: a table on disk, such as `domain.cross.data.mapped.MappedTable`."""

    row_bytes: int

    def __len__(self) -> int: ...

    def read(self, begin: int, end: int) -> Any:
        """The rows begin … end−1."""
        ...

    def pair(self, block: Any, pick: Rows | None = None) -> tuple[Tensor, Tensor]:
        """Inputs and targets of some rows of what `read` returned."""
        ...

    def take(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Inputs and targets of rows anywhere."""
        ...


@dataclass
class Unreadable:
    """Samples that raised when they were read.

    Attributes:
        rows: which.
        examples: (row, what was said) of the first.
    """

    rows: set[int] = field(default_factory=set)
    examples: list[tuple[int, str]] = field(default_factory=list)


class Reading:
    """The samples of a run's splits, as the run would see them before its transforms.

    Args:
        splits: as `accelerator.runtime.data.splits.as_splits` returns them.
        samples: how many of each split to look at, spread evenly over it; None: all.
    """

    def __init__(self, splits: Mapping[str, Split], samples: int | None = None) -> None:
        self.splits = splits
        self._parts = {name: _part(part) for name, part in splits.items()}
        self.counts = {name: part.count for name, part in self._parts.items()}
        self.chosen = {name: spread(part.rows(), samples) for name, part in self._parts.items()}
        self.looked_at = {name: len(rows) for name, rows in self.chosen.items()}
        self.unreadable: dict[str, Unreadable] = {}

    @property
    def files(self) -> bool:
        """Whether rows are those of files, not places in a split."""
        return all(isinstance(part, _Stored) for part in self._parts.values())

    def take(self, split: str, rows: Rows) -> Chunk:
        """These samples; those that cannot be read are left out."""
        part = self._parts[split]
        return part.take(split, rows, self._note)

    def chunks(self) -> Iterator[Chunk]:
        """Every chosen sample once, a file from its beginning to its end; read ahead while the last is looked at."""
        with ThreadPoolExecutor(1) as reader:
            source = self._chunks()
            coming = reader.submit(next, source, None)
            while (chunk := coming.result()) is not None:
                coming = reader.submit(next, source, None)
                yield from chunk

    def _chunks(self) -> Iterator[list[Chunk]]:
        done: set[str] = set()
        for name, part in self._parts.items():
            if name in done:
                continue
            if isinstance(part, _Stored):
                together = {other: p for other, p in self._parts.items() if getattr(p, "store", None) is part.store}
                done |= together.keys()
                yield from self._of_store(part.store, list(together))
            else:
                rows = self.chosen[name]
                step = max(1, CHUNK_BYTES // part.row_bytes)
                for begin in range(0, len(rows), step):
                    yield [part.take(name, rows[begin : begin + step], self._note)]

    def _of_store(self, store: Store, names: list[str]) -> Iterator[list[Chunk]]:
        owner = np.full(len(store), -1, dtype=np.int8)
        for number, name in enumerate(names):
            owner[self.chosen[name]] = number
        step = max(1, CHUNK_BYTES // store.row_bytes)
        for begin in range(0, len(store), step):
            owners = owner[begin : begin + step]
            if owners.max() < 0:
                continue
            block, found = store.read(begin, begin + step), []
            for number, name in enumerate(names):
                pick = np.flatnonzero(owners == number)
                if len(pick):
                    pair = store.pair(block, None if len(pick) == len(owners) else pick)
                    found.append(Chunk(name, begin + pick, *pair))
            yield found

    def _note(self, split: str, row: int, error: Exception) -> None:
        known = self.unreadable.setdefault(split, Unreadable())
        if row not in known.rows and len(known.examples) < UNREADABLE_SHOWN:
            known.examples.append((row, f"{type(error).__name__}: {error}"))
        known.rows.add(row)


def spread(rows: Rows, count: int | None) -> Rows:
    """So many rows in blocks of neighbours, evenly over all; all of them if there are no more."""
    if count is None or count >= len(rows):
        return rows
    blocks = max(1, count // BLOCK)
    size = count // blocks
    starts = np.linspace(0, len(rows) - size, blocks).astype(np.int64)
    return rows[np.unique(np.concatenate([np.arange(start, start + size) for start in starts]))]


class _Tensors:
    """A split in memory."""

    def __init__(self, pair: tuple[Tensor, Tensor]) -> None:
        self.inputs, self.targets = pair
        self.count = len(self.inputs)
        self.row_bytes = max(1, (self.inputs.nbytes + self.targets.nbytes) // max(1, self.count))

    def rows(self) -> Rows:
        return np.arange(self.count)

    def take(self, split: str, rows: Rows, note: Any) -> Chunk:
        if len(rows) and rows[-1] - rows[0] == len(rows) - 1:  # neighbours: a view
            begin, end = int(rows[0]), int(rows[-1]) + 1
            return Chunk(split, rows, self.inputs[begin:end].cpu(), self.targets[begin:end].cpu())
        index = torch.from_numpy(rows).to(self.inputs.device)
        return Chunk(split, rows, self.inputs[index].cpu(), self.targets[index.to(self.targets.device)].cpu())


class _Samples:
    """A split that is read sample by sample."""

    def __init__(self, dataset: Any) -> None:
        self.dataset, self.count = dataset, len(dataset)
        first = _sample(dataset[0])
        self.shapes = [tensor.shape for tensor in first]
        self.row_bytes = max(1, sum(tensor.nbytes for tensor in first))

    def rows(self) -> Rows:
        """Of a part of a dataset, in the order of the whole: what lies together is read together."""
        if isinstance(self.dataset, Subset):
            return np.argsort(np.asarray(self.dataset.indices), kind="stable")
        return np.arange(self.count)

    def take(self, split: str, rows: Rows, note: Any) -> Chunk:
        kept, pairs = [], []
        for row in rows.tolist():
            try:
                pair = _sample(self.dataset[row])
                if (shapes := [tensor.shape for tensor in pair]) != self.shapes:
                    told, first = (" → ".join(str(tuple(shape)) for shape in each) for each in (shapes, self.shapes))
                    raise ValueError(f"its shapes are {told}, those of the first sample {first}")
            except Exception as error:
                note(split, row, error)
                continue
            kept.append(row)
            pairs.append(pair)
        if not pairs:
            return Chunk(split, np.empty(0, np.int64), *(torch.empty((0, *shape)) for shape in self.shapes))
        return Chunk(split, np.asarray(kept), *(torch.stack(parts) for parts in zip(*pairs, strict=True)))


class _Stored:
    """A split that is rows of a stored table."""

    def __init__(self, dataset: Any) -> None:
        self.store: Store = dataset.store
        self._chosen = dataset.rows
        self.count, self.row_bytes = len(dataset), self.store.row_bytes

    def rows(self) -> Rows:
        return np.arange(self.count) if self._chosen is None else np.sort(self._chosen)

    def take(self, split: str, rows: Rows, note: Any) -> Chunk:
        return Chunk(split, rows, *self.store.take(rows))


def _part(part: Split) -> _Tensors | _Samples | _Stored:
    if isinstance(part, tuple):
        return _Tensors(part)
    dataset: Any = part.dataset if isinstance(part, DataLoader) else part
    if all(hasattr(dataset, name) for name in ("store", "rows")):
        return _Stored(dataset)
    return _Samples(dataset)


def _sample(sample: Any) -> tuple[Tensor, Tensor]:
    inputs, targets = sample
    return torch.as_tensor(inputs), torch.as_tensor(targets)


def check_readable(reading: Reading) -> None:
    """Refuse a split of which no sample can be read.

    Raises:
        DataError: with what was said of the first.
    """
    for split, unreadable in reading.unreadable.items():
        if len(unreadable.rows) >= reading.looked_at[split]:
            row, said = unreadable.examples[0]
            raise DataError(f"no sample of the {split} split can be read; sample {row}: {said}")
