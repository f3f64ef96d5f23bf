"""Schedules of multilevel training: pure generators of stages, without torch.

A training run is a sequence of stages; a stage spends some work on one level. Work is counted in *work units*:
1 WU is one forward and backward pass of one batch on the finest level, so a step on a level of relative cost c
spends c WU, and two schedules of the same budget have done the same work.

Between two stages the run goes through every level in between. Coming down, the finer network is restricted; coming up,
nested iteration prolongates the coarse network in the finer one's place, while a cycle (`Stage.cycle`) adds the change
that the coarse level made to it, as a correction, and gives the coarse level a tau on its way down (`fas.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from accelerator.errors import ConfigError

Shape = Literal["v", "w", "f"]


@dataclass(frozen=True)
class Stage:
    """Work spent on one level without a change of level.

    Args:
        level: 0 is the finest.
        work: in work units, what getting there costs (`overhead`) not included.
        steps: if it is a number of steps that was asked for; else as many as the work allows.
        cycle: the level is entered as part of a cycle: downwards with tau, upwards by a correction.
        overhead: work units spent on entering the level: gradients for tau, losses for the guard.
    """

    level: int
    work: float
    steps: int | None = None
    cycle: bool = False
    overhead: float = 0.0


@dataclass(frozen=True)
class Smoothing:
    """The steps of a cycle.

    Args:
        pre: on each level before going to a coarser one.
        post: on each level after the correction from a coarser one.
        coarse: on the coarsest level.
        tau_batches: batches whose gradients make up tau; 0 without tau.
        guard_losses: losses of a batch that are computed at a correction; 0 without guard and line search.

    Raises:
        ConfigError: a number is negative, or no level would be trained.
    """

    pre: int = 4
    post: int = 4
    coarse: int = 8
    tau_batches: int = 0
    guard_losses: int = 0

    def __post_init__(self) -> None:
        for name in ("pre", "post", "coarse"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}={getattr(self, name)}: a number of steps cannot be negative")
        if self.coarse == 0:
            raise ConfigError("coarse=0: without steps on the coarsest level a cycle does nothing there")
        if self.pre + self.post == 0:
            raise ConfigError("pre=0 and post=0: without steps on the finest level a cycle passes no data; set one")


def single(budget: float) -> Iterator[Stage]:
    """Plain training: the whole budget on level 0.

    >>> list(single(100.0))
    [Stage(level=0, work=100.0, steps=None, cycle=False, overhead=0.0)]

    Raises:
        ConfigError: the budget is not a positive number.
    """
    _check_budget(budget)
    yield Stage(0, float(budget))


def cascade(
    budget: float, costs: Sequence[float], fractions: Sequence[float] | None = None, warmup: float = 0.0
) -> Iterator[Stage]:
    """Nested iteration: from the coarsest level to the finest, each visited once.

    >>> [(stage.level, stage.work) for stage in cascade(100.0, (1.0, 0.4, 0.1), (0.25, 0.25, 0.5))]
    [(2, 25.0), (1, 25.0), (0, 50.0)]

    With a warm-up the finest level is trained first, then restricted: 0 · 2 · 1 · 0.

    Args:
        budget: in work units, the warm-up included.
        costs: of a step on each level, finest first; one level is plain training.
        fractions: each level's share of what the warm-up leaves, **in the order run, coarsest first**; positive, of
            sum 1. By default `default_fractions`.
        warmup: work units on the finest level before the first restriction.

    Raises:
        ConfigError: the budget or the fractions cannot be used.

    Source: nested iteration is Brandt (1977), *Multi-level adaptive solutions to boundary-value problems*, §1; the
    warm-up is Zou et al. (2024), *A Multi-Level Framework for Accelerating Training Transformer Models*.
    """
    _check_budget(budget)
    levels = len(costs)
    if levels < 1:
        raise ConfigError("costs=[]: a cascade needs at least one level")
    shares = default_fractions(costs) if fractions is None else tuple(fractions)
    if len(shares) != levels:
        raise ConfigError(
            f"fractions={list(shares)} has {len(shares)} entries for {levels} levels: give one a level, coarsest first"
        )
    if not all(share > 0 for share in shares) or not math.isclose(sum(shares), 1.0, abs_tol=1e-6):
        raise ConfigError(f"fractions={list(shares)} must be positive and add up to 1; they add up to {sum(shares):g}")
    left = _after_warmup(budget, warmup)
    if warmup > 0:
        yield Stage(0, warmup)
    total = sum(shares)
    for level, share in zip(reversed(range(levels)), shares, strict=True):
        yield Stage(level, left * share / total)


def cascade_by_epochs(
    budget: float,
    costs: Sequence[float],
    steps_per_epoch: int,
    level_epochs: Sequence[float],
    warmup: float = 0.0,
) -> Iterator[Stage]:
    """Nested iteration with passes over the data on each coarse level; the finest gets all that is left.

    >>> [(stage.level, stage.steps) for stage in cascade_by_epochs(100, (1.0, 0.25), 10, level_epochs=(4,))]
    [(1, 40), (0, None)]

    Args:
        budget: in work units.
        costs: of a step on each level, finest first.
        steps_per_epoch: batches in one pass.
        level_epochs: passes on each coarse level, coarsest first.
        warmup: work units on the finest level before the first restriction.

    Raises:
        ConfigError: numbers that do not fit, or nothing is left for the finest level.
    """
    _check_budget(budget)
    if len(level_epochs) != len(costs) - 1:
        raise ConfigError(
            f"level_epochs={list(level_epochs)}: give one number for each of the {len(costs) - 1} coarse levels, "
            "coarsest first; the finest level gets what is left of the budget"
        )
    if any(not epochs > 0 for epochs in level_epochs):
        raise ConfigError(f"level_epochs={list(level_epochs)}: each must be above 0")
    left = _after_warmup(budget, warmup)
    stages = []
    for level, epochs in zip(reversed(range(1, len(costs))), level_epochs, strict=True):
        steps = max(1, round(epochs * steps_per_epoch))
        stages.append(Stage(level, steps * costs[level], steps))
        left -= stages[-1].work
    if left < 1:
        raise ConfigError(
            f"level_epochs={list(level_epochs)} spend {budget - left:.6g} work units of a budget of {budget:g}: "
            "nothing is left for the finest level; ask for fewer, or for more trainer.max_epochs"
        )
    if warmup > 0:
        yield Stage(0, warmup)
    yield from stages
    yield Stage(0, left)


def cycles(
    budget: float, costs: Sequence[float], shape: Shape = "v", smoothing: Smoothing | None = None
) -> Iterator[Stage]:
    """V-, W- or F-cycles, one after another while the budget lasts; what is left goes to the finest level.

    >>> [stage.level for stage in cycles(50, (1.0, 0.25, 0.1), "v", Smoothing(4, 4, 8))][:10]
    [0, 1, 2, 1, 0, 0, 1, 2, 1, 0]
    >>> [stage.level for stage in cycles(13, (1.0, 0.25, 0.1), "w", Smoothing(4, 4, 8))][:7]
    [0, 1, 2, 1, 2, 1, 0]

    Args:
        budget: in work units, tau and the guard included.
        costs: of a step on each level, finest first.
        shape: `v` visits each coarser level once; `w` twice; `f` is a V-cycle after a recursive F-cycle.
        smoothing: steps and what they cost beside.

    Raises:
        ConfigError: the budget does not suffice for one cycle, or there is one level.

    Source: Brandt (1977), *Multi-level adaptive solutions to boundary-value problems*; Briggs, Henson & McCormick
    (2000), *A Multigrid Tutorial*, ch. 3 and 6 (FAS).
    """
    _check_budget(budget)
    smoothing = smoothing or Smoothing()
    _check_levels(costs, shape)
    one = list(_cycle(0, costs, shape, smoothing))
    spent = sum(stage.work + stage.overhead for stage in one)
    if spent > budget:
        raise ConfigError(
            f"one {shape.upper()}-cycle costs {spent:.6g} work units, the budget is {budget:g}: fewer pre, post or "
            "coarse steps, fewer tau batches, or more trainer.max_epochs"
        )
    number = int(budget / spent + 1e-9)
    for _ in range(number):
        yield from one
    if (left := budget - number * spent) >= 1:
        yield Stage(0, left)


def full_multigrid(
    budget: float, costs: Sequence[float], smoothing: Smoothing | None = None, fractions: Sequence[float] | None = None
) -> Iterator[Stage]:
    """FMG: nested iteration in which every level is trained by V-cycles through the coarser ones.

    2 · 1 2 1 · 0 1 2 1 0, with as many cycles on each level as its share of the budget pays for (at least one).

    Args:
        budget: in work units.
        costs: of a step on each level, finest first.
        smoothing: steps and what they cost beside.
        fractions: each level's share, coarsest first; as of `cascade`.

    Raises:
        ConfigError: a level's share does not suffice for one cycle.

    Source: Briggs, Henson & McCormick (2000), *A Multigrid Tutorial*, ch. 3.
    """
    smoothing = smoothing or Smoothing()
    _check_levels(costs, "fmg")
    for nested in cascade(budget, costs, fractions):
        if nested.level == len(costs) - 1:
            yield nested
            continue
        one = list(_cycle(nested.level, costs, "v", smoothing))
        spent = sum(stage.work + stage.overhead for stage in one)
        number = int(nested.work / spent + 1e-9)
        if number < 1:
            raise ConfigError(
                f"one V-cycle from level {nested.level} costs {spent:.6g} work units, its share of the budget is "
                f"{nested.work:.6g}: fewer pre, post or coarse steps, or more trainer.max_epochs"
            )
        for _ in range(number):
            yield from one
        if (left := nested.work - number * spent) >= costs[nested.level]:
            yield Stage(nested.level, left)


def _cycle(level: int, costs: Sequence[float], shape: str, smoothing: Smoothing) -> Iterator[Stage]:
    """One cycle from `level` down and back. The first stage is on `level` itself and entered as before."""

    def stage(at: int, steps: int, *, down: bool, first: bool = False) -> Stage:
        if first:
            overhead = 0.0
        elif down:
            overhead = smoothing.tau_batches * (costs[at - 1] + costs[at])
        else:
            # A forward pass is a third of a forward and backward pass.
            overhead = smoothing.guard_losses * costs[at] / 3
        return Stage(at, steps * costs[at], steps, not first, overhead)

    def descend(at: int, kind: str) -> Iterator[Stage]:
        """From the pre-smoothing of level `at` (not included) to its last correction and post-smoothing."""
        coarser = at + 1
        if coarser == len(costs) - 1:
            yield stage(coarser, smoothing.coarse, down=True)
        else:
            visits = {"v": ("v",), "w": ("w", "w"), "f": ("f", "v")}[kind]
            yield stage(coarser, smoothing.pre, down=True)
            for inner in visits:
                yield from descend(coarser, inner)
        yield stage(at, smoothing.post, down=False)

    yield stage(level, smoothing.pre, down=True, first=True)
    yield from descend(level, shape)


def default_fractions(costs: Sequence[float]) -> tuple[float, ...]:
    """Half of the work on the finest level, the rest on the coarser ones in proportion to √cost (coarsest first).

    In equal parts, a level that costs next to nothing would take more steps than it can use, and most of the time.

    >>> [round(share, 2) for share in default_fractions((1.0, 0.25, 0.0625))]
    [0.17, 0.33, 0.5]
    """
    roots = [math.sqrt(cost) for cost in reversed(costs[1:])]
    return (*(0.5 * root / sum(roots) for root in roots), 0.5 if roots else 1.0)


def steps_of(stages: Iterable[Stage], costs: Sequence[float]) -> list[int]:
    """The whole number of steps of each stage.

    What rounding leaves over (or overspends) in a stage is handed to the next one, so the total spent differs from the
    budget by at most half a step of the last stage, unless a stage is too short for its one step.

    >>> steps_of(cascade(10.0, (1.0, 0.3), (0.5, 0.5)), costs=(1.0, 0.3))
    [17, 5]

    Args:
        stages: in the order run.
        costs: of a step on each level relative to level 0, finest first.

    Returns:
        For each stage its number of steps: what it asks for, else at least 1.

    Raises:
        ConfigError: a stage is on a level without a cost, or a cost is not positive.
    """
    if bad := [cost for cost in costs if not (cost > 0 and math.isfinite(cost))]:
        raise ConfigError(f"costs={list(costs)}: the cost of a step must be a positive number, not {bad[0]}")
    steps: list[int] = []
    left_over = 0.0
    for stage in stages:
        if not 0 <= stage.level < len(costs):
            raise ConfigError(f"a stage is on level {stage.level}, but the hierarchy has {len(costs)} levels")
        if stage.steps is not None:
            steps.append(stage.steps)
            continue
        cost = costs[stage.level]
        available = stage.work + left_over
        steps.append(max(1, math.floor(available / cost + 0.5)))
        left_over = available - steps[-1] * cost
    return steps


class Plateau:
    """Tells when a level has stopped improving.

    Args:
        patience: validations without improvement before it is given up.
        min_delta: an improvement is relative to the best: better than best·(1 − min_delta).
    """

    def __init__(self, patience: int, min_delta: float = 0.0) -> None:
        if patience < 1:
            raise ConfigError(f"patience={patience}: expected at least 1 validation")
        if not 0 <= min_delta < 1:
            raise ConfigError(f"min_delta={min_delta}: a relative improvement, in [0, 1)")
        self.patience, self.min_delta = patience, min_delta
        self.start()

    def start(self) -> None:
        """A new level."""
        self.best, self.waited = math.inf, 0

    def reached(self, value: float) -> bool:
        """Take the next value (smaller is better); whether patience is at its end."""
        if value < self.best - self.min_delta * abs(self.best) or math.isinf(self.best):
            self.best, self.waited = value, 0
        else:
            self.waited += 1
        return self.waited >= self.patience

    def state_dict(self) -> dict[str, float]:
        """Plain values."""
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Take back what `state_dict` returned."""
        self.best, self.waited = state["best"], int(state["waited"])


def _after_warmup(budget: float, warmup: float) -> float:
    if not 0 <= warmup < budget:
        raise ConfigError(f"a warm-up of {warmup:g} work units leaves nothing of a budget of {budget:g}")
    return budget - warmup


def _check_levels(costs: Sequence[float], name: str) -> None:
    if len(costs) < 2:
        raise ConfigError(f"a {name}-cycle needs at least 2 levels, the hierarchy has {len(costs)}")


def _check_budget(budget: float) -> None:
    if not (budget > 0 and math.isfinite(budget)):
        raise ConfigError(f"budget={budget}: the work budget must be a positive number of work units")
