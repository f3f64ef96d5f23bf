"""Train functions, good and bad."""

import os
import signal

import torch

from accelerator.experiment import TrainingContext, TrainingResult


def parabola(ctx: TrainingContext) -> TrainingResult:
    """(x − 2)², approached in steps that halve the distance."""
    value = 0.0
    for step in range(ctx.hyperparameters.get("steps", 4)):
        value = (ctx.hyperparameters["x"] - 2) ** 2 + 2.0**-step
        ctx.tracker.log_metric("height", torch.tensor(value, requires_grad=True), step)
        ctx.report(value, step)
        if ctx.should_stop:
            break
    path = ctx.checkpoint_dir / "x.txt"
    path.write_text(str(ctx.hyperparameters["x"]))
    return TrainingResult(
        torch.tensor(value), "height", metrics={"x": torch.ones(())}, best_model_path=path, epochs_completed=4
    )


def signalled(ctx):
    """Is asked to stop in the middle, and does."""
    for step in range(1000):
        if ctx.should_stop:
            return TrainingResult(float(step))
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
    return TrainingResult(-1.0)


def forking(ctx):
    """Leaves a child that returns as if it were the training, and one that raises."""
    for fails in (False, True):
        if (child := os.fork()) == 0:
            if fails:
                raise RuntimeError("the child's own")
            return TrainingResult(99.0)
        os.waitpid(child, 0)
    return TrainingResult(2.0)


def nothing(ctx):
    """Returns nothing."""


def a_number(ctx):
    """Returns a number."""
    return 0.5


def not_a_number(ctx):
    """Returns NaN."""
    return TrainingResult(float("nan"), "loss")


def text(ctx):
    """Returns text."""
    return TrainingResult("low")


def no_model(ctx):
    """Names a file that is not there."""
    return TrainingResult(1.0, best_model_path="/nowhere/best.pt")


def failing(ctx):
    """Raises."""
    raise RuntimeError("boom")


def two(a, b):
    """Takes two arguments."""


def keyword_only(*, ctx):
    """Takes none by position."""


async def later(ctx):
    """A coroutine."""


CONSTANT = 3
