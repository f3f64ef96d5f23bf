"""Benchmarks of multilevel training; here what they share: runs of the platform in this process, and their tables."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

# Nothing beside the training itself: no record, no files, no validation within the budget.
_BARE = (
    *("tracking=none", "callbacks=none", "engine.threads=1", "trainer.max_epochs=100000"),
    *("trainer.validate_every=100000", "scheduler.interval=step"),
)
# Learning rates are chosen on seeds that nothing else is measured on.
SWEEP_SEEDS = (100, 101)


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
        error: of the trained (last, not best) full network on the test split.
        work: in work units, tau and the guard of cycles included.
        seconds: CPU time of this process, from data in memory to the last step: building the hierarchy,
            matching and every change of level are in it.
    """

    error: float
    work: float
    seconds: float


def trained(overrides: Sequence[str], budget: int, metric: str = "relative_l2") -> Outcome:
    """Train what ``accelerator train <overrides>`` trains, its learning rate annealed over the whole budget.

    Args:
        overrides: of the config.
        budget: in steps of the full network.
        metric: the error to report, measured on the test split.
    """
    from accelerator.runtime.context.build import build_context
    from accelerator.runtime.context.component import build
    from accelerator.runtime.loop.evaluation import evaluate
    from accelerator.runtime.loop.train import train

    seeds = [override for override in overrides if override.startswith("seed=")]
    others = tuple(override for override in overrides if override not in seeds)
    config = deepcopy(_composed((*others, f"trainer.max_steps={budget}", f"scheduler.T_max={budget}")))
    if seeds:
        config["seed"] = int(seeds[-1].removeprefix("seed="))
    key = repr(config["data"])
    if key not in _DATA:
        _DATA[key] = build("data", config["data"], "data", imports=tuple(config["imports"]))
    config["data"] = {"_target_": "benchmarks.multilevel.prepared", "key": key}
    config["imports"] = [*config["imports"], "benchmarks"]
    begin = time.process_time()
    context = build_context(config, None)
    train(context)
    seconds = time.process_time() - begin
    return Outcome(evaluate(context, "test")[f"test/{metric}"], context.state.work, seconds)


_DATA: dict[str, Any] = {}


def prepared(key: str) -> Any:
    """Data that was made before: what a run starts from, not a part of its training."""
    return _DATA[key]


@cache
def _composed(overrides: tuple[str, ...]) -> dict[str, Any]:
    """Composed once for all seeds: it takes as long as a tenth of a short run."""
    from accelerator.cli.compose.compose import composer, plain

    with composer() as compose:
        return plain(compose([*_BARE, *overrides]))


def sweep(
    overrides: Sequence[str], rates: Iterable[float], budget: int, metric: str = "relative_l2"
) -> dict[float, float]:
    """The mean error at each learning rate, over `SWEEP_SEEDS`."""
    return {
        rate: statistics.mean(
            trained((*overrides, f"optimizer.lr={rate}", f"seed={seed}"), budget, metric).error for seed in SWEEP_SEEDS
        )
        for rate in rates
    }


def best(errors: Mapping[float, float]) -> float:
    """The learning rate of the least error."""
    return min(errors, key=errors.__getitem__)


def listed(errors: Mapping[float, float], digits: int = 4) -> str:
    """A sweep in a line, the best rate in bold."""
    entries = {rate: f"{rate:g}: {error:.{digits}f}" for rate, error in errors.items()}
    return ", ".join(f"**{entry}**" if rate == best(errors) else entry for rate, entry in entries.items())


def in_turn(candidates: Mapping[str, tuple[Sequence[str], float]], seeds: int) -> dict[str, list[Outcome]]:
    """All candidates with each seed in turn, so that a drift of the machine meets them alike.

    Args:
        candidates: overrides and budget (in its own network's steps) of each.
        seeds: how many.
    """
    runs: dict[str, list[Outcome]] = {name: [] for name in candidates}
    overrides, _ = next(iter(candidates.values()))
    trained(overrides, 1)  # what is loaded once is in nobody's time
    for seed in range(seeds):
        for name, (overrides, budget) in candidates.items():
            runs[name].append(trained((*overrides, f"seed={seed}"), round(budget)))
    return runs


def savings(plain: Outcome, runs: Sequence[Outcome]) -> tuple[float, float]:
    """Plain training's work and CPU time over those at which ever shorter runs still reach its error.

    Between two budgets interpolated; 0 if the longest run does not reach it; if the shortest does, its own, no more.

    Args:
        plain: the run to be reached.
        runs: of the same seed with descending budgets.
    """
    behind = [run.error - plain.error for run in runs]  # positive: worse than plain
    if behind[0] > 0:
        return 0.0, 0.0
    for (longer, ahead), (shorter, late) in pairwise(zip(runs, behind, strict=True)):
        if late > 0:
            way = ahead / (ahead - late)
            work = longer.work * (shorter.work / longer.work) ** way
            seconds = longer.seconds * (shorter.seconds / longer.seconds) ** way
            return plain.work / work, plain.seconds / seconds
    return plain.work / runs[-1].work, plain.seconds / runs[-1].seconds


def table(runs: Mapping[str, Sequence[Outcome]], *, digits: int = 4) -> str:
    """Every candidate's error, alone and over the first one's seed by seed, and its CPU time."""
    plain, *_ = runs.values()
    rows = []
    for name, outcomes in runs.items():
        ratio = spread([after.error / before.error for before, after in zip(plain, outcomes, strict=True)], 2)
        error = spread([outcome.error for outcome in outcomes], digits)
        seconds = statistics.median(outcome.seconds for outcome in outcomes)
        rows.append(f"| {name} | {error} | {'1' if outcomes is plain else ratio} | {seconds:.1f} |")
    return "\n".join(["| | test error | over plain's, seed by seed | CPU s |", "|---|---|---|---|", *rows])


def spread(values: Sequence[float], digits: int) -> str:
    """Median (least–largest)."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"
