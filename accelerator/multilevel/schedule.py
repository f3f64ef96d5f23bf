"""Schedules of multilevel training: pure generators of stages, without torch.

A training run is a sequence of stages; a stage spends some work on one level. Work is counted in *work units*:
1 WU is one forward and backward pass of one batch on the finest level, so a step on a level of relative cost c
spends c WU, and two schedules of the same budget have done the same work.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from accelerator.errors import ConfigError


@dataclass(frozen=True)
class Stage:
    """Work spent on one level without a change of level.

    Args:
        level: 0 is the finest.
        work: in work units.
    """

    level: int
    work: float


def single(budget: float) -> Iterator[Stage]:
    """Plain training: the whole budget on level 0.

    >>> list(single(100.0))
    [Stage(level=0, work=100.0)]

    Raises:
        ConfigError: the budget is not a positive number.
    """
    _check_budget(budget)
    yield Stage(0, float(budget))


def cascade(budget: float, levels: int, fractions: Sequence[float] | None = None) -> Iterator[Stage]:
    """Nested iteration: from the coarsest level to the finest, each visited once.

    >>> list(cascade(100.0, 3, (0.25, 0.25, 0.5)))
    [Stage(level=2, work=25.0), Stage(level=1, work=25.0), Stage(level=0, work=50.0)]

    Args:
        budget: in work units.
        levels: how many levels there are, the finest included; 1 is plain training.
        fractions: each level's share of the budget **in the order run, coarsest first**; positive, of sum 1.
            By default `default_fractions`.

    Raises:
        ConfigError: the budget, the levels or the fractions cannot be used.

    Source: nested iteration is Brandt (1977), *Multi-level adaptive solutions to boundary-value problems*, §1.
    """
    _check_budget(budget)
    if levels < 1:
        raise ConfigError(f"levels={levels}: a cascade needs at least one level")
    shares = default_fractions(levels) if fractions is None else tuple(fractions)
    if len(shares) != levels:
        raise ConfigError(
            f"fractions={list(shares)} has {len(shares)} entries for {levels} levels: give one a level, coarsest first"
        )
    if not all(share > 0 for share in shares) or not math.isclose(sum(shares), 1.0, abs_tol=1e-6):
        raise ConfigError(f"fractions={list(shares)} must be positive and add up to 1; they add up to {sum(shares):g}")
    total = sum(shares)
    for level, share in zip(reversed(range(levels)), shares, strict=True):
        yield Stage(level, budget * share / total)


def default_fractions(levels: int) -> tuple[float, ...]:
    """Half of the work on the finest level, the rest in equal parts on the coarser ones (coarsest first)."""
    if levels == 1:
        return (1.0,)
    return (0.5 / (levels - 1),) * (levels - 1) + (0.5,)


def steps_of(stages: Iterable[Stage], costs: Sequence[float]) -> list[int]:
    """The whole number of steps of each stage.

    What rounding leaves over (or overspends) in a stage is handed to the next one, so the total spent differs from the
    budget by at most half a step of the last stage, unless a stage is too short for its one step.

    >>> steps_of(cascade(10.0, 2, (0.5, 0.5)), costs=(1.0, 0.3))
    [17, 5]

    Args:
        stages: in the order run.
        costs: of a step on each level relative to level 0, finest first.

    Returns:
        For each stage its number of steps, at least 1.

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
        cost = costs[stage.level]
        available = stage.work + left_over
        steps.append(max(1, math.floor(available / cost + 0.5)))
        left_over = available - steps[-1] * cost
    return steps


def _check_budget(budget: float) -> None:
    if not (budget > 0 and math.isfinite(budget)):
        raise ConfigError(f"budget={budget}: the work budget must be a positive number of work units")
