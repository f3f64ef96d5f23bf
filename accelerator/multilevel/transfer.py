"""Restriction and prolongation between two neighbouring levels, matrix-free: gather, scale and add, never a dense R or
P.

A group's units u are aggregated into coarse units; each unit has a prolongation weight p and a restriction weight r
with Σ p·r = 1 over every aggregate. Written with the matrices P [fine, coarse] (entries p) and R [coarse, fine]
(entries r), R P = I and

    W_c = R W P   (rows by R, columns by P)        W = P W_c R   (rows by P, columns by R)

on a weight with a group on both dimensions; a tensor with a group on one dimension takes one factor. The duals carry
gradients: for f_c(c) = f(𝒫c), ∇f_c = 𝒫ᵀ∇f, so first moments go down by 𝒫ᵀ, and up by 𝓡ᵀ (𝒫ᵀ𝓡ᵀ = I).

Source: the Galerkin form W_c = R W P is Ponce et al. (2023), *Multilevel-in-Width Training for Deep Neural Network
    Regression*.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from accelerator.multilevel.coupling import Coupling, Slot
from accelerator.multilevel.layout import Role, Span

Family = Literal["average", "weighted"]
Operator = Literal["P", "R"]
FAMILIES: tuple[Family, ...] = ("average", "weighted")


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

    @cached_property
    def coarse(self) -> int:
        """The number of coarse units."""
        return int(self.parent.max()) + 1

    @cached_property
    def members(self) -> tuple[Tensor, Tensor]:
        """The fine units of each coarse unit, [coarse, most], and which entries are units and which are padding."""
        counts = torch.bincount(self.parent, minlength=self.coarse)
        order = self.parent.argsort(stable=True)
        place = torch.arange(int(counts.max()), device=order.device)
        index = (counts.cumsum(0) - counts)[:, None] + place.minimum((counts - 1)[:, None])
        return order[index], place < counts[:, None]

    def weights(self, role: Role, operator: Operator) -> Tensor:
        """The entries of P or R on a dimension of this role, [fine]."""
        if role == "invariant":
            ones = torch.ones_like(self.p)
            return ones if operator == "P" else 1 / _gather_sum(ones, self.parent)
        if role == "variance":
            square = self.p**2
            return square if operator == "P" else 1 / _gather_sum(square, self.parent)
        return self.p if (role == "column") == (operator == "R") else self.r


class WidthTransfer:
    """The operators between two levels for every parameter and buffer, by name.

    Args:
        coupling: where each group lies.
        aggregates: of each group that is narrower on the coarse level.
    """

    def __init__(self, coupling: Coupling, aggregates: Mapping[int, Aggregates]) -> None:
        self.coupling = coupling
        self.aggregates = dict(aggregates)
        self._slots = {
            name: tuple(slot for slot in slots if slot.span.group in self.aggregates)
            for name, slots in coupling.slots.items()
        }

    def restrict(self, name: str, fine: Tensor, *, squared: bool = False) -> Tensor:
        """𝓡 t: a tensor like this parameter or buffer, from the fine level to the coarse one.

        Args:
            name: of the parameter or buffer, as in `named_parameters`.
            fine: the tensor; left as it is.
            squared: use the squares of the operator's entries (as for variances of uncorrelated entries).
        """
        return self._to_coarse(name, fine, "R", squared)

    def prolong(self, name: str, coarse: Tensor, *, squared: bool = False) -> Tensor:
        """𝒫 t, from the coarse level to the fine one; arguments as of `restrict`."""
        return self._to_fine(name, coarse, "P", squared)

    def prolong_transposed(self, name: str, fine: Tensor, *, squared: bool = False) -> Tensor:
        """𝒫ᵀ g: a gradient, from the fine level to the coarse one; arguments as of `restrict`."""
        return self._to_coarse(name, fine, "P", squared)

    def restrict_transposed(self, name: str, coarse: Tensor, *, squared: bool = False) -> Tensor:
        """𝓡ᵀ g: a gradient, from the coarse level to the fine one; arguments as of `restrict`."""
        return self._to_fine(name, coarse, "R", squared)

    @torch.no_grad()
    def restrict_network(self, fine: nn.Module, coarse: nn.Module) -> None:
        """Write every parameter and buffer of the coarse network from the fine one."""
        for name, source, target in _shared(fine, coarse):
            target.copy_(self.restrict(name, source))

    @torch.no_grad()
    def prolongate_network(self, fine: nn.Module, coarse: nn.Module, keep: float) -> None:
        """N ← 𝒫N_c + keep·(N₀ − 𝒫𝓡N₀), with N₀ what the fine network holds.

        Variances (BatchNorm's) are corrected by a factor instead, so that they stay positive: v ← 𝒫v_c ·
        (v₀/𝒫𝓡v₀)^keep.
        """
        for name, source, target in _shared(coarse, fine):
            slots = self._slots.get(name, ())
            if not slots:
                target.copy_(source)
            elif keep == 0:
                target.copy_(self.prolong(name, source))
            elif slots[0].role == "variance":
                held = self.prolong(name, self.restrict(name, target))
                ratio = torch.where(held > 0, target / held, torch.ones_like(held))
                target.copy_(self.prolong(name, source) * ratio**keep)
            else:
                correction = source - keep * self.restrict(name, target)
                target.mul_(keep).add_(self.prolong(name, correction))

    def _to_coarse(self, name: str, tensor: Tensor, operator: Operator, squared: bool) -> Tensor:
        for slot, weights in self._factors(name, tensor, operator, squared):
            members, present = (part.to(tensor.device) for part in self.aggregates[slot.span.group].members)
            scale = weights[members] * present
            view, dim = _unit_dimension(tensor, slot, len(weights))
            total = view.index_select(dim, members[:, 0]) * _along(scale[:, 0], view, dim)
            for more in range(1, members.shape[1]):
                total += view.index_select(dim, members[:, more]) * _along(scale[:, more], view, dim)
            tensor = _folded(total, slot)
        return tensor

    def _to_fine(self, name: str, tensor: Tensor, operator: Operator, squared: bool) -> Tensor:
        for slot, weights in self._factors(name, tensor, operator, squared):
            found = self.aggregates[slot.span.group]
            view, dim = _unit_dimension(tensor, slot, found.coarse)
            spread = view.index_select(dim, found.parent.to(tensor.device))
            tensor = _folded(spread.mul_(_along(weights, spread, dim)), slot)
        return tensor

    def _factors(self, name: str, tensor: Tensor, operator: Operator, squared: bool) -> Iterator[tuple[Slot, Tensor]]:
        for slot in self._slots.get(name, ()):
            weights = self.aggregates[slot.span.group].weights(slot.role, operator).to(tensor)
            yield slot, weights.square() if squared else weights


def unit_features(coupling: Coupling, group: int, tensors: Mapping[str, Tensor]) -> Tensor:
    """The rows [w|b] of all layers that produce a group's units, side by side: [units, features]."""
    rows = []
    for name, slots in coupling.slots.items():
        for slot in slots:
            if slot.span.group == group and slot.role == "row":
                tensor = tensors[name].detach()
                view, dim = _unit_dimension(tensor, slot, tensor.shape[slot.dim] // (slot.span.outer * slot.span.inner))
                rows.append(view.movedim(dim, 0).flatten(1) if view.dim() > 1 else view[:, None])
    assert rows, f"group {group} has no layer that produces it"
    return torch.cat(rows, dim=1)


def _shared(source: nn.Module, target: nn.Module) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(name, source tensor, target tensor) of every parameter and buffer; shared ones once."""
    targets = dict([*target.named_parameters(), *target.named_buffers()])
    for name, tensor in [*source.named_parameters(), *source.named_buffers()]:
        yield name, tensor, targets[name]


def _unit_dimension(tensor: Tensor, slot: Slot, units: int) -> tuple[Tensor, int]:
    """A view with the units on a dimension of their own, and that dimension."""
    span: Span = slot.span
    if (span.outer, span.inner) == (1, 1):
        return tensor, slot.dim
    return tensor.unflatten(slot.dim, (span.outer, units, span.inner)), slot.dim + 1


def _folded(view: Tensor, slot: Slot) -> Tensor:
    """The inverse of `_unit_dimension`."""
    return view if (slot.span.outer, slot.span.inner) == (1, 1) else view.flatten(slot.dim, slot.dim + 2)


def _along(weights: Tensor, view: Tensor, dim: int) -> Tensor:
    return weights.view([-1 if axis == dim else 1 for axis in range(view.dim())])


def _gather_sum(values: Tensor, parent: Tensor) -> Tensor:
    """For each unit the sum over its aggregate."""
    return torch.zeros_like(values).index_add_(0, parent, values)[parent]
