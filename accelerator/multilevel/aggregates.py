"""How the units of one group are aggregated between two levels: the entries of R and P along one dimension."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from accelerator.multilevel.layout import Role

Family = Literal["average", "weighted", "inject", "net2wider"]
FAMILIES: tuple[Family, ...] = ("average", "weighted", "inject", "net2wider")
Operator = Literal["P", "R"]


@dataclass(frozen=True)
class Aggregates:
    """How the units of one group are aggregated between two levels.

    Args:
        parent: the coarse unit of each fine unit, [fine].
        p: prolongation weights, [fine].
        r: restriction weights, [fine]; Σ p·r = 1 over every aggregate.
    """

    parent: Tensor
    p: Tensor
    r: Tensor

    @classmethod
    def average(cls, parent: Tensor, dtype: torch.dtype = torch.float64) -> Aggregates:
        """Rows averaged, columns summed: p = 1, r = 1/m for an aggregate of m units.

        Prolongation copies units and splits what reads them, so it keeps the function for any activation. (Not
        through LayerNorm or GroupNorm where the aggregates differ in size: a single unit counts for 1 of n units there,
        but for 1 of ⌈n/2⌉ on the coarse level.)
        """
        ones = torch.ones(len(parent), dtype=dtype, device=parent.device)
        return cls(parent, ones, 1 / _gather_sum(ones, parent))

    @classmethod
    def weighted(cls, parent: Tensor, norm: Tensor) -> Aggregates:
        """Units in proportion to their norms ν = ‖[w, b]‖, [fine]: p = ν/mean(ν), r = 1/m for an aggregate of m units.

        Exact on parallel pairs (w_j = α w_i, α > 0) and function-preserving for positively homogeneous activations
        (ReLU). It equals `average` where norms are equal; an aggregate of norm zero takes p = 1.
        """
        ones = torch.ones_like(norm)
        r = 1 / _gather_sum(ones, parent)
        mean = _gather_sum(norm * r, parent)
        return cls(parent, torch.where(mean > 0, norm / mean, ones), r)

    @classmethod
    def inject(cls, parent: Tensor, dtype: torch.dtype = torch.float64) -> Aggregates:
        """Copy and pad: the first unit of each aggregate stands for it, the others are left out and come back as zeros
        (p = r = 1 for the first, 0 for the others).

        Prolongation keeps the function: nothing reads the units that are new. (But LayerNorm and GroupNorm, which take
        their zeros into the mean and variance.)
        """
        first = torch.zeros(len(parent), dtype=dtype, device=parent.device)
        first[_first_members(parent)] = 1
        return cls(parent, first, first)

    @classmethod
    def crop(cls, fine: int, coarse: int, *, centred: bool, device: torch.device, dtype: torch.dtype) -> Aggregates:
        """Frequencies: the first `coarse` of 0 … K−1, or the middle ones of −K … K−1; the others come back as zeros."""
        begin = (fine - coarse) // 2 if centred else 0
        index = torch.arange(fine, device=device)
        kept = ((index >= begin) & (index < begin + coarse)).to(dtype)
        return cls((index - begin).clamp(0, coarse - 1), kept, kept)

    @cached_property
    def coarse(self) -> int:
        """The number of coarse units."""
        return int(self.parent.max()) + 1

    def weights(self, role: Role, operator: Operator) -> Tensor:
        """The entries of P or R on a dimension of this role, [fine]."""
        if role in ("invariant", "variance"):
            # A unit that is new under prolongation (p = 0) takes the value of its aggregate: a variance of 0 is none.
            ones = torch.ones_like(self.p)
            spread = torch.where(self.p == 0, ones, self.p**2) if role == "variance" else ones
            if operator == "P":
                return spread
            read = (self.r != 0).to(self.r)
            return read / _gather_sum(spread * read, self.parent)
        return self.p if (role == "column") == (operator == "R") else self.r


@dataclass(frozen=True)
class Entries:
    """The entries of P or R on one dimension, ready to gather by.

    Args:
        parent: the coarse unit of each fine unit, [fine].
        weights: [fine]; None if all are 1.
        members: the i-th fine unit with an entry of each coarse unit, [coarse] each.
        scales: their entries, 0 where a coarse unit has fewer; None if all are 1.
        coarse: number of coarse units.
    """

    parent: Tensor
    weights: Tensor | None
    members: tuple[Tensor, ...]
    scales: tuple[Tensor | None, ...]
    coarse: int

    @property
    def fine(self) -> int:
        """Number of fine units."""
        return len(self.parent)

    @classmethod
    def of(cls, parent: Tensor, weights: Tensor, coarse: int) -> Entries:
        """From `parent` and `weights`, [fine]."""
        present = weights.nonzero().squeeze(1)
        counts = torch.bincount(parent[present], minlength=coarse)
        order = present[parent[present].argsort(stable=True)]
        place = torch.arange(max(int(counts.max()), 1), device=order.device)
        index = (counts.cumsum(0) - counts)[:, None] + place.minimum((counts - 1).clamp_min(0)[:, None])
        members = order[index.clamp_max(len(order) - 1)]
        scale = weights[members] * (place < counts[:, None])
        return cls(
            parent,
            None if bool((weights == 1).all()) else weights,
            tuple(column.contiguous() for column in members.unbind(1)),
            tuple(None if bool((column == 1).all()) else column.contiguous() for column in scale.unbind(1)),
            coarse,
        )


def _first_members(parent: Tensor) -> Tensor:
    """The first unit of each aggregate."""
    n = len(parent)
    first = torch.full((int(parent.max()) + 1,), n, device=parent.device)
    return first.scatter_reduce(0, parent, torch.arange(n, device=parent.device), "amin")


def _gather_sum(values: Tensor, parent: Tensor) -> Tensor:
    """For each unit the sum over its aggregate."""
    return torch.zeros_like(values).index_add_(0, parent, values)[parent]
