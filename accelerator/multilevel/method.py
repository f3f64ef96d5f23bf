"""Multilevel methods: which levels a network gets, in which order they are trained, what is carried between them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from accelerator.errors import ConfigError, did_you_mean
from accelerator.multilevel.aggregates import Family
from accelerator.multilevel.fas import FAS, HALVINGS, SUBSETS, Tau, check_options, subset
from accelerator.multilevel.hierarchy import MultilevelNetwork, create_network_hierarchy
from accelerator.multilevel.schedule import (
    Plateau,
    Shape,
    Smoothing,
    Stage,
    cascade,
    cascade_by_epochs,
    cycles,
    full_multigrid,
    single,
)

OptimizerState = Literal["carry", "reset", "separate"]


class Single:
    """Plain training: one level, one stage."""

    optimizer_state: OptimizerState = "carry"
    share = 1.0

    def hierarchy(self, model: nn.Module, example_input: Any, generator: torch.Generator) -> MultilevelNetwork | None:
        """No coarse level."""
        return None

    def stages(self, budget: float, costs: Sequence[float], steps_per_epoch: int) -> Iterator[Stage]:
        """One stage for the whole budget (in work units)."""
        return single(budget)

    def lr_factor(self, level: int) -> float:
        """What the learning rates are multiplied by on a level."""
        return 1.0

    def plateau(self) -> Plateau | None:
        """What ends a stage early."""
        return None

    def fas(self, network: MultilevelNetwork) -> FAS | None:
        """What a cycle carries; None without cycles."""
        return None


@dataclass(kw_only=True)
class Multilevel(Single):
    """What all methods with coarse levels share: the hierarchy's options.

    Args:
        levels: how many, the full network included.
        axes: what is coarsened: ``width``, ``modes``, ``resolution``, ``depth``, alone or together.
        factor: by how much between neighbouring levels; one number, one a level, or either by axis.
        sizes: instead of a factor, the sizes on the coarser levels, by layer or axis.
        matching: which units are merged: ``heavy_edge``, ``radial_basis``, ``random``, ``identity``, or a component.
        transfer: ``average`` (keeps the function for any activation), ``weighted`` (for ReLU), ``inject`` (copy and
            pad) or ``net2wider`` (average with noise).
        keep: share of the fine network's part that the coarse level cannot see; without it merged units stay twins.
        noise: on prolonged weights, as a share of each tensor's standard deviation; null: .01 for ``net2wider``.
        min_width: no layer becomes narrower.
        leave_out: modules (dotted names) that keep their size on every level.
        sampling: of the data on coarser grids: ``area`` or ``spectral``.
        lr_factors: of each level, finest first, what the learning rates are multiplied by; null: 1.
    """

    levels: int = 3
    axes: Sequence[str] = ("width",)
    factor: float | Sequence[float] | Mapping[str, Any] = 2
    sizes: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    matching: Any = "heavy_edge"
    transfer: Family = "average"
    keep: float | Mapping[str, float] = 0.5
    noise: float | None = None
    min_width: int = 8
    leave_out: Collection[str] = ()
    sampling: str = "area"
    lr_factors: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if self.lr_factors is not None:
            if len(self.lr_factors) != self.levels:
                raise ConfigError(
                    f"multilevel.lr_factors={list(self.lr_factors)}: give one for each of the {self.levels} levels, "
                    "finest first"
                )
            if any(not factor > 0 for factor in self.lr_factors):
                raise ConfigError(f"multilevel.lr_factors={list(self.lr_factors)}: each must be above 0")

    def hierarchy(self, model: nn.Module, example_input: Any, generator: torch.Generator) -> MultilevelNetwork | None:
        """The network and its coarser copies."""
        options = {option.name: getattr(self, option.name) for option in fields(Multilevel)}
        del options["lr_factors"]
        return create_network_hierarchy(model, example_input, generator=generator, **options)

    def lr_factor(self, level: int) -> float:
        """What the learning rates are multiplied by on a level."""
        return 1.0 if self.lr_factors is None else self.lr_factors[level]


@dataclass(kw_only=True)
class Cascade(Multilevel):
    """Nested iteration: train the coarsest copy, prolong it, train the next, up to the full network.

    The solution of a coarse level is the initial guess of the next finer one: N = P N_c + keep·(N₀ − P R N₀), where R
    restricts and P prolongs between the levels and N₀ is what the finer network held: its own initialisation, or what
    the warm-up made of it.

    Args:
        fractions: each level's share of the work, coarsest first; null: half on the finest, the rest by √cost.
        level_epochs: instead of fractions, passes over the data on each coarse level, coarsest first; the finest gets
            what is left of the budget.
        warmup_epochs: passes on the full network before it is restricted for the first time.
        advance: ``budget`` goes on when a level's share is spent; ``plateau`` also when the monitored value has not
            improved for `patience` validations (what was not spent goes to the finer levels).
        patience: validations without improvement, for ``advance=plateau``.
        min_delta: relative improvement that counts, for ``advance=plateau``.
        share: of the coarse result that is taken over at prolongation, in (0, 1]; below 1 it is mixed with N₀.
        optimizer_state: ``carry`` moves the optimizer's moments along with the weights; ``reset`` starts afresh.

    Source: Brandt (1977), *Multi-level adaptive solutions to boundary-value problems*; pairing of units after Ponce,
    Li, Mao & Vassilevski (2023), *Multilevel-in-width training for deep neural network regression*; warm-up and share
    after Zou et al. (2024), *A multi-level framework for accelerating training transformer models*.
    """

    fractions: Sequence[float] | None = None
    level_epochs: Sequence[float] | None = None
    warmup_epochs: float = 0.0
    advance: Literal["budget", "plateau"] = "budget"
    patience: int = 3
    min_delta: float = 0.0
    share: float = 1.0
    optimizer_state: OptimizerState = "carry"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fractions is not None and self.level_epochs is not None:
            raise ConfigError("multilevel.fractions and multilevel.level_epochs both say how much to train: set one")
        if not 0 < self.share <= 1:
            raise ConfigError(f"multilevel.share={self.share}: must be above 0 and at most 1")
        if self.optimizer_state not in ("carry", "reset"):
            raise ConfigError(f"multilevel.optimizer_state={self.optimizer_state}: a cascade has carry or reset")

    def stages(self, budget: float, costs: Sequence[float], steps_per_epoch: int) -> Iterator[Stage]:
        """One stage a level, coarsest first, for a budget in work units."""
        warmup = self.warmup_epochs * steps_per_epoch
        if self.level_epochs is not None:
            return cascade_by_epochs(budget, costs, steps_per_epoch, self.level_epochs, warmup)
        return cascade(budget, costs, self.fractions, warmup)

    def plateau(self) -> Plateau | None:
        """What ends a stage early."""
        return Plateau(self.patience, self.min_delta) if self.advance == "plateau" else None


@dataclass(kw_only=True)
class VCycle(Multilevel):
    """V-cycles of the full approximation scheme: train fine, restrict, train coarse, add the correction.

    The defaults are what measured best at equal work: long coarse visits on many batches, without tau. With tau (and
    then few steps and batches, and a guard) the coarse levels solve what FAS prescribes; such cycles ended above plain
    training in every task measured.

    Args:
        pre: steps on each level on the way down.
        post: steps on each level on the way up.
        coarse: steps on the coarsest level.
        tau: what makes a coarse level consistent with the finer one: ``minibatch`` (one vector for each of its
            batches), ``wholeset`` (one for all of them), ``none``.
        subset: the batches that the coarse levels of a cycle see: ``next_k``, ``cycling_k`` or ``whole_set``.
        k: how many, for the first two.
        correction_scale: by which a correction is multiplied.
        line_search: choose the scale among 1, ½, ¼, ⅛ and 0 times `correction_scale` by the loss.
        guard: a correction that raises the loss by more than this share is scaled back; null: never.
        rematch_every: choose anew which units are merged, every so many cycles; null: never.
        optimizer_state: ``separate`` keeps the moments of each level from cycle to cycle, but its momentum starts anew;
            ``carry`` moves them along with the weights; ``reset`` starts afresh on every coarse visit.

    Source: Brandt (1977), *Multi-level adaptive solutions to boundary-value problems*; Ponce, Li, Mao & Vassilevski
    (2023), *Multilevel-in-width training for deep neural network regression*.
    """

    shape: ClassVar[Shape] = "v"

    pre: int = 0
    post: int = 16
    coarse: int = 64
    tau: Tau = "none"
    subset: Literal["next_k", "cycling_k", "whole_set"] = "next_k"
    k: int = 64
    correction_scale: float = 1.0
    line_search: bool = False
    guard: float | None = None
    rematch_every: int | None = None
    optimizer_state: OptimizerState = "carry"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_options(self.tau, self.correction_scale, self.guard)
        Smoothing(self.pre, self.post, self.coarse)
        if self.subset not in SUBSETS:
            raise ConfigError(f"multilevel.subset={self.subset} is unknown{did_you_mean(self.subset, SUBSETS)}")
        if self.k < 1:
            raise ConfigError(f"multilevel.k={self.k}: the coarse levels need at least one batch")
        if self.rematch_every is not None and self.rematch_every < 1:
            raise ConfigError(f"multilevel.rematch_every={self.rematch_every}: every how many cycles; null for never")

    def stages(self, budget: float, costs: Sequence[float], steps_per_epoch: int) -> Iterator[Stage]:
        """Cycles while the budget lasts (in work units)."""
        return cycles(budget, costs, self.shape, self.smoothing(steps_per_epoch))

    def smoothing(self, steps_per_epoch: int) -> Smoothing:
        """The steps of a cycle, and what they cost beside."""
        seen = steps_per_epoch if self.subset == "whole_set" else self.k
        losses = 1 + HALVINGS if self.line_search else 2 if self.guard is not None else 0
        return Smoothing(self.pre, self.post, self.coarse, 0 if self.tau == "none" else seen, seen * losses)

    def window(self, cycle: int, steps_per_epoch: int, epoch: int, batch: int) -> tuple[int, int, int]:
        """The batches of a cycle: (pass, first batch, number)."""
        return subset(self.subset, self.k, cycle, steps_per_epoch, epoch, batch)

    def fas(self, network: MultilevelNetwork) -> FAS | None:
        """What a cycle carries."""
        return FAS(network, tau=self.tau, scale=self.correction_scale, line_search=self.line_search, guard=self.guard)


class WCycle(VCycle):
    """As `VCycle`, visiting each coarser level twice as often as the one above it."""

    shape = "w"


class FCycle(VCycle):
    """As `VCycle`, each V-cycle on a level after an F-cycle on it."""

    shape = "f"


@dataclass(kw_only=True)
class FullMultigrid(VCycle):
    """FMG: nested iteration in which every level is trained by V-cycles through the coarser ones.

    Args:
        fractions: each level's share of the work, coarsest first; null: half on the finest, the rest by √cost.

    Source: Briggs, Henson & McCormick (2000), *A Multigrid Tutorial*, ch. 3.
    """

    fractions: Sequence[float] | None = None

    def stages(self, budget: float, costs: Sequence[float], steps_per_epoch: int) -> Iterator[Stage]:
        """Cycles on every level, coarsest first, for a budget in work units."""
        return full_multigrid(budget, costs, self.smoothing(steps_per_epoch), self.fractions)
