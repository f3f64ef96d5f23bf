"""Samples that are there twice: in one split, in two (a leak), with two answers, or nearly.

Equal inputs are found by a 64-bit hash of their bytes; near ones by random projections to 16 numbers (distances between
those are close to distances between samples: Johnson & Lindenstrauss 1984), and each candidate is then looked at whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from accelerator.analysis.reading import Chunk, Reading, spread
from accelerator.analysis.statistics import Reference, channels

REMEMBERED = 4_000_000  # hashes kept of all splits; of more samples, a share is, chosen by the hash
EXAMPLES = 10
PROJECTIONS = 16
# A projected distance is true² · χ²₁₆/16 in the square: it doubles the true one with a probability of 10⁻⁷.
_SEARCHED = 2.0
_FARTHEST = 10.0  # scales from the median that count
LEAST_ENTRIES = 8  # of a sample: in fewer dimensions samples are near one another by chance
_PAIRS = 10_000  # candidates that are looked at whole
_LOOKED_AHEAD = 1000  # samples by which it is estimated how many there will be
_MOST_NEIGHBOURS = 1_000_000  # candidates that are listed
_MULTIPLIER = 0x9E3779B97F4A7C15

Words = NDArray[np.uint64]


def row_hashes(values: Tensor) -> Words:
    """A 64-bit number for each sample (n, …); equal samples have equal ones.

    Σ_j r_j m(w_j) mod 2⁶⁴ over the sample's 64-bit words w_j, with random odd r_j and a bijective mixing m; two
    different samples among N agree with a probability of about N² / 2⁶⁵.
    """
    block = np.ascontiguousarray(values.numpy()).reshape(len(values), -1) if len(values) else np.empty((0, 1))
    octets = block.view(np.uint8)
    whole = octets.shape[1] // 8 * 8
    weights = np.random.default_rng(0).integers(0, 1 << 63, whole // 8 + 8, dtype=np.uint64) | np.uint64(1)
    words = octets[:, :whole].view(np.uint64)
    mixed = words >> np.uint64(32)
    mixed ^= words
    mixed *= np.uint64(_MULTIPLIER)
    mixed ^= mixed >> np.uint64(29)
    mixed *= weights[: mixed.shape[1]]
    total = mixed.sum(axis=1, dtype=np.uint64)
    for place, column in enumerate(octets[:, whole:].T):
        total += (column.astype(np.uint64) + np.uint64(1)) * np.uint64(_MULTIPLIER) * weights[-1 - place]
    total ^= total >> np.uint64(31)
    return total


@dataclass
class Duplicates:
    """What the hashes say.

    Attributes:
        share: of all samples that was looked at for this; 1 unless there are very many.
        copies: in each split, samples whose inputs are there before.
        groups: rows of the largest groups of equal inputs, by split.
        leaks: by pair of splits, samples of the second whose inputs are in the first too.
        leaked: (row in the first, row in the second) of some of them.
        contradictions: groups of equal inputs with different targets, all splits together.
        contradicting: ((split, row), …) of some.
    """

    share: float = 1.0
    copies: dict[str, int] = field(default_factory=dict)
    groups: dict[str, list[list[int]]] = field(default_factory=dict)
    leaks: dict[tuple[str, str], int] = field(default_factory=dict)
    leaked: dict[tuple[str, str], list[tuple[int, int]]] = field(default_factory=dict)
    contradictions: int = 0
    contradicting: list[list[tuple[str, int]]] = field(default_factory=list)


class Hashes:
    """Remembers what was seen, 24 bytes a sample."""

    def __init__(self, splits: Sequence[str], remembered: int = REMEMBERED) -> None:
        self._seen: dict[str, list[NDArray[Any]]] = {split: [] for split in splits}
        self._kept, self._limit, self._of = 0, remembered, np.uint64(1)

    def add(self, chunk: Chunk) -> None:
        """Take the next samples."""
        inputs, targets = row_hashes(chunk.inputs), row_hashes(chunk.targets)
        seen = np.stack([inputs, targets, chunk.rows.astype(np.uint64)])
        if self._of > 1:
            seen = seen[:, seen[0] % self._of == 0]
        self._seen[chunk.split].append(seen)
        self._kept += seen.shape[1]
        while self._kept > self._limit:
            self._of *= np.uint64(2)
            for split, parts in self._seen.items():
                whole = np.concatenate(parts, axis=1) if parts else seen[:, :0]
                self._seen[split] = [whole[:, whole[0] % self._of == 0]]
            self._kept = sum(part.shape[1] for parts in self._seen.values() for part in parts)

    def duplicates(self) -> Duplicates:
        """What was there more than once."""
        result = Duplicates(share=1 / int(self._of))
        names = list(self._seen)
        known = [
            np.concatenate(parts, axis=1) if parts else np.empty((3, 0), np.uint64) for parts in self._seen.values()
        ]
        inputs, targets, rows = np.concatenate(known, axis=1)
        split = np.repeat(np.arange(len(names)), [part.shape[1] for part in known])
        # Stable: within a group of equal inputs the splits stand in their order, and rows as they were read.
        order = np.argsort(inputs, kind="stable")
        change = np.concatenate([[True], np.diff(inputs[order]) != 0]) if len(order) else np.empty(0, bool)
        size = np.diff(np.append(np.flatnonzero(change), len(order)))
        several = np.repeat(size, size) > 1
        order, size = order[several], size[size > 1]
        group = np.repeat(np.arange(len(size)), size)
        starts = np.cumsum(size) - size
        split, rows, targets = split[order], rows[order].astype(np.int64), targets[order]
        counts = np.bincount(group * len(names) + split, minlength=len(size) * len(names)).reshape(-1, len(names))

        def first_row(of: int, number: int) -> int:
            return int(rows[(group == of) & (split == number)].min())

        for number, name in enumerate(names):
            result.copies[name] = int(np.maximum(counts[:, number] - 1, 0).sum())
            largest = np.argsort(-counts[:, number], kind="stable")[:EXAMPLES]
            result.groups[name] = [
                sorted(rows[(group == each) & (split == number)].tolist())[:EXAMPLES]
                for each in largest
                if counts[each, number] > 1
            ]
        for one, other in combinations(range(len(names)), 2):
            both = np.flatnonzero((counts[:, one] > 0) & (counts[:, other] > 0))
            pair = names[one], names[other]
            result.leaks[pair] = int(counts[both, other].sum())
            result.leaked[pair] = [(first_row(each, one), first_row(each, other)) for each in both[:EXAMPLES]]
        if len(size):
            differ = np.minimum.reduceat(targets, starts) != np.maximum.reduceat(targets, starts)
            result.contradictions = int(differ.sum())
            result.contradicting = [
                [(names[split[at]], int(rows[at])) for at in range(starts[each], starts[each] + size[each])][:EXAMPLES]
                for each in np.flatnonzero(differ)[:EXAMPLES]
            ]
        return result


@dataclass
class Near:
    """Samples that are almost, and not quite, the same.

    Attributes:
        compared: how many samples were compared with one another.
        tolerance: their distance, as a share of that of two samples at random (root mean square).
        pairs: how many.
        across: those whose samples are of two splits, by pair of splits.
        examples: ((split, row), (split, row), distance as such a share), the nearest first.
        complete: whether all candidates were looked at.
    """

    compared: int
    tolerance: float
    pairs: int
    across: dict[tuple[str, str], int]
    examples: list[tuple[tuple[str, int], tuple[str, int], float]]
    complete: bool = True


class Sketches:
    """Random projections of some samples of each split, spread evenly.

    Args:
        reading: of the samples.
        reference: median and scale of the channels of the inputs.
        count: how many samples of all splits together.
    """

    def __init__(self, reading: Reading, reference: Reference, count: int) -> None:
        self._reading, self._reference = reading, reference
        whole = sum(reading.looked_at.values())
        self._wanted = {
            split: np.sort(spread(rows, max(1, round(count * len(rows) / whole))))
            for split, rows in reading.chosen.items()
            if len(rows)
        }
        self._found: list[tuple[str, NDArray[np.int64], Tensor]] = []
        self._matrix: Tensor | None = None
        self._seen: set[int] = set()
        self._sum: Tensor | None = None
        self._squares, self._count = 0.0, 0

    def add(self, chunk: Chunk) -> None:
        """Project those of the next samples that are to be compared."""
        known = self._wanted[chunk.split]
        wanted = known[np.minimum(np.searchsorted(known, chunk.rows), len(known) - 1)] == chunk.rows
        if wanted.any():
            picked = np.flatnonzero(wanted)
            # Of equal samples one is enough: a thousand copies would be half a million pairs.
            hashes = row_hashes(chunk.inputs if wanted.all() else chunk.inputs[torch.from_numpy(picked)]).tolist()
            new = [
                place
                for place, key in zip(picked, hashes, strict=True)
                if not (key in self._seen or self._seen.add(key))
            ]
            x = self._scaled(chunk.inputs[torch.tensor(new, dtype=torch.long)])
            wide = x.double()
            self._sum = wide.sum(0) + (0.0 if self._sum is None else self._sum)
            self._squares += float(wide.square().sum())
            self._count += len(new)
            if self._matrix is None:
                generator = torch.Generator().manual_seed(0)
                self._matrix = torch.randn(x.shape[1], PROJECTIONS, generator=generator) / PROJECTIONS**0.5
            self._found.append((chunk.split, chunk.rows[new], x @ self._matrix))

    def _scaled(self, values: Tensor) -> Tensor:
        """(n, entries) around 0, channels of the same size; gaps at the median."""
        median, scale = (torch.from_numpy(each).float()[:, None] for each in self._reference)
        x = (channels(values).float() - median) / torch.where(scale > 0, scale, 1.0)
        # One value far away would make everything else near.
        return torch.nan_to_num(x, 0.0, 0.0, 0.0).clamp(-_FARTHEST, _FARTHEST).flatten(1)

    def near(self, tolerance: float) -> Near:
        """The pairs that are nearer than this share of a usual distance, and not equal."""
        from scipy.spatial import KDTree

        if self._sum is None or self._count < 2:
            return Near(self._count, tolerance, 0, {}, [])
        # Root mean square distance of two samples: √(2 Σ variances).
        usual = (2 * max(self._squares / self._count - float((self._sum / self._count).square().sum()), 0.0)) ** 0.5
        if usual == 0:
            return Near(self._count, tolerance, 0, {}, [])
        points = torch.cat([x for _, _, x in self._found]).double()
        labels = [(split, int(row)) for split, rows, _ in self._found for row in rows]
        reach = _SEARCHED * tolerance * usual
        some = KDTree(points[:: max(1, len(points) // _LOOKED_AHEAD)].numpy())
        share = (some.count_neighbors(some, reach) - some.n) / max(1, some.n * (some.n - 1))
        # In tight clusters everything is near: fewer samples tell as much.
        step = max(1, math.ceil(math.sqrt(share * len(points) ** 2 / 2 / _MOST_NEIGHBOURS)))
        tree = KDTree(points[::step].numpy())
        pairs = step * tree.query_pairs(reach, output_type="ndarray")
        candidates = pairs[np.argsort(np.linalg.norm(points[pairs[:, 0]] - points[pairs[:, 1]], axis=1))][:_PAIRS]
        found = []
        for distance, one, other in self._distances(candidates, labels):
            if 0 < distance <= tolerance * usual:
                found.append((labels[one], labels[other], distance / usual))
        place = {split: number for number, split in enumerate(self._reading.chosen)}
        ordered = []
        for one, other, distance in found:
            first, second = sorted((one, other), key=lambda at: (place[at[0]], at[1]))
            ordered.append((first, second, distance))
        across: dict[tuple[str, str], int] = {}
        for (one, _), (other, _), _ in ordered:
            if one != other:
                across[one, other] = across.get((one, other), 0) + 1
        ordered.sort(key=lambda pair: pair[2])
        return Near(tree.n, tolerance, len(found), across, ordered[:EXAMPLES], len(pairs) <= _PAIRS)

    def _distances(self, pairs: NDArray[Any], labels: Sequence[tuple[str, int]]) -> list[tuple[float, int, int]]:
        """The true distance of every pair, in scales; samples are read anew, a few hundred pairs at a time."""
        found = []
        for begin in range(0, len(pairs), 256):
            some = pairs[begin : begin + 256]
            whole = self._whole([labels[place] for place in np.unique(some)])
            found += [
                (float((whole[labels[one]] - whole[labels[other]]).norm()), int(one), int(other))
                for one, other in some
                if labels[one] in whole and labels[other] in whole
            ]
        return found

    def _whole(self, labels: Sequence[tuple[str, int]]) -> Mapping[tuple[str, int], Tensor]:
        found = {}
        for split in dict.fromkeys(split for split, _ in labels):
            rows = np.asarray(sorted(row for name, row in labels if name == split))
            chunk = self._reading.take(split, rows)
            found |= {(split, int(row)): x for row, x in zip(chunk.rows, self._scaled(chunk.inputs), strict=True)}
        return found
