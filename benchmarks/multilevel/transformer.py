"""A small language model trained from coarse copies: the budget at which it reaches plain training's loss."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.multilevel import Outcome, best, listed, trained
from benchmarks.multilevel.cnn import HOW_SAVED, compared, swept

TASK = ("experiment=text", "scheduler=cosine")
BUDGET = 240  # steps of plain training
EPOCH = 292  # steps in a pass
RATES = (1.5e-3, 3e-3, 6e-3)
CASCADE = ("multilevel=cascade", "multilevel.levels=2")
DEPTH, WIDTH, BOTH = (f"multilevel.axes=[{axes}]" for axes in ("depth", "width", "width,depth"))
# Trained a little, made smaller, trained, and half of the result taken over: no fine detail is added back.
COALESCING = ("multilevel.share=0.5", "multilevel.keep=0", f"multilevel.warmup_epochs={0.05 * BUDGET / EPOCH:.4f}")
# With BUDGET over the budgets of each, ascending.
METHODS = {
    "cascade, depth": ((*CASCADE, DEPTH), (1.25, 1.5)),
    "cascade, width": ((*CASCADE, WIDTH), (1.5, 2)),
    "cascade, depth and width": ((*CASCADE, BOTH, "multilevel.fractions=[0.75,0.25]"), (2, 3)),
    "coalescing, depth and width": ((*CASCADE, BOTH, *COALESCING), (1.25, 1.5, 2)),
}
SMALL = 0.137  # FLOPs of the network of half the width and depth, relative to the full one
CONTROLS = {
    f"plain, {BUDGET // 2}": ((), BUDGET / 2),
    f"the small network alone, {BUDGET // 3}": (
        ("model.width=32", "model.heads=2", "model.blocks=2"),
        BUDGET / 3 / SMALL,
    ),
}


def run(seeds: int = 5) -> str:
    """The section of the report, as Markdown."""
    rates = swept(TASK, RATES, BUDGET, _loss)
    task = (*TASK, f"optimizer.lr={best(rates)}")
    return "\n\n".join(
        [
            "The next character of Python's reference (blocks of 64) by a transformer of 4 blocks, 64 channels, 4 "
            f"heads (AdamW, batch 16): plain training for {BUDGET} steps, {BUDGET / EPOCH:.1f} of a pass, against "
            "training that begins with half the blocks, half the channels and heads, or both, with smaller budgets. "
            "Each run anneals its learning rate (cosine) over its own budget; error: cross-entropy (nats) of the test "
            f"split; seeds 0–{seeds - 1}, the same for all, median (least–largest); one thread, CPU time of the "
            "process from reading the text to the last step. The number after a name is the budget in steps of the "
            "full network, by FLOPs.",
            *compared(task, BUDGET, METHODS, CONTROLS, seeds, _loss, "published by Zou et al., 2024: 1.25 to 2.07"),
            f"*Learning rate*: plain training's best by the mean error of two other seeds, for all: {listed(rates)}. "
            f"*Coalescing*: the full network is trained for {0.05 * BUDGET:g} steps, restricted, and at the end mixed "
            f"half and half with what the small one became. {HOW_SAVED} *The small network alone* (half of everything) "
            "is the other way to spend so little work; where its error is the lowest, the budget is too short for the "
            "full network, however it is trained.",
        ]
    )


def _loss(overrides: Sequence[str], budget: int) -> Outcome:
    return trained(overrides, budget, "loss")
