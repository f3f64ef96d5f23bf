"""Class labels and other whole numbers: how often each is there, in every split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

MOST = 1_000_000  # values that are counted one by one


class Counts:
    """How often each whole number is there, fed in pieces.

    Attributes:
        samples: seen.
        shape: of one.
        dtype: of its values.
        low, high: smallest and largest value.
        counts: of 0, 1, …; None when the numbers are no classes (negative, or too many).
    """

    def __init__(self) -> None:
        self.samples, self.shape, self.dtype = 0, (), ""
        self.low, self.high = 0, -1
        self.counts: NDArray[np.int64] | None = np.zeros(0, dtype=np.int64)

    def add(self, values: Tensor) -> None:
        """Take the next samples, (n, …)."""
        first = self.samples == 0
        self.samples += len(values)
        self.shape, self.dtype = tuple(values.shape[1:]), str(values.dtype).removeprefix("torch.")
        if values.numel() == 0:
            return
        flat = values.flatten().numpy().astype(np.int64)
        low, high = int(flat.min()), int(flat.max())
        self.low, self.high = (low, high) if first else (min(self.low, low), max(self.high, high))
        if self.counts is None or low < 0 or high >= MOST:
            self.counts = None
            return
        found = np.bincount(flat, minlength=len(self.counts))
        found[: len(self.counts)] += self.counts
        self.counts = found

    @property
    def distinct(self) -> int | None:
        """Different values; None where they were not counted."""
        return None if self.counts is None else int((self.counts > 0).sum())

    def values(self) -> dict[str, Any]:
        """All of it, for programs."""
        return {
            "shape": self.shape,
            "dtype": self.dtype,
            "least": self.low,
            "largest": self.high,
            "distinct": self.distinct,
        }


def table(counts: Sequence[Counts]) -> NDArray[np.int64]:
    """(splits, classes): all with as many classes as the one that has most."""
    known = [each.counts for each in counts if each.counts is not None]
    classes = max(map(len, known))
    return np.stack([np.pad(each, (0, classes - len(each))) for each in known])
