"""Which units of a group are aggregated into one coarse unit.

A matching takes the units' features (rows [w|b] of all incoming layers, [n, features]) and gives `parent` [n]: the
coarse unit of each unit. Every unit is matched and the number of coarse units depends on n and the factor alone, so a
level has a fixed shape: an aggregate has `factor` units, fewer only where n is not divisible (for an odd n and factor 2
one unit stays single). Coarse units are numbered in the order of their first unit.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Matching = Callable[[Tensor, int, torch.Generator | None], Tensor]


def coarse_width(width: int, factor: int, blocks: int = 1) -> int:
    """The number of coarse units of a group of `width` units in `blocks` equal blocks."""
    return blocks * -(-(width // blocks) // factor)


def heavy_edge(features: Tensor, factor: int, generator: torch.Generator | None = None) -> Tensor:
    """Aggregate similar units: heaviest edges first, an edge's weight being the cosine of the units' features.

    Pairs that prefer each other to all other free units are matched in rounds (a handshake), which gives the matching
    of the greedy algorithm over the sorted edges without sorting n² of them. For a factor of 4, 8, … the pairs,
    represented by their mean, are paired again.

    Source: heavy-edge matching is Karypis & Kumar (1998), *A fast and high quality multilevel scheme for partitioning
    irregular graphs*; for the units of a network Ponce et al. (2023), *Multilevel-in-Width Training for Deep Neural
    Network Regression*; the handshake is Manne & Bisseling (2008), *A parallel approximation algorithm for the weighted
    maximum matching problem*.
    """
    features = features.float() if features.dtype in (torch.half, torch.bfloat16) else features
    parent = torch.arange(len(features), device=features.device)
    while factor > 1:
        pair = _number(_handshake(_cosine(features)))
        features = torch.zeros_like(features[: int(pair.max()) + 1]).index_add_(0, pair, features)
        parent = pair[parent]
        factor //= 2
    return parent


def random(features: Tensor, factor: int, generator: torch.Generator | None = None) -> Tensor:
    """Aggregate units at random: the control every other matching is to be compared with."""
    device = "cpu" if generator is None else generator.device
    order = torch.randperm(len(features), generator=generator, device=device).to(features.device)
    parent = torch.empty_like(order)
    parent[order] = identity(features, factor)
    return _number(parent)


def identity(features: Tensor, factor: int, generator: torch.Generator | None = None) -> Tensor:
    """Aggregate neighbours: units 2i and 2i+1 for factor 2."""
    return torch.arange(len(features), device=features.device) // factor


MATCHINGS: dict[str, Matching] = {"heavy_edge": heavy_edge, "random": random, "identity": identity}


def match_blocks(
    features: Tensor, factor: int, matching: Matching, blocks: int = 1, generator: torch.Generator | None = None
) -> Tensor:
    """Match within each of `blocks` equal contiguous blocks of units; returns `parent` [n]."""
    parents, first = [], 0
    for block in features.chunk(blocks):
        parents.append(matching(block, factor, generator) + first)
        first += coarse_width(len(block), factor)
    return torch.cat(parents)


def _cosine(features: Tensor) -> Tensor:
    """[n, n]; a unit of norm zero has cosine 0 with every other."""
    unit = features / features.norm(dim=1, keepdim=True).clamp_min(torch.finfo(features.dtype).tiny)
    return unit @ unit.T


def _handshake(weight: Tensor) -> Tensor:
    """Greedy heaviest-edge matching of a complete graph; a label for each vertex, equal for the two of a pair.

    The weight must be exactly symmetric and equal edges must be told apart, else rounds could match few pairs or none:
    rounding differences are averaged out and a tiny Hankel term h[i + j] makes equal edges differ.
    """
    n = len(weight)
    golden = (torch.arange(2 * n, dtype=torch.float64) * 0.6180339887498949).frac().to(weight)
    weight = (weight + weight.T).add_(golden.unfold(0, n, 1)[:n], alpha=1e-6)
    weight.fill_diagonal_(-torch.inf)
    label = torch.arange(n, device=weight.device)
    free = label.clone()
    while len(free) > 1:
        here = torch.arange(len(free), device=weight.device)
        best = weight.argmax(dim=1)
        mutual = best[best] == here
        label[free[mutual]] = torch.minimum(free, free[best])[mutual]
        left = (~mutual).nonzero().squeeze(1)
        weight = weight.index_select(0, left).index_select(1, left)
        free = free[left]
    return label


def _number(label: Tensor) -> Tensor:
    """Labels replaced by 0, 1, … in the order of their first occurrence."""
    _, parent = label.unique(return_inverse=True)
    n = len(label)
    first = torch.full((int(parent.max()) + 1,), n, device=label.device)
    first.scatter_reduce_(0, parent, torch.arange(n, device=label.device), "amin")
    rank = torch.empty_like(first)
    rank[first.argsort()] = torch.arange(len(first), device=label.device)
    return rank[parent]
