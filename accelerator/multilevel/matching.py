"""Which units of a group are aggregated into one coarse unit.

A matching takes the units' features (rows [w|b] of all incoming layers, [n, features]), the number of coarse units
(1 ≤ coarse ≤ n) and a generator, and gives `parent` [n], int64: the coarse unit of each unit. Every unit is matched and
there are exactly `coarse` coarse units, so a level has a fixed shape; those here number them in the order of their
first unit. Any function with this signature is a matching.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from accelerator.errors import ConfigError, did_you_mean

Matching = Callable[[Tensor, int, torch.Generator | None], Tensor]
Similarity = Callable[[Tensor], Tensor]

_TILE = 512
"""Rows of the similarity computed at once: enough for a fast product, few enough to skip nearly half of it."""


def coarse_width(width: int, factor: float, blocks: int = 1) -> int:
    """The number of coarse units of a group of `width` units in `blocks` equal blocks: ⌈width/blocks/factor⌉ each."""
    return blocks * math.ceil(width // blocks / factor)


def match_blocks(
    features: Tensor, coarse: int, matching: Matching, blocks: int = 1, generator: torch.Generator | None = None
) -> Tensor:
    """Match within each of `blocks` equal contiguous blocks of units; returns `parent` [n].

    Raises:
        ConfigError: `coarse` is out of range or not divisible by `blocks`, or the matching's result is not a matching.
    """
    n = len(features)
    if not blocks <= coarse <= n or coarse % blocks:
        raise ConfigError(f"{coarse} coarse units of {n} in {blocks} blocks: must be a multiple of {blocks} up to {n}")
    parents, each = [], coarse // blocks
    for number, block in enumerate(features.chunk(blocks)):
        parent = matching(block, each, generator)
        check_parent(parent, len(block), each, getattr(matching, "__name__", repr(matching)))
        parents.append(parent + number * each)
    return torch.cat(parents)


def check_parent(parent: Tensor, n: int, coarse: int, name: str = "the matching") -> None:
    """Refuse what is not a matching of n units to `coarse` coarse units.

    Args:
        parent: what a matching returned.
        n: the number of units.
        coarse: the number of coarse units.
        name: of the matching, for the message.

    Raises:
        ConfigError: wrong type, dtype or shape, or a coarse unit that is negative, too large or has no unit.
    """
    wanted = f"a matching returns the coarse unit of each of the {n} units, int64 [{n}] from 0 to {coarse - 1}"
    if not isinstance(parent, Tensor):
        raise ConfigError(f"{name} returned {type(parent).__name__}: {wanted}")
    if parent.dtype != torch.int64 or parent.shape != (n,):
        raise ConfigError(f"{name} returned {str(parent.dtype)[6:]} {list(parent.shape)}: {wanted}")
    if (least := int(parent.min())) < 0:
        raise ConfigError(f"{name} left units unmatched (a parent of {least}): {wanted}")
    if (found := int(parent.max()) + 1) > coarse:
        raise ConfigError(f"{name} returned {found} coarse units where {coarse} were asked for: {wanted}")
    if len(empty := (parent.bincount(minlength=coarse) == 0).nonzero()):
        raise ConfigError(f"{name} gave coarse unit {int(empty[0])} no unit: {wanted}, each at least once")


@dataclass(frozen=True)
class HeavyEdge:
    """Aggregate similar units: of the graph of all units, the heaviest edges first.

    The pairs are those of the greedy algorithm, which takes the edges in order of falling similarity and keeps one
    where both ends are free; they are found without sorting n² edges. While there are more than twice as many units as
    wanted all are paired (one stays single where their number is odd) and the pairs, represented by the mean of their
    units, are paired again; in the last round only as many as needed, the heaviest. Nothing but the order of the
    similarities matters.

    Args:
        similarity: `cosine` of two units' features, 0 for a unit of norm zero; `radial_basis`,
            exp(−‖xᵢ − xⱼ‖²/2s²), which orders pairs alike for every s, so that none is chosen; or a function from
            features [n, d] to similarities [n, n], of which the mean over both directions of an edge counts.
        sketch: compare random projections of the features to this many dimensions, drawn from the generator: for much
            less work, similarities with a standard error of about 1/√sketch. By default the features themselves.

    Raises:
        ConfigError: the similarity is unknown or the sketch has no dimension; when called, a feature or a similarity
            is not finite, or a similarity function returned another shape than [n, n].

    Source: heavy-edge matching is Karypis & Kumar (1998), *A fast and high quality multilevel scheme for partitioning
    irregular graphs*; for the units of a network Ponce et al. (2023), *Multilevel-in-Width Training for Deep Neural
    Network Regression*; the sketch is Johnson & Lindenstrauss (1984), *Extensions of Lipschitz mappings into a Hilbert
    space*.
    """

    similarity: str | Similarity = "cosine"
    sketch: int | None = None

    def __post_init__(self) -> None:
        problems = []
        if isinstance(self.similarity, str) and self.similarity not in SIMILARITIES:
            problems.append(f"similarity='{self.similarity}' is unknown{did_you_mean(self.similarity, SIMILARITIES)}")
        if self.sketch is not None and self.sketch < 1:
            problems.append(f"sketch={self.sketch}: must be at least 1 dimension, or None for all")
        if problems:
            raise ConfigError(problems)

    @torch.no_grad()
    def __call__(self, features: Tensor, coarse: int, generator: torch.Generator | None = None) -> Tensor:
        """The coarse unit of each unit, [n]."""
        features = features if features.dtype == torch.float64 else features.float()
        if not features.sum().isfinite() and not (finite := features.isfinite().all(dim=1)).all():
            raise ConfigError(
                f"the weights of unit {int((~finite).nonzero()[0])} are not finite, so units cannot be matched by "
                "similarity: training has diverged (lower the learning rate), or take matching=random or identity"
            )
        if self.sketch is not None and self.sketch < features.shape[1]:
            features = features @ _normal(features.shape[1], self.sketch, generator).to(features)
        n = len(features)
        parent = torch.arange(n, device=features.device)
        while n > coarse:
            rows = features if n == len(features) else _means(features, parent)
            pairs = min(n // 2, n - coarse)
            parent = _number(_paired(self._weight(rows), pairs).to(parent.device))[parent]
            n -= pairs
        return parent

    def _weight(self, features: Tensor) -> Tensor:
        """The similarities, [n, n], symmetric to the last bit."""
        if isinstance(self.similarity, str):
            return SIMILARITIES[self.similarity](features)
        weight, n = self.similarity(features), len(features)
        if not isinstance(weight, Tensor) or weight.shape != (n, n) or not weight.isfinite().all():
            found = f"{list(weight.shape)}" if isinstance(weight, Tensor) else type(weight).__name__
            raise ConfigError(
                f"similarity {getattr(self.similarity, '__name__', self.similarity)} returned {found} for {n} units: "
                f"it must return finite numbers [{n}, {n}]"
            )
        weight = weight if weight.dtype == torch.float64 else weight.float()
        return weight + weight.T


def random(features: Tensor, coarse: int, generator: torch.Generator | None = None) -> Tensor:
    """Aggregate units at random: the control every other matching is to be compared with."""
    device = "cpu" if generator is None else generator.device
    order = torch.randperm(len(features), generator=generator, device=device).to(features.device)
    parent = torch.empty_like(order)
    parent[order] = identity(features, coarse)
    return _number(parent)


def identity(features: Tensor, coarse: int, generator: torch.Generator | None = None) -> Tensor:
    """Aggregate neighbours, as evenly as can be: units 2i and 2i + 1 where coarse = n/2."""
    n = len(features)
    return torch.arange(n, device=features.device) * coarse // n


def _cosine(features: Tensor) -> Tensor:
    # The largest entries are divided out first, so that none is too small or too large to be squared.
    tiny = torch.finfo(features.dtype).tiny
    unit = features / features.abs().amax(dim=1, keepdim=True).clamp_min(tiny)
    return _gram(unit.div_(unit.norm(dim=1, keepdim=True).clamp_min(tiny)))


def _negative_squared_distance(features: Tensor) -> Tensor:
    # Scaled so that squares are finite, and the mean taken away since distances come from products, whose rounding
    # grows with the distance from the origin.
    features = features / features.abs().max().clamp_min(torch.finfo(features.dtype).tiny)
    features = features.sub_(features.mean(dim=0))
    square = features.square().sum(dim=1)
    return _gram(features).mul_(2).sub_(square[:, None] + square)


SIMILARITIES: dict[str, Similarity] = {"cosine": _cosine, "radial_basis": _negative_squared_distance}
MATCHINGS: dict[str, Matching] = {
    "heavy_edge": HeavyEdge(),
    "radial_basis": HeavyEdge("radial_basis"),
    "random": random,
    "identity": identity,
}


def _gram(rows: Tensor) -> Tensor:
    """X Xᵀ, [n, n]; the lower triangle is a copy of the upper one: half the work, and symmetric to the last bit."""
    n = len(rows)
    gram = rows.new_empty(n, n)
    for first in range(0, n, _TILE):
        last = min(first + _TILE, n)
        tile = torch.mm(rows[first:last], rows[first:].T, out=gram[first:last, first:])
        gram[last:, first:last] = tile[:, last - first :].T
        square = tile[:, : last - first]
        square.copy_(square.triu() + square.triu(1).T)
    return gram


def _paired(weight: Tensor, pairs: int) -> Tensor:
    """The heaviest `pairs` edges of the greedy matching, as a label for each vertex: equal for the two of a pair, on
    the CPU.

    Vertices propose to the partner with the heaviest edge among those that hold no heavier proposal; one whose proposal
    is outdone proposes again. The proposals that stand at the end are the greedy matching, whatever the order; the
    order of falling heaviest edges outdoes few.

    Equal edges are told apart by a scrambled i + j: edges with the same sum have no end in common, and equal weights do
    not make a chain in which every vertex waits for its neighbour.

    Source: the suitor algorithm, Manne & Halappanavar (2014), *New effective multithreaded matching algorithms*.
    """
    edges, n = weight.cpu().numpy(), len(weight)
    np.fill_diagonal(edges, -np.inf)
    tie = np.arange(2 * n) * 0.6180339887498949 % 1
    suitor, held, held_tie = np.full(n, -1), np.full(n, -np.inf, edges.dtype), np.full(n, np.inf)
    for vertex in np.argsort(-edges.max(axis=1), kind="stable").tolist():
        while vertex >= 0:
            row, row_tie = edges[vertex], tie[vertex : vertex + n]
            partner = int(row.argmax())
            if row[partner] <= held[partner] or np.count_nonzero(row == row[partner]) > 1:
                partner = _best_offer(row, row_tie, held, held_tie)
                if partner < 0:
                    break  # the one that stays single where n is odd
            held[partner], held_tie[partner] = row[partner], row_tie[partner]
            vertex, suitor[partner] = int(suitor[partner]), vertex
    ends = np.flatnonzero(np.arange(n) < suitor)
    heaviest = ends[np.lexsort((-held_tie[ends], -held[ends]))[:pairs]]
    label = np.arange(n)
    label[suitor[heaviest]] = heaviest
    return torch.from_numpy(label)


def _best_offer(row: np.ndarray, row_tie: np.ndarray, held: np.ndarray, held_tie: np.ndarray) -> int:
    """The end of the heaviest edge that outdoes what its end holds, −1 where there is none."""
    better = row > held
    equal = row == held
    if equal.any():
        better |= equal & (row_tie > held_tie)
    if not better.any():
        return -1
    offer = np.where(better, row, -np.inf)
    best = np.flatnonzero(offer == offer.max())
    return int(best[row_tie[best].argmax()])


def _means(features: Tensor, parent: Tensor) -> Tensor:
    """The mean over each aggregate."""
    count = parent.bincount()
    means = features.new_zeros(len(count), features.shape[1])
    return means.index_add_(0, parent, features / count[parent, None])


def _normal(features: int, sketch: int, generator: torch.Generator | None) -> Tensor:
    device = "cpu" if generator is None else generator.device
    return torch.randn(features, sketch, generator=generator, device=device)


def _number(label: Tensor) -> Tensor:
    """Labels replaced by 0, 1, … in the order of their first occurrence."""
    _, parent = label.unique(return_inverse=True)
    n = len(label)
    first = torch.full((int(parent.max()) + 1,), n, device=label.device)
    first.scatter_reduce_(0, parent, torch.arange(n, device=label.device), "amin")
    rank = torch.empty_like(first)
    rank[first.argsort()] = torch.arange(len(first), device=label.device)
    return rank[parent]
