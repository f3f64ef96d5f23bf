"""Wide networks from a narrow one: the budget at which a cascade of widths reaches plain training's error."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.multilevel import best, in_turn, listed, savings, spread, sweep, table

NARROW = 256  # hidden units of the coarse level, and of the small network alone
RATES, NARROW_RATES = (5e-4, 1e-3, 2e-3, 4e-3), (4e-3, 8e-3, 1.6e-2)
INPUTS, OUTPUTS = 32, 1024  # of the default data set


@dataclass(frozen=True)
class Case:
    """A network of two hidden layers.

    Attributes:
        width: hidden units of each.
        budget: steps of plain training.
        ratios: budget over those of the cascades, ascending.
        bar: by which factor the cascade is to save work.
    """

    width: int
    budget: int
    ratios: tuple[float, ...]
    bar: float


CASES = (Case(1024, 200, (1.5, 2, 3, 4, 6), 1.5), Case(2048, 130, (2, 3, 4, 6, 10), 2.0))


def run(seeds: int = 5) -> str:
    """The section of the report, as Markdown."""
    return "\n\n".join(
        [
            "The default experiment (Poisson, 2,048 samples, two hidden layers, GELU, Adam, batch 32) on short "
            "budgets, plain training against cascades of two levels: the coarse one has "
            f"{NARROW} units a layer and gets 70 % of the work. Each run anneals its learning rate (cosine) over its "
            "own budget; error: relative L2 of the last network on the test split; seeds "
            f"0–{seeds - 1}, the same for all, median (least–largest); one thread, CPU time of the process from "
            "reading the data to the last step. A number after a name is the budget in steps of the wide network, by "
            "FLOPs.",
            *(_measured(case, seeds) for case in CASES),
            "*Learning rates* are the best of those listed, by the mean error of two other seeds; a cascade takes the "
            "wide network's on the fine level and the narrow one's on the coarse level. *Times less*: plain's budget "
            "over the one at which the cascade of the same seed has its error, interpolated between the budgets run; a "
            "seed whose longest cascade does not come to it counts as 0, one whose shortest does as that one's saving, "
            "no more. *Only the start*: plain training from where a cascade starts the fine level whose coarse level "
            "has learned nothing: what a better scale of the initial weights brings. *The narrow network alone* has "
            f"{NARROW} units a layer, the same FLOPs and a learning rate of its own: where its error is the cascade's, "
            "what was saved is the wide network's own training, not what the wide network is for.",
        ]
    )


def _measured(case: Case, seeds: int) -> str:
    wide = (f"model.hidden=[{case.width},{case.width}]",)
    narrow = (f"model.hidden=[{NARROW},{NARROW}]", "multilevel=single")
    cheaper = _flops(case.width) / _flops(NARROW)
    budgets = {ratio: round(case.budget / ratio) for ratio in case.ratios}
    some = budgets[case.ratios[2]]
    rates = sweep((*wide, "multilevel=single"), RATES, case.budget)
    narrow_rates = sweep(narrow, NARROW_RATES, round(some * cheaper))
    rate, narrow_rate = best(rates), best(narrow_rates)

    wide = (*wide, f"optimizer.lr={rate}")
    narrow = (*narrow, f"optimizer.lr={narrow_rate}")
    levels = (*wide, "multilevel=cascade", "multilevel.levels=2", f"multilevel.factor={case.width // NARROW}")
    cascade = (*levels, "multilevel.fractions=[0.7,0.3]", f"multilevel.lr_factors=[1,{narrow_rate / rate:g}]")
    start = ("multilevel.level_epochs=[0.01]", "multilevel.lr_factors=[1,1e-9]", "multilevel.optimizer_state=reset")
    plain = f"plain, {case.budget}"
    cascades = {f"cascade, {budget}": (cascade, budget) for budget in budgets.values()}
    runs = in_turn(
        {
            plain: ((*wide, "multilevel=single"), case.budget),
            **cascades,
            f"cascade, random pairs, {some}": ((*cascade, "multilevel.matching=random"), some),
            f"only the start, {case.budget}": ((*levels, *start), case.budget),
            f"the narrow network alone, {case.budget}": (narrow, case.budget * cheaper),
            f"the narrow network alone, {some}": (narrow, some * cheaper),
        },
        seeds,
    )
    narrower = [
        alone.error / cascade.error
        for alone, cascade in zip(runs[f"the narrow network alone, {some}"], runs[f"cascade, {some}"], strict=True)
    ]
    work, seconds = zip(
        *(savings(runs[plain][seed], [runs[name][seed] for name in cascades]) for seed in range(seeds)), strict=True
    )
    return "\n".join(
        [
            f"**{case.width} units**: plain training's error with {spread(work, 2)} times less work (bar: "
            f"{case.bar:g}) and {spread(seconds, 2)} times less CPU time. The narrow network alone has "
            f"{spread(narrower, 2)} times the error of the cascade of the same work ({some}). Learning rates: "
            f"{listed(rates)}; narrow network: {listed(narrow_rates)}.",
            "",
            table(runs),
        ]
    )


def _flops(width: int) -> float:
    """Of a forward pass of a sample, up to a common factor."""
    return width * (INPUTS + width + OUTPUTS)
