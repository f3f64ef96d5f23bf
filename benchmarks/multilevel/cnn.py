"""Coarse images first: the budget at which a cascade of resolutions reaches plain training's accuracy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from benchmarks.multilevel import SWEEP_SEEDS, Outcome, best, listed, savings, spread, table, trained

TASK = ("experiment=digits_canvas", "data.canvas=64", "model=cnn", "model.channels=[8,16,32,64]")
BUDGET = 300  # steps of plain training
BAR = 1.5
RATES = (3e-3, 1e-2, 3e-2)
CASCADE = ("multilevel=cascade", "multilevel.levels=2")
RESOLUTION = (*CASCADE, "multilevel.axes=[resolution]")
# With BUDGET over the budgets of each, ascending.
METHODS = {
    "resolution": (RESOLUTION, (1.5, 2, 3)),
    "resolution and width": ((*CASCADE, "multilevel.axes=[resolution,width]"), (2, 3, 4.5)),
}
NARROW = 0.263  # FLOPs of the network of half the channels, relative to the full one
CONTROLS = {
    f"plain, {BUDGET // 2}": ((), BUDGET / 2),
    f"half the channels alone, {BUDGET // 2}": (("model.channels=[4,8,16,32]",), BUDGET / 2 / NARROW),
    f"at 32² but for the last step, {BUDGET // 2}": ((*RESOLUTION, "multilevel.fractions=[0.999,0.001]"), BUDGET / 2),
}

HOW_SAVED = (
    "*Times less*: plain's budget over the one at which the cascade of the same seed has its error, interpolated "
    "between the budgets run; a seed whose longest cascade does not come to it counts as 0, one whose shortest does as "
    "that one's saving, no more."
)
# Trains what the overrides say with a budget, and measures it.
Error = Callable[[Sequence[str], int], Outcome]


def run(seeds: int = 5) -> str:
    """The section of the report, as Markdown."""
    rates = swept(TASK, RATES, BUDGET, _misclassified)
    task = (*TASK, f"optimizer.lr={best(rates)}")
    return "\n\n".join(
        [
            "Digits of every size in clutter on a 64² canvas, told apart by a CNN (8-16-32-64 channels, batch norm, "
            f"Adam, batch 32): plain training for {BUDGET} steps, two passes, against cascades of two levels, half of "
            "the work on each, with smaller budgets. Each run anneals its learning rate (cosine) over its own budget; "
            f"error: share misclassified of the test split by the last network; seeds 0–{seeds - 1}, the same for all, "
            "median (least–largest); one thread, CPU time of the process. The "
            "number after a name is the budget in steps of the full network at 64², by FLOPs.",
            *compared(task, BUDGET, METHODS, CONTROLS, seeds, _misclassified, f"bar: {BAR:g}"),
            f"*Learning rate*: plain training's best by the mean error of two other seeds, for all: {listed(rates)}. "
            f"{HOW_SAVED}",
        ]
    )


def swept(task: Sequence[str], rates: Sequence[float], budget: int, error: Error) -> dict[float, float]:
    """The mean error of plain training at each learning rate, over `SWEEP_SEEDS`."""
    return {
        rate: sum(error((*task, f"optimizer.lr={rate}", f"seed={seed}"), budget).error for seed in SWEEP_SEEDS)
        / len(SWEEP_SEEDS)
        for rate in rates
    }


def compared(
    task: Sequence[str],
    budget: int,
    methods: Mapping[str, tuple[Sequence[str], Sequence[float]]],
    controls: Mapping[str, tuple[Sequence[str], float]],
    seeds: int,
    error: Error,
    bar: str,
) -> tuple[str, str]:
    """What each method saves until it has plain training's error, and every run.

    Args:
        task: overrides of all.
        budget: of plain training.
        methods: overrides of each, and plain's budget over its budgets, ascending.
        controls: overrides of each, and its budget in steps of its own network.
        seeds: how many; all candidates are trained with each in turn.
        error: trains and measures.
        bar: what is asked for, in words.
    """
    plain = f"plain, {budget}"
    named = {
        name: {f"{name}, {round(budget / ratio)}": (overrides, budget / ratio) for ratio in ratios}
        for name, (overrides, ratios) in methods.items()
    }
    candidates: dict[str, tuple[Sequence[str], float]] = {plain: ((), budget)}
    for runs in named.values():
        candidates |= runs
    candidates |= controls
    found: dict[str, list[Outcome]] = {name: [] for name in candidates}
    error(task, 1)  # what is loaded once is in nobody's time
    for seed in range(seeds):
        for name, (overrides, steps) in candidates.items():
            found[name].append(error((*task, *overrides, f"seed={seed}"), round(steps)))
    lines = []
    for name, runs in named.items():
        pairs = [savings(found[plain][seed], [found[run][seed] for run in runs]) for seed in range(seeds)]
        work, seconds = zip(*pairs, strict=True)
        lines.append(f"- **{name}**: {spread(work, 2)} times less work, {spread(seconds, 2)} times less CPU time")
    return "\n".join([f"To plain training's error ({bar}):", "", *lines]), table(found)


def _misclassified(overrides: Sequence[str], budget: int) -> Outcome:
    outcome = trained(overrides, budget, "accuracy")
    return replace(outcome, error=1 - outcome.error)
