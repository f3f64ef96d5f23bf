"""Multigrid cycles against plain training and against a cascade, all at equal work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.multilevel import best, in_turn, listed, sweep, table

BAR = 1.05  # error over plain training's
RECOMMENDED = (
    *("multilevel.pre=0", "multilevel.post=16", "multilevel.coarse=64", "multilevel.k=64", "multilevel.tau=none"),
    *("multilevel.guard=null", "multilevel.optimizer_state=carry"),
)
# Few steps on few batches, as the full approximation scheme needs it: a tau costs as much as a step on both levels.
SHORT = (
    *("multilevel.pre=4", "multilevel.post=4", "multilevel.coarse=8", "multilevel.k=4", "multilevel.guard=null"),
    "multilevel.optimizer_state=carry",
)
V, W, FMG, CASCADE = (f"multilevel={name}" for name in ("v_cycle", "w_cycle", "fmg", "cascade"))
METHODS = {
    "V-cycles": (V, *RECOMMENDED),
    "W-cycles (of three levels, they are F-cycles too)": (W, *RECOMMENDED),
    "full multigrid": (FMG, *RECOMMENDED),
    "V-cycles, moments a level": (V, *RECOMMENDED, "multilevel.optimizer_state=separate"),
    "short V-cycles": (V, *SHORT, "multilevel.tau=none"),
    "short V-cycles, tau": (V, *SHORT, "multilevel.tau=minibatch"),
    "cascade": (CASCADE,),
}


@dataclass(frozen=True)
class Task:
    """What is trained, and how.

    Attributes:
        title: of its table.
        overrides: of the config.
        levels: overrides of the hierarchy.
        budget: steps of plain training.
        rates: learning rates plain training is tried at.
        methods: compared with it.
    """

    title: str
    overrides: tuple[str, ...]
    levels: tuple[str, ...]
    budget: int
    rates: tuple[float, ...]
    methods: Sequence[str]


WIDE = ("model.hidden=[1024,1024]",)
TASKS = (
    Task(
        "The default experiment (1024-1024 network, Adam, three levels of width)",
        WIDE,
        ("multilevel.levels=3",),
        160,
        (5e-4, 1e-3, 2e-3, 4e-3),
        list(METHODS),
    ),
    Task(
        "The same with SGD, momentum 0.9",
        (*WIDE, "optimizer=sgd"),
        ("multilevel.levels=3",),
        160,
        (0.25, 0.5, 1.0, 2.0),
        ["V-cycles", "V-cycles, moments a level", "short V-cycles, tau", "cascade"],
    ),
    Task(
        "Poisson fields by a Fourier neural operator (16 channels, 8 modes, Adam, two levels of modes and grid)",
        (
            *("experiment=poisson_fno", "model.width=16", "model.modes=8", "model.layers=3", "model.projection=64"),
            "loader.batch_size=16",
        ),
        ("multilevel.levels=2", "multilevel.axes=[modes,resolution]"),
        90,
        (1e-2, 2e-2, 4e-2),
        ["V-cycles", "full multigrid", "short V-cycles, tau", "cascade"],
    ),
)


def run(seeds: int = 5) -> str:
    """The section of the report, as Markdown."""
    return "\n\n".join(
        [
            "All runs of a table do the same work, in steps of the full network by FLOPs, gradients for tau and losses "
            "for the guard included, and anneal the learning rate (cosine) over it. Error: relative L2 of the last "
            f"network on the test split; seeds 0–{seeds - 1}, the same for all, median (least–largest); one thread, "
            "CPU time of the process from reading the data to the last step.",
            f"The cycles: `{' '.join(RECOMMENDED)}`; the *short* ones: `{' '.join(SHORT)}`, with `multilevel.tau=none` "
            "or `minibatch`; *moments a level*: `multilevel.optimizer_state=separate`. The learning rate of all is "
            "plain training's best of those listed, by the mean error of two other seeds. Bar: V-cycles within "
            f"{BAR - 1:.0%} of plain training on at least one task.",
            *(_measured(task, seeds) for task in TASKS),
        ]
    )


def _measured(task: Task, seeds: int) -> str:
    plain = (*task.overrides, "multilevel=single")
    rates = sweep(plain, task.rates, task.budget)
    rate = f"optimizer.lr={best(rates)}"
    methods = {name: ((*task.overrides, *METHODS[name], *task.levels, rate), task.budget) for name in task.methods}
    runs = in_turn({"plain": ((*plain, rate), task.budget), **methods}, seeds)
    return "\n".join(
        [
            f"**{task.title}**, {task.budget} steps of work. Learning rates: {listed(rates)}.",
            "",
            table(runs),
        ]
    )
