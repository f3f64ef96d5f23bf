"""Statistics of channels in one pass: counts, ranges, moments, and what lies far outside.

Legend: n samples, C channels (the first dimension of a sample; a vector's entries are channels), P positions of each.

A first look at some thousand samples (the *pilot*) gives every channel a median and a scale. The pass takes sums of
x − median, so that data with a large mean loses nothing, and counts what lies too far from the median. Sums of a piece
are taken in the width of its numbers, those of all pieces in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MAD_OF_NORMAL = 0.6745  # median |x − median| of a normal distribution, in standard deviations
MEAN_OF_NORMAL = 1.2533  # standard deviation over mean |x − mean| of one
WINSORISED = 0.05
FEW_VALUES = 32  # a channel with no more distinct values, most of them alike, is a category, and has no outliers
EXAMPLES = 10
LISTED = 4096  # channels that are told of one by one
_PILOT_VALUES = 65_536  # of a channel
_NARROW = (1e-15, 1e15)  # distances whose squares, and sums of a million of those, are what float32 can hold

Array = NDArray[np.float64]


def channels(values: Tensor) -> Tensor:
    """(n, …) as (n, C, P)."""
    return values.reshape(len(values), 1, 1) if values.dim() == 1 else values.reshape(len(values), values.shape[1], -1)


class Reference(NamedTuple):
    """Where the values of each channel usually lie: (C,) each; a scale of 0 where none can be told."""

    median: Array
    scale: Array

    @classmethod
    def of(cls, values: Tensor) -> Reference:
        """Median and robust standard deviation of a pilot (n, …).

        The scale is median |x − m| / 0.6745, or the standard deviation after winsorising (the outermost 5 % at each end
        are moved to where the others end) if that is larger, as it is where values come in two heaps; where all but a
        few are the median, 1.2533 · mean |x − m|. Source: Iglewicz & Hoaglin (1993), *How to Detect and Handle
        Outliers*.
        """
        flat = channels(values).movedim(1, 0).flatten(1).double()
        if flat.shape[1] > _PILOT_VALUES:  # at random: every so-manyth may be the same column of every image
            generator = torch.Generator().manual_seed(0)
            flat = flat[:, torch.randint(flat.shape[1], (_PILOT_VALUES,), generator=generator)]
        flat = torch.where(torch.isfinite(flat), flat, torch.nan)
        median = flat.nanmedian(1, keepdim=True).values.nan_to_num()
        away = (flat - median).abs()
        scale = away.nanmedian(1).values.nan_to_num() / MAD_OF_NORMAL
        scale = torch.maximum(scale, _winsorised_std(flat))
        for channel in (scale == 0).nonzero().flatten().tolist():
            own = flat[channel][torch.isfinite(flat[channel])]
            if len(own.unique()) > FEW_VALUES:
                scale[channel] = MEAN_OF_NORMAL * away[channel].nanmean()
        return cls(median[:, 0].numpy(), scale.numpy())


def _winsorised_std(flat: Tensor) -> Tensor:
    """(C, values) with NaN for gaps → (C,)."""
    ordered = flat.sort(1).values  # NaN at the end
    known = (~torch.isnan(ordered)).sum(1, keepdim=True)
    cut = (WINSORISED * known).ceil().long()
    low, high = (ordered.gather(1, place.clamp(0, flat.shape[1] - 1)) for place in (cut, known - 1 - cut))
    clipped = torch.minimum(torch.maximum(flat, low), torch.maximum(high, low))
    mean = clipped.nanmean(1, keepdim=True)
    return (clipped - mean).square().nanmean(1).sqrt().nan_to_num()


@dataclass
class Outliers:
    """What lies more than so many scales from the median.

    Attributes:
        samples: with such a value.
        values: how many of them.
        by_channel: likewise, (C,).
        farthest: (row, channel, value, distance in scales), the farthest first.
    """

    samples: int
    values: int
    by_channel: Array
    farthest: list[tuple[int, int, float, float]]


class Statistics:
    """Of one tensor (inputs or targets) of one split, fed in pieces.

    Args:
        reference: where its values usually lie, in the training split.
        limit: how many scales from the median are too far; 0: nothing is.

    Attributes:
        samples: seen.
        shape: of one.
        dtype: of its values.
        low, high: smallest and largest finite value, (C,).
        nan, infinite: how many, (C,).
        bad_rows: of the first samples with such a value.
        bad_samples: how many have one.
        outliers: see there.
    """

    def __init__(self, reference: Reference, limit: float) -> None:
        self.reference = reference
        self._median = torch.from_numpy(reference.median)
        reach = np.where(reference.scale > 0, limit * reference.scale, np.inf) if limit > 0 else np.inf
        self._below, self._above = (torch.from_numpy(reference.median + side * reach) for side in (-1, 1))
        count = len(reference.median)
        self.samples, self.shape, self.dtype = 0, (), ""
        self.low, self.high = np.full(count, np.inf), np.full(count, -np.inf)
        self.nan, self.infinite, self._finite = np.zeros(count), np.zeros(count), np.zeros(count)
        self._sum, self._squares = np.zeros(count), np.zeros(count)
        self.bad_rows: list[int] = []
        self.bad_samples = 0
        self.outliers = Outliers(0, 0, np.zeros(count), [])

    def add(self, rows: NDArray[np.int64], values: Tensor) -> None:
        """Take the next samples, (n, …)."""
        self.samples += len(values)
        self.shape, self.dtype = tuple(values.shape[1:]), str(values.dtype).removeprefix("torch.")
        if len(values) == 0:
            return
        x = channels(values)
        low, high = x.amin((0, 2)).double(), x.amax((0, 2)).double()
        if not bool((torch.isfinite(low) & torch.isfinite(high)).all()):
            self._add_with_gaps(rows, x.double())
            return
        median = self._median
        if x.dtype == torch.float32 and self._is_narrow(low, high):
            median = median.float()
        away = x - median[:, None]
        self._sum += away.sum((0, 2)).numpy()
        away *= away
        self._squares += away.sum((0, 2)).numpy()
        self._finite += x.shape[0] * x.shape[2]
        self._extend(low, high)
        self._look_for_outliers(rows, x, low, high)

    def _is_narrow(self, low: Tensor, high: Tensor) -> bool:
        """Whether float32 holds the medians, and the squares of all distances from them."""
        reach = torch.maximum(high - self._median, self._median - low)
        held = (reach == 0) | ((reach > _NARROW[0]) & (reach < _NARROW[1]))
        return bool((held & (self._median.float() == self._median)).all())

    def _add_with_gaps(self, rows: NDArray[np.int64], x: Tensor) -> None:
        finite = torch.isfinite(x)
        nan = torch.isnan(x)
        self.nan += nan.sum((0, 2)).numpy()
        self.infinite += (~finite & ~nan).sum((0, 2)).numpy()
        bad = (~finite).flatten(1).any(1)
        self.bad_samples += int(bad.sum())
        self.bad_rows += rows[bad.numpy()][: EXAMPLES - len(self.bad_rows)].tolist()
        away = torch.where(finite, x - self._median[:, None], 0.0)
        self._sum += away.sum((0, 2)).numpy()
        self._squares += away.square().sum((0, 2)).numpy()
        self._finite += finite.sum((0, 2)).numpy()
        low, high = torch.where(finite, x, torch.inf).amin((0, 2)), torch.where(finite, x, -torch.inf).amax((0, 2))
        self._extend(low, high)
        self._look_for_outliers(rows, torch.where(finite, x, self._median[:, None]), low, high)

    def _extend(self, low: Tensor, high: Tensor) -> None:
        self.low, self.high = np.minimum(self.low, low.numpy()), np.maximum(self.high, high.numpy())

    def _look_for_outliers(self, rows: NDArray[np.int64], x: Tensor, low: Tensor, high: Tensor) -> None:
        suspects = ((low < self._below) | (high > self._above)).nonzero().flatten()
        if len(suspects) == 0:
            return
        x = x.index_select(1, suspects)
        x = x if x.dtype == torch.float32 else x.double()
        below, above = (limit[suspects, None].to(x.dtype) for limit in (self._below, self._above))
        far = ((x < below) | (x > above)).numpy()
        found = np.unravel_index(np.flatnonzero(far), far.shape)  # several times as fast as `nonzero`
        sample, channel = found[0], suspects.numpy()[found[1]]
        result = self.outliers
        result.samples += len(np.unique(sample))
        result.values += len(sample)
        result.by_channel += np.bincount(channel, minlength=len(result.by_channel))
        values = x.numpy()[found].astype(np.float64)
        distance = np.abs(values - self.reference.median[channel]) / self.reference.scale[channel]
        first = np.argsort(-distance, kind="stable")[:EXAMPLES]
        result.farthest += [
            (int(rows[sample[i]]), int(channel[i]), float(values[i]), float(distance[i])) for i in first
        ]
        result.farthest = sorted(result.farthest, key=lambda each: -each[3])[:EXAMPLES]

    @property
    def mean(self) -> Array:
        """Of the finite values, (C,); NaN where there is none."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.reference.median + self._sum / self._finite

    @property
    def std(self) -> Array:
        """The population standard deviation, as `transform=normalize` takes it, (C,)."""
        with np.errstate(invalid="ignore", divide="ignore"):
            variance = self._squares / self._finite - (self._sum / self._finite) ** 2
        return np.sqrt(np.maximum(variance, 0.0))

    @property
    def constant(self) -> list[int]:
        """Channels with a single value."""
        return [int(channel) for channel in np.flatnonzero((self.low == self.high) & (self._finite > 1))]

    @property
    def empty(self) -> list[int]:
        """Channels without a finite value."""
        return [int(channel) for channel in np.flatnonzero(self._finite == 0)]

    def values(self) -> dict[str, Any]:
        """All of it, for programs."""
        out = self.outliers
        return {
            "shape": self.shape,
            "dtype": self.dtype,
            "least": self.low[:LISTED],
            "largest": self.high[:LISTED],
            "mean": self.mean[:LISTED],
            "std": self.std[:LISTED],
            "nan": self.nan[:LISTED].astype(np.int64),
            "infinite": self.infinite[:LISTED].astype(np.int64),
            "samples_not_finite": self.bad_samples,
            "rows_not_finite": self.bad_rows,
            "constant": self.constant,
            "outliers": {"samples": out.samples, "values": out.values, "farthest": out.farthest},
        }
