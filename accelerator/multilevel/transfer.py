"""Restriction and prolongation between two neighbouring levels, matrix-free: gather, scale and add, never a dense R or
P.

A group's units u are aggregated into coarse units; each unit has a prolongation weight p and a restriction weight r
with Σ p·r = 1 over every aggregate. Written with the matrices P [fine, coarse] (entries p) and R [coarse, fine]
(entries r), R P = I and

    W_c = R W P   (rows by R, columns by P)        W = P W_c R   (rows by P, columns by R)

on a weight with a group on both dimensions; a tensor with a group on one dimension takes one factor. Of all tensors
together these are 𝓡 and 𝒫. Their duals carry gradients: for f_c(c) = f(𝒫c), ∇f_c = 𝒫ᵀ∇f, so first moments go down by
𝒫ᵀ, and up by 𝓡ᵀ (𝒫ᵀ𝓡ᵀ = I).

A *state* is a mapping from the names of parameters and buffers to tensors of their shapes: weights, gradients, moments.

Source: the Galerkin form W_c = R W P is Ponce et al. (2023), *Multilevel-in-Width Training for Deep Neural Network
    Regression*.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from accelerator.errors import ConfigError
from accelerator.multilevel.aggregates import Aggregates, Entries, Operator
from accelerator.multilevel.coupling import Coupling, Slot
from accelerator.multilevel.layout import Span

State = Mapping[str, Tensor]


class Transfer(Protocol):
    """Moves states between two neighbouring levels; also what a user's own transfer must offer.

    Tensors without a counterpart on the other level are left out. The transposes carry gradients and moments.
    """

    def restrict(self, state: State, *, squared: bool = False) -> dict[str, Tensor]:
        """𝓡: from the fine level to the coarse one; `squared`: by the squares of the operator's entries."""
        ...

    def prolong(self, state: State, *, squared: bool = False) -> dict[str, Tensor]:
        """𝒫: from the coarse level to the fine one."""
        ...

    def prolong_transposed(self, state: State, *, squared: bool = False) -> dict[str, Tensor]:
        """𝒫ᵀ: a gradient, from the fine level to the coarse one."""
        ...

    def restrict_transposed(self, state: State, *, squared: bool = False) -> dict[str, Tensor]:
        """𝓡ᵀ: a gradient, from the coarse level to the fine one."""
        ...


