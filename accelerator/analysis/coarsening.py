"""What multilevel training and pruning can do with a network, and what they cannot, with the reasons."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from accelerator.acceleration.cost import flops_of, parameters_of
from accelerator.acceleration.pruning import prune
from accelerator.errors import AcceleratorError, ConfigError
from accelerator.multilevel.coupling import Coupling, trace_coupling
from accelerator.multilevel.depth import find_stacks
from accelerator.multilevel.hierarchy import create_network_hierarchy

AXES = ("width", "modes", "depth", "resolution")


@dataclass(frozen=True)
class Units:
    """A group of units that belong together.

    Attributes:
        layers: that make them.
        width: how many.
        axis: `width` or `modes`.
        parameters: that a network loses with one of them; None where none can go.
        kept: why their number never changes; None if it can.
    """

    layers: tuple[str, ...]
    width: int
    axis: str
    parameters: int | None
    kept: str | None


@dataclass(frozen=True)
class Smaller:
    """A smaller network of the same classes.

    Attributes:
        by: how it is made.
        parameters: how many it has.
        cost: of a step (of a forward pass, for pruning), as a share of the whole network's.
    """

    by: str
    parameters: int
    cost: float


@dataclass
class Possibilities:
    """Of a network.

    Attributes:
        groups: of units, along width and modes.
        stacks: of equal residual blocks: (path, how many).
        smaller: what can be made of it.
        refused: what cannot, (by, reasons).
    """

    groups: list[Units] = field(default_factory=list)
    stacks: list[tuple[str, int]] = field(default_factory=list)
    smaller: list[Smaller] = field(default_factory=list)
    refused: list[tuple[str, list[str]]] = field(default_factory=list)


def possibilities(model: nn.Module, example_input: Any) -> Possibilities:
    """Try every axis, and pruning, each alone; the network is left as it is.

    Args:
        model: any module.
        example_input: a batch as it is called with.
    """
    found = Possibilities()
    whole = parameters_of(model)
    for axis in AXES:
        if axis in ("width", "modes"):
            _try(f"coarser {axis}", found, lambda axis=axis: found.groups.extend(_groups(model, example_input, axis)))
            if any(by == f"coarser {axis}" for by, _ in found.refused):
                continue
        if axis == "depth":
            try:
                found.stacks = [(stack.path, stack.count) for stack in find_stacks(model)]
            except ConfigError as error:
                found.refused.append(("coarser depth", error.problems))
                continue
        _try(f"coarser {axis}", found, lambda axis=axis: found.smaller.append(_coarser(model, example_input, axis)))

    def pruned() -> None:
        smaller = prune(copy.deepcopy(model), example_input, amount=0.5)
        share = flops_of(smaller, example_input) / max(1, flops_of(model, example_input))
        found.smaller.append(Smaller("pruning half of the units", parameters_of(smaller), share))

    if any(units.kept is None and units.axis == "width" for units in found.groups):
        _try("pruning", found, pruned)
    assert parameters_of(model) == whole
    return found


def _try(by: str, found: Possibilities, act: Callable[[], None]) -> None:
    """Other errors than ours are reasons too: any network may come here."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            act()
    except ConfigError as error:
        found.refused.append((by, error.problems))
    except (AcceleratorError, RuntimeError, ValueError, TypeError, IndexError) as error:
        found.refused.append((by, [str(error).partition("\n")[0]]))


def _groups(model: nn.Module, example_input: Any, axis: Any) -> list[Units]:
    coupling = trace_coupling(model, example_input, axes=(axis,))
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    return [
        Units(
            group.layers,
            group.width,
            group.axis,
            None if group.kept else _parameters_of_unit(coupling, number, shapes),
            group.kept,
        )
        for number, group in coupling.groups.items()
    ]


def _parameters_of_unit(coupling: Coupling, group: int, shapes: dict[str, tuple[int, ...]]) -> int:
    """Entries of all parameters that lie on one unit of a group; those it shares with itself once."""
    width, total = coupling.groups[group].width, 0
    for name, slots in coupling.slots.items():
        if name not in shapes:
            continue
        # Entries that stay when one unit goes: of each dimension the share that is not the unit's.
        stays = 1.0
        for dim in {slot.dim for slot in slots}:
            entries = sum(
                slot.span.outer * width * slot.span.inner
                for slot in slots
                if slot.dim == dim and slot.span.group == group
            )
            stays *= 1 - entries / width / shapes[name][dim]
        total += round(torch.Size(shapes[name]).numel() * (1 - stays))
    return total


def _coarser(model: nn.Module, example_input: Any, axis: str) -> Smaller:
    network = create_network_hierarchy(
        copy.deepcopy(model), example_input, levels=2, axes=(axis,), generator=torch.Generator().manual_seed(0)
    )
    return Smaller(f"coarser {axis}", network.parameters[1], network.costs[1])
