"""Multilevel methods: which levels a network gets, and in which order they are trained."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from accelerator.multilevel.hierarchy import MultilevelNetwork, create_network_hierarchy
from accelerator.multilevel.schedule import Stage, cascade, single
from accelerator.multilevel.transfer import Family


class Single:
    """Plain training: one level, one stage."""

    def hierarchy(self, model: nn.Module, example_input: Any, generator: torch.Generator) -> MultilevelNetwork | None:
        """No coarse level."""
        return None

    def stages(self, budget: float) -> Iterator[Stage]:
        """One stage for the whole budget (in work units)."""
        return single(budget)


class Cascade:
    """Nested iteration over width: train the narrowest copy, prolong it, train the next, up to the full network.

    The solution of a coarse level is the initial guess of the next finer one: N = P N_c + keep·(N₀ − P R N₀), where R
    restricts and P prolongs between the levels and N₀ is the finer network's own initialisation.

    Args:
        levels: how many, the full network included.
        factor: by which each level's hidden widths are divided.
        fractions: each level's share of the work, coarsest first; None: half on the finest, the rest shared equally.
        matching: which units are merged: ``heavy_edge``, ``random`` or ``identity``.
        transfer: ``average`` (keeps the function for any activation) or ``weighted`` (for ReLU).
        keep: share of the initialisation's part that the coarse level cannot see; without it merged units stay twins.
        min_width: no layer becomes narrower.
        leave_out: modules (dotted names) that keep their width on every level.

    Source: Brandt (1977), *Multi-level adaptive solutions to boundary-value problems*; pairing of units after Ponce,
    Li, Mao & Vassilevski (2023), *Multilevel-in-width training for deep neural network regression*.
    """

    def __init__(
        self,
        levels: int = 3,
        factor: int = 2,
        fractions: Sequence[float] | None = None,
        matching: str = "heavy_edge",
        transfer: Family = "average",
        keep: float = 0.5,
        min_width: int = 8,
        leave_out: Collection[str] = (),
    ) -> None:
        self.levels, self.fractions = levels, fractions
        self._options: dict[str, Any] = {
            "levels": levels,
            "factor": factor,
            "matching": matching,
            "transfer": transfer,
            "keep": keep,
            "min_width": min_width,
            "leave_out": leave_out,
        }

    def hierarchy(self, model: nn.Module, example_input: Any, generator: torch.Generator) -> MultilevelNetwork | None:
        """The network and its narrowed copies."""
        return create_network_hierarchy(model, example_input, generator=generator, **self._options)

    def stages(self, budget: float) -> Iterator[Stage]:
        """One stage a level, coarsest first, for a budget in work units."""
        return cascade(budget, self.levels, self.fractions)
