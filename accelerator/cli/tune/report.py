"""What a study says of itself: a line for each trial, and a table at the end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from accelerator.tuning.base import Plan, State, TrialOutcome, best_of, better
from accelerator.tuning.distributions import brief

ROWS = 20  # of the table; the others are in study.json


def line_of(outcome: TrialOutcome, objectives: Mapping[str, str]) -> str:
    """One trial in one line."""
    tried = " ".join(f"{key}={brief(value)}" for key, value in outcome.values.items())
    again = f", trial {outcome.retry_of} again" if outcome.retry_of is not None else ""
    return f"trial {outcome.number}: {said_of(outcome, objectives)} · {tried}{again}"


def said_of(outcome: TrialOutcome, objectives: Mapping[str, str]) -> str:
    """What became of a trial, in words."""
    if outcome.state is State.COMPLETE:
        return ", ".join(f"{name} {score:.5g}" for name, score in zip(objectives, outcome.scores or (), strict=True))
    if outcome.state is State.PRUNED:
        step, value = max(outcome.reports.items()) if outcome.reports else (0, math.nan)
        return f"pruned in pass {step} at {next(iter(objectives))} {value:.5g}"
    if outcome.state is State.STOPPED and outcome.error:
        return outcome.error
    return f"{outcome.state}: {outcome.error}" if outcome.error else str(outcome.state)


def counts(outcomes: Sequence[TrialOutcome]) -> dict[str, int]:
    """How many trials ended in which way."""
    return {str(state): number for state in State if (number := sum(one.state is state for one in outcomes))}


def print_study(outcomes: Sequence[TrialOutcome], plan: Plan, shares: Mapping[str, Mapping[str, float]]) -> None:
    """The best trials, how the others ended, and what mattered."""
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:  # a pipe has no width of its own: columns are not folded there
        console = Console(highlight=False, soft_wrap=True, width=1000)
    objectives = plan.objectives
    keys = list(dict.fromkeys(parameter.key for parameter in plan.space.parameters))
    best = best_of(outcomes, objectives)
    shown = ranked(outcomes, objectives)[:ROWS]
    title = f"Study {plan.name}" + (f": the best {ROWS} of {len(outcomes)} trials" if len(outcomes) > ROWS else "")
    table = Table("trial", *objectives, *keys, "status", "seconds", title=title, title_justify="left")
    mark = " ← best" if len(objectives) == 1 else " ← Pareto front"
    for one in shown:
        scores = [f"{score:.5g}" for score in one.scores] if one.scores else []
        table.add_row(
            str(one.number),
            *(scores + ["–"] * (len(objectives) - len(scores))),
            *(brief(one.values[key]) if key in one.values else "" for key in keys),
            f"{one.state}{mark if one in best else ''}",
            "–" if one.seconds is None else f"{one.seconds:.1f}",
        )
    console.print(table)
    told = [f"{number} {state}" for state, number in counts(outcomes).items()]
    console.print(f"{len(outcomes)} {'trial' if len(outcomes) == 1 else 'trials'}: {', '.join(told)}")
    for name, parts in shares.items():
        parts = sorted(parts.items(), key=lambda part: -part[1])
        console.print(f"what mattered for {name}: " + ", ".join(f"{key} {share:.0%}" for key, share in parts))


def ranked(outcomes: Sequence[TrialOutcome], objectives: Mapping[str, str]) -> list[TrialOutcome]:
    """The best first; what was pruned or failed after what ran to its end."""
    best = best_of(outcomes, objectives)
    order = [State.COMPLETE, State.PRUNED, State.RUNNING, State.WAITING, State.FAILED, State.STOPPED]
    sign = -1.0 if next(iter(objectives.values())) == "max" else 1.0

    def rank(one: TrialOutcome) -> tuple[Any, ...]:
        return (one not in best, order.index(one.state), sign * one.scores[0] if one.scores else 0.0, one.number)

    return sorted(outcomes, key=rank)


def history(outcomes: Sequence[TrialOutcome], mode: str) -> list[tuple[int, float]]:
    """The best value so far, by trial."""
    is_better, found, best = better(mode), [], None
    for one in outcomes:
        if one.state is State.COMPLETE and one.scores and (best is None or is_better(one.scores[0], best)):
            best = one.scores[0]
            found.append((one.number, best))
    return found
