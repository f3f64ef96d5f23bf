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
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from accelerator.errors import ConfigError
from accelerator.multilevel.coupling import Coupling, Slot
from accelerator.multilevel.layout import Role, Span

Family = Literal["average", "weighted", "inject", "net2wider"]
FAMILIES: tuple[Family, ...] = ("average", "weighted", "inject", "net2wider")
Operator = Literal["P", "R"]
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


class Hop:
    """All there is between two neighbouring levels: one transfer after another, each along one axis.

    Args:
        transfers: by axis, in the order of restriction.
        keep: share of each axis's detail kept by prolongation; see `prolongate`.
    """

    def __init__(self, transfers: Mapping[str, Transfer], keep: Mapping[str, float]) -> None:
        self.transfers = dict(transfers)
        self.keep = dict(keep)

    def restrict(self, state: State, *, squared: bool = False) -> dict[str, Tensor]:
        """𝓡: from the fine level to the coarse one."""
        for transfer in self.transfers.values():
            state = transfer.restrict(state, squared=squared)
        return dict(state)

    def prolong(self, state: State, *, squared: bool = False) -> dict[str, Tensor]:
        """𝒫: from the coarse level to the fine one."""
        for transfer in reversed(self.transfers.values()):
            state = transfer.prolong(state, squared=squared)
        return dict(state)

    def prolong_transposed(self, state: State, *, squared: bool = False) -> dict[str, Tensor]:
        """𝒫ᵀ: a gradient, from the fine level to the coarse one."""
        for transfer in self.transfers.values():
            state = transfer.prolong_transposed(state, squared=squared)
        return dict(state)

    def restrict_transposed(self, state: State, *, squared: bool = False) -> dict[str, Tensor]:
        """𝓡ᵀ: a gradient, from the coarse level to the fine one."""
        for transfer in reversed(self.transfers.values()):
            state = transfer.restrict_transposed(state, squared=squared)
        return dict(state)

    def leaves_new(self, *, down: bool) -> bool:
        """Whether some entries of the level gone to have no counterpart on the level left.

        Args:
            down: towards the coarse level, where all have one.
        """
        unit = (transfer for transfer in self.transfers.values() if isinstance(transfer, UnitTransfer))
        padded = any(bool((found.r == 0).any()) for transfer in unit for found in transfer.aggregates.values())
        return not down and (padded or "own" in self.transfers)

    def counterpart(self, name: str, *, down: bool) -> str:
        """The tensor of the level left that one of the level gone to takes its step count from.

        Args:
            name: on the level gone to.
            down: towards the coarse level.
        """
        transfers = self.transfers.values()
        for transfer in reversed(transfers) if down else transfers:
            find = getattr(transfer, "counterpart", None)
            name = name if find is None else find(name, down=down)
        return name

    def prolongate(self, fine: State, coarse: State, keep: Mapping[str, float] | None = None) -> dict[str, Tensor]:
        """𝒫N_c + keep·(N₀ − 𝒫𝓡N₀), axis by axis.

        Along each axis the detail is what the restriction along this axis loses of N₀ (restricted along those before).

        Args:
            fine: N₀.
            coarse: N_c.
            keep: by axis; by default this hop's own.
        """
        keep = self.keep if keep is None else keep
        path = [fine]
        wanted = [axis for axis in self.transfers if keep.get(axis, 0.0) != 0]
        for axis, transfer in self.transfers.items() if wanted else ():
            path.append(transfer.restrict(path[-1]))
            if axis == wanted[-1]:
                break
        state = coarse
        for place, (axis, transfer) in reversed(list(enumerate(self.transfers.items()))):
            share = keep.get(axis, 0.0)
            if share == 0:
                state = transfer.prolong(state)
            elif isinstance(transfer, UnitTransfer):
                state = transfer.prolong_onto(path[place], path[place + 1], state, share)
            else:
                state = _prolong_onto(transfer, path[place], path[place + 1], state, share)
        return dict(state)


def _prolong_onto(transfer: Transfer, fine: State, restricted: State, coarse: State, keep: float) -> dict[str, Tensor]:
    """What `UnitTransfer.prolong_onto` does, for any transfer; a variance is known by BatchNorm's name for it."""
    held = transfer.prolong(restricted)
    result = {}
    for name, tensor in transfer.prolong(coarse).items():
        if not tensor.is_floating_point():
            result[name] = tensor
        elif name.endswith("running_var"):
            ratio = torch.where(held[name] > 0, fine[name] / held[name], torch.ones_like(tensor))
            result[name] = tensor * ratio**keep
        else:
            result[name] = tensor + keep * (fine[name] - held[name])
    return result


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


def _first_members(parent: Tensor) -> Tensor:
    """The first unit of each aggregate."""
    n = len(parent)
    first = torch.full((int(parent.max()) + 1,), n, device=parent.device)
    return first.scatter_reduce(0, parent, torch.arange(n, device=parent.device), "amin")


def _gather_sum(values: Tensor, parent: Tensor) -> Tensor:
    """For each unit the sum over its aggregate."""
    return torch.zeros_like(values).index_add_(0, parent, values)[parent]
