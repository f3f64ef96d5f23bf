"""What one run does while it is trained together with others: all but the computing of its steps.

`accelerator.runtime.loop.train` is the train loop; this is its walk through a run of one level, as a generator that
hands each batch to whoever computes the step, and goes on when it is done. A test holds that both call the same
callbacks in the same order.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import TYPE_CHECKING

from accelerator.errors import Terminated
from accelerator.runtime.loop.train import validate
from accelerator.runtime.run import Result, closing, conclude, left

if TYPE_CHECKING:
    from accelerator.runtime.context.context import Context

Course = Generator[None, None, Result]


def course(context: Context) -> Course:
    """A run from its first callback to its result.

    Yields:
        When ``context.batch`` is there; before it is gone on with, its step must have been taken, and ``context.loss``
        be its loss.

    Raises:
        Terminated: a signal asked the run to stop; everything up to the last step is saved.
    """
    begin = time.perf_counter()
    with closing(context):
        context.callbacks("run_start", context)
        yield from _stage(context)
        conclude(context)
        seconds = time.perf_counter() - begin
    return left(context, seconds)


def _stage(context: Context) -> Generator[None]:
    """The run's only stage."""
    state, callbacks, feed = context.state, context.callbacks, context.data.train
    state.extra = 0
    # torch warns of a schedule that steps before its optimizer has; these never step themselves.
    context.optimizer._opt_called = True  # pyright: ignore[reportAttributeAccessIssue]
    callbacks("stage_start", context)
    while state.stage_step < context.stage_steps and not context.finish_early:
        callbacks("epoch_start", context)
        yield from _steps(context)
        if state.batch >= feed.batches:
            if "val" in context.data.feeds and (state.epoch + 1) % context.validate_every == 0:
                validate(context)
            state.epoch += 1
            state.batch = 0
            callbacks("epoch_end", context)
    if "val" in context.data.feeds and state.validated != state.step:
        validate(context)
    callbacks("stage_end", context)


def _steps(context: Context) -> Generator[None]:
    """What is left of the pass at hand, or of the stage if that is less."""
    state, scheduler, step_end = context.state, context.scheduler, context.callbacks.hooks["step_end"]
    cost, stage_steps = context.cost, context.stage_steps
    for batch in context.data.train.epoch(state.epoch, state.batch):
        context.batch = batch
        yield
        state.step += 1
        state.batch += 1
        state.stage_step += 1
        state.work += cost
        if state.work >= scheduler.next:
            scheduler.advance(state.work)
        for call in step_end:
            call(context)
        if context.stop is not None:
            raise Terminated(context.stop)
        if state.stage_step >= stage_steps or context.finish_now:
            return
