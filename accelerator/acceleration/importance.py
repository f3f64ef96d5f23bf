"""How much each unit of a group matters: what pruning removes is what matters least."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import groupby

import torch
from torch import Tensor

from accelerator.multilevel.coupling import Coupling

Importance = Callable[[list[Tensor], torch.Generator], Tensor]
"""From a unit's entries in each tensor it lies on, [units, entries] each, to one number a unit, [units]."""


def magnitude(norm: int) -> Importance:
    """The group's p-norm: I_u = (Σ_W Σ_i |W_{u,i}|ᵖ)^{1/p}, over all parameters W that the unit u lies on: what makes
    it (rows and biases), what scales it (norms), what reads it (columns).

    Source: the norm of a filter is Li et al., *Pruning Filters for Efficient ConvNets*, 2017; over all tensors of a
    group Fang et al., *DepGraph: Towards Any Structural Pruning*, 2023 (without their sparse training).
    """

    def importance(entries: list[Tensor], generator: torch.Generator) -> Tensor:
        total = sum((part.abs() ** norm).sum(dim=1) for part in entries)
        assert isinstance(total, Tensor)
        return total ** (1 / norm)

    return importance


def random(entries: list[Tensor], generator: torch.Generator) -> Tensor:
    """Any order at all: the control that every other importance is to be compared with."""
    return torch.rand(len(entries[0]), generator=generator, dtype=torch.float64).to(entries[0].device)


IMPORTANCES: dict[str, Importance] = {"l1": magnitude(1), "l2": magnitude(2), "random": random}


def unit_entries(coupling: Coupling, group: int, parameters: Mapping[str, Tensor]) -> list[Tensor]:
    """The entries of a group's units in each parameter they lie on: [units, entries], in float64."""
    return [part.detach().double().movedim(dim, 0).flatten(1) for part, dim in _parts(coupling, group, parameters)]


def _parts(coupling: Coupling, group: int, parameters: Mapping[str, Tensor]) -> Iterator[tuple[Tensor, int]]:
    """Each part of a parameter that lies on the group, with its units on a dimension of their own, and which."""
    for name, all_slots in coupling.slots.items():
        if name not in parameters:  # running statistics say how large a unit is, not how much it matters
            continue
        for dim, slots in groupby(all_slots, lambda slot: slot.dim):
            at = 0
            for slot in slots:
                width = coupling.groups[slot.span.group].width
                size = slot.span.outer * width * slot.span.inner
                at += slot.skip
                if slot.span.group == group:
                    part = parameters[name].narrow(dim, at, size)
                    yield part.unflatten(dim, (slot.span.outer, width, slot.span.inner)), dim + 1
                at += size