class UnitTransfer:
    """The operators along the groups of units (or of Fourier modes) of a network: names are the same on both levels.

    Args:
        coupling: where each group lies, on the fine level.
        aggregates: of each group that is smaller on the coarse level.
    """

    def __init__(self, coupling: Coupling, aggregates: Mapping[int, Aggregates]) -> None:
        self.coupling = coupling
        self.aggregates = dict(aggregates)
        self.slots: dict[str, tuple[Slot, ...]] = {}
        for name, slots in coupling.slots.items():
            # Whole dimensions only: of concatenated widths all parts are needed, of other axes none.
            dims = {slot.dim for slot in slots if slot.span.group in self.aggregates}
            if dims:
                self.slots[name] = tuple(slot for slot in slots if slot.dim in dims)
        self._entries: dict[tuple[Any, ...], Entries] = {}

    def restrict(self, state: State, *, squared: bool = False) -> dict[str, Tensor]:
        """𝓡: from the fine level to the coarse one."""
        return {name: self._to_coarse(name, tensor, "R", squared) for name, tensor in state.items()}

    def prolong(self, state: State, *, squared: bool = False) -> dict[str, Tensor]:
        """𝒫: from the coarse level to the fine one."""
        return {name: self._to_fine(name, tensor, "P", squared) for name, tensor in state.items()}

    def prolong_transposed(self, state: State, *, squared: bool = False) -> dict[str, Tensor]:
        """𝒫ᵀ: a gradient, from the fine level to the coarse one."""
        return {name: self._to_coarse(name, tensor, "P", squared) for name, tensor in state.items()}

    def restrict_transposed(self, state: State, *, squared: bool = False) -> dict[str, Tensor]:
        """𝓡ᵀ: a gradient, from the coarse level to the fine one."""
        return {name: self._to_fine(name, tensor, "R", squared) for name, tensor in state.items()}

    def counterpart(self, name: str, *, down: bool) -> str:
        """The name on the other level."""
        return name

    def prolong_onto(self, fine: State, restricted: State, coarse: State, keep: float) -> dict[str, Tensor]:
        """𝒫c + keep·(N₀ − 𝒫𝓡N₀) from N₀ (`fine`), 𝓡N₀ (`restricted`) and c (`coarse`).

        Variances (BatchNorm's) are corrected by a factor instead, so that they stay positive: 𝒫v_c · (v₀/𝒫𝓡v₀)^keep.
        """
        result = {}
        for name, tensor in coarse.items():
            slots = self.slots.get(name, ())
            if not slots:
                result[name] = tensor
            elif slots[0].role == "variance":
                held = self._to_fine(name, restricted[name], "P", False)
                ratio = torch.where(held > 0, fine[name] / held, torch.ones_like(held))
                result[name] = self._to_fine(name, tensor, "P", False) * ratio**keep
            else:
                correction = torch.sub(tensor, restricted[name], alpha=keep)
                result[name] = self._to_fine(name, correction, "P", False).add_(fine[name], alpha=keep)
        return result

    def _to_coarse(self, name: str, tensor: Tensor, operator: Operator, squared: bool) -> Tensor:
        def gather(part: Tensor, slot: Slot) -> Tensor:
            entries = self._found(slot, operator, squared, part)
            view, dim = _unit_dimension(part, slot, entries.fine)
            total = None
            for index, scale in zip(entries.members, entries.scales, strict=True):
                chosen = view.index_select(dim, index)
                if scale is not None:
                    chosen.mul_(_along(scale, view, dim))
                total = chosen if total is None else total.add_(chosen)
            assert total is not None
            return _folded(total, slot)

        return self._along_slots(name, tensor, gather, coarse=False)

    def _to_fine(self, name: str, tensor: Tensor, operator: Operator, squared: bool) -> Tensor:
        def spread(part: Tensor, slot: Slot) -> Tensor:
            entries = self._found(slot, operator, squared, part)
            view, dim = _unit_dimension(part, slot, entries.coarse)
            copies = view.index_select(dim, entries.parent)
            if entries.weights is not None:
                copies.mul_(_along(entries.weights, copies, dim))
            return _folded(copies, slot)

        return self._along_slots(name, tensor, spread, coarse=True)

    def _along_slots(
        self, name: str, tensor: Tensor, change: Callable[[Tensor, Slot], Tensor], *, coarse: bool
    ) -> Tensor:
        """Apply `change` to each slot's part of the tensor; concatenated widths lie side by side on one dimension."""
        dims = [(dim, list(slots)) for dim, slots in itertools.groupby(self.slots.get(name, ()), lambda slot: slot.dim)]
        # Rows of the larger tensor: they are contiguous, other dimensions are gathered from the smaller one.
        for dim, slots in sorted(dims, reverse=coarse):
            pieces, at = [], 0
            for slot in slots:
                if slot.skip:
                    pieces.append(tensor.narrow(dim, at, slot.skip))
                    at += slot.skip
                found = self.aggregates.get(slot.span.group)
                units = self.coupling.groups[slot.span.group].width
                if found is not None:
                    units = found.coarse if coarse else len(found.parent)
                size = slot.span.outer * units * slot.span.inner
                part = tensor if size == tensor.shape[dim] else tensor.narrow(dim, at, size)
                pieces.append(part if found is None else change(part, slot))
                at += size
            if at < tensor.shape[dim]:
                pieces.append(tensor.narrow(dim, at, tensor.shape[dim] - at))
            tensor = pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim)
        return tensor

    def _found(self, slot: Slot, operator: Operator, squared: bool, tensor: Tensor) -> Entries:
        key = (slot.span.group, slot.role, operator, squared, tensor.dtype, tensor.device)
        if key not in self._entries:
            found = self.aggregates[slot.span.group]
            weights = found.weights(slot.role, operator)
            weights = (weights.square() if squared else weights).to(tensor)
            self._entries[key] = Entries.of(found.parent.to(tensor.device), weights, found.coarse)
        return self._entries[key]


def unit_features(coupling: Coupling, group: int, tensors: State) -> Tensor:
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


def state_of(network: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer by name, without gradients; shared ones once."""
    return {name: tensor.detach() for name, tensor in [*network.named_parameters(), *network.named_buffers()]}


@torch.no_grad()
def write_state(network: nn.Module, state: State) -> None:
    """Copy a state into a network, in place.

    Raises:
        ConfigError: a tensor has another shape, or the network has none of that name.
    """
    own = state_of(network)
    for name, tensor in state.items():
        if name not in own or own[name].shape != tensor.shape:
            held = f"shape {list(own[name].shape)}" if name in own else "no such tensor"
            raise ConfigError(
                f"a transfer gave '{name}' with shape {list(tensor.shape)}; {type(network).__name__} has {held}"
            )
        own[name].copy_(tensor)


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
