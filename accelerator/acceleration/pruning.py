"""Structured pruning: whole units are removed, and what is left is a smaller network of the same classes.

A *unit* is a neuron, a channel or an attention head; which tensors it lies on is found by tracing, as for multilevel
training (`accelerator.multilevel.coupling`): its row in the layer that makes it, its entries in norms, its columns in
all that read it, and the same unit of every branch that a residual sum joins. A pruned network is a coarser level whose
units are a selection of the fine ones instead of aggregates of them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from accelerator.acceleration.importance import IMPORTANCES, unit_entries
from accelerator.errors import ConfigError, did_you_mean
from accelerator.multilevel.aggregates import Aggregates
from accelerator.multilevel.coupling import Coupling, Group, trace_coupling
from accelerator.multilevel.narrowing import narrowed
from accelerator.multilevel.tracing import Example
from accelerator.multilevel.transfer import UnitTransfer, state_of, write_state


@dataclass(frozen=True, kw_only=True)
class Prune:
    """Remove the units that matter least.

    Args:
        amount: the share of the units that goes, in (0, 1): of each group of coupled units, or of all together.
        per_layer: each group loses this share. Otherwise all units are ranked together, by importance over the mean of
            their group, and those that matter least go wherever they are.
        importance: `l2` or `l1`, the norm of all weights a unit has a part in; `random`, the control.
        round_to: each layer keeps a multiple of this many channels (or all of them); hardware likes 8 or 16.
        min_width: channels that a layer keeps at least.
        leave_out: paths of modules that keep their size.
        seed: of `random`.

    Raises:
        ConfigError: a value is out of range; all of them together.

    Source: Li et al., *Pruning Filters for Efficient ConvNets*, 2017; coupled units as groups: Fang et al., *DepGraph:
    Towards Any Structural Pruning*, 2023.
    """

    amount: float = 0.5
    per_layer: bool = True
    importance: str = "l2"
    round_to: int = 1
    min_width: int = 1
    leave_out: Collection[str] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        problems = []
        if not 0 < self.amount < 1:
            problems.append(
                f"amount={self.amount}: expected a share of the units above 0 and below 1, such as 0.5 for half of them"
            )
        if self.importance not in IMPORTANCES:
            problems.append(f"importance='{self.importance}' is unknown{did_you_mean(self.importance, IMPORTANCES)}")
        problems += [
            f"{name}={value}: expected at least 1"
            for name, value in (("round_to", self.round_to), ("min_width", self.min_width))
            if value < 1
        ]
        if problems:
            raise ConfigError(problems)

    def apply(self, network: nn.Module, example_input: Example) -> nn.Module:
        """A smaller copy of the network, with the weights of the units that are left.

        Args:
            network: any module `torch.fx` can trace; left as it is.
            example_input: a batch as the network is called with, or a sequence of positional arguments.

        Raises:
            ConfigError: the network cannot be traced, or nothing of it can be pruned; with the reasons.
        """
        try:
            coupling = trace_coupling(network, example_input, leave_out=self.leave_out)
        except ConfigError as error:
            raise ConfigError(
                problem if problem.startswith("leave_out") else f"cannot prune: {problem}" for problem in error.problems
            ) from error
        kept = self.select(network, coupling)
        if not kept:
            widths = ", ".join(f"{', '.join(group.layers)}: {group.width}" for group in coupling.free.values())
            raise ConfigError(
                f"amount={self.amount}: no unit goes, by round_to={self.round_to} and min_width={self.min_width} "
                f"(units of {widths}); ask for more, or for smaller multiples"
            )
        return selected(network, coupling, kept)

    def select(self, network: nn.Module, coupling: Coupling) -> dict[int, Tensor]:
        """The units that are kept of each group that loses some, ascending, int64.

        Args:
            network: the one the coupling was traced from.
            coupling: its groups.
        """
        generator, parameters = torch.Generator().manual_seed(self.seed), dict(network.named_parameters())
        scores = {
            number: IMPORTANCES[self.importance](unit_entries(coupling, number, parameters), generator)
            for number in coupling.free
        }
        for number, found in scores.items():
            if not found.isfinite().all():
                layers = ", ".join(coupling.groups[number].layers)
                raise ConfigError(f"the weights of {layers} are not finite: the training has diverged")
        return {
            number: _best(scores[number], size, coupling.groups[number].blocks)
            for number, size in self._sizes(coupling, scores).items()
        }

    def _sizes(self, coupling: Coupling, scores: Mapping[int, Tensor]) -> dict[int, int]:
        """How many units each group that loses some keeps."""
        leaders = {number: group for number, group in coupling.free.items() if group.follows is None}
        wanted = self._wanted(leaders, scores)
        sizes = {}
        for number, group in leaders.items():
            channels = _channels(coupling, number)
            step = math.lcm(group.blocks, self.round_to // math.gcd(self.round_to, channels))
            least = max(wanted[number], math.ceil(self.min_width / channels), 1)
            size = min(step * math.ceil(least / step), group.width)
            if size < group.width:
                sizes[number] = size
        for number, group in coupling.free.items():
            if group.follows is not None and group.follows[0] in sizes:
                leader, ratio = group.follows
                sizes[number] = ratio * sizes[leader]
        return sizes

    def _wanted(self, groups: Mapping[int, Group], scores: Mapping[int, Tensor]) -> dict[int, int]:
        """How many units each group keeps, before that is rounded."""
        if self.per_layer:
            return {number: group.width - _share(self.amount, group.width) for number, group in groups.items()}
        tiny = torch.finfo(torch.float64).tiny
        relative = {number: scores[number].cpu() / scores[number].mean().clamp_min(tiny).cpu() for number in groups}
        every = torch.cat(list(relative.values()))
        gone = every.argsort(stable=True)[: _share(self.amount, len(every))]
        lost = torch.zeros(len(every), dtype=torch.bool).index_fill_(0, gone, True)
        counts = lost.split([len(found) for found in relative.values()])
        return {number: int((~part).sum()) for number, part in zip(groups, counts, strict=True)}


def prune(
    network: nn.Module,
    example_input: Example,
    amount: float = 0.5,
    *,
    per_layer: bool = True,
    importance: str = "l2",
    round_to: int = 1,
    min_width: int = 1,
    leave_out: Collection[str] = (),
    seed: int = 0,
) -> nn.Module:
    """A smaller copy of a network without the units that matter least; see `Prune` for what each argument means.

    >>> network = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 1))
    >>> smaller = prune(network, torch.randn(2, 4), amount=0.75)
    >>> smaller[0].out_features, smaller[2].weight.shape
    (16, torch.Size([1, 16]))

    Raises:
        ConfigError: a value is out of range, the network cannot be traced, or nothing of it can be pruned.
    """
    method = Prune(
        amount=amount,
        per_layer=per_layer,
        importance=importance,
        round_to=round_to,
        min_width=min_width,
        leave_out=leave_out,
        seed=seed,
    )
    return method.apply(network, example_input)


def selected(network: nn.Module, coupling: Coupling, kept: Mapping[int, Tensor]) -> nn.Module:
    """A copy of the network with these units alone: W' = S_row W S_colᵀ, where S [kept, units] selects.

    Args:
        network: the one the coupling was traced from.
        coupling: its groups.
        kept: of each group that loses units those that stay, ascending, [kept].
    """
    widths = {number: group.width for number, group in coupling.free.items()}
    aggregates = {}
    for number, units in kept.items():
        parent, chosen = torch.zeros(widths[number], dtype=torch.int64), torch.zeros(widths[number])
        parent[units.cpu()], chosen[units.cpu()] = torch.arange(len(units)), 1.0
        aggregates[number] = Aggregates(parent, chosen, chosen)
        widths[number] = len(units)
    smaller = narrowed(network, coupling, widths)
    write_state(smaller, UnitTransfer(coupling, aggregates).restrict(state_of(network)))
    return smaller


def _best(scores: Tensor, size: int, blocks: int) -> Tensor:
    """The units with the largest scores, as many of each block, ascending; of equals the first."""
    rows = scores.view(blocks, -1)
    chosen = rows.argsort(dim=1, descending=True, stable=True)[:, : size // blocks]
    offsets = torch.arange(blocks, device=scores.device)[:, None] * rows.shape[1]
    return (chosen + offsets).flatten().sort().values


def _share(amount: float, count: int) -> int:
    """Rounded down, but for the rounding of the product itself: 0.3 of 10 is 3."""
    return math.floor(amount * count + 1e-9)


def _channels(coupling: Coupling, group: int) -> int:
    """Channels of one unit: 1, or the size of an attention head."""
    slots = (slot for slots in coupling.slots.values() for slot in slots)
    return next((slot.span.inner for slot in slots if slot.span.group == group and slot.role == "row"), 1)
