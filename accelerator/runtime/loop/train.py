"""The train loop: the only one.

A run is a sequence of stages, each a level of the network and a number of steps; plain training is one stage on
level 0. The order of the data goes on across stages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from accelerator.errors import DataError, Terminated
from accelerator.runtime.loop.evaluation import evaluate

if TYPE_CHECKING:
    from accelerator.runtime.context.context import Context


def train(context: Context) -> None:
    """Train from where the context stands to the end of its schedule.

    Raises:
        Terminated: a signal asked the run to stop; everything up to the last step is saved.
    """
    state, stages, callbacks, feed = context.state, context.stages, context.callbacks, context.data.train
    while True:
        stage = stages[state.stage]
        callbacks("stage_start", context)
        while (state.stage_step < stage.steps or state.batch >= feed.batches) and not context.finish_early:
            train_epoch(context, stage.steps)
        if "val" in context.data.feeds and state.validated != state.step:
            validate(context)
        callbacks("stage_end", context)
        if state.stage + 1 == len(stages) or context.finish_early:
            return
        context.change_level(stages[state.stage + 1].level)
        state.stage += 1
        state.stage_step = 0


def train_epoch(context: Context, stage_steps: int) -> None:
    """Train on what is left of the pass at hand, or of the stage if that is less."""
    state, engine, scheduler, callbacks = context.state, context.engine, context.scheduler, context.callbacks
    after_backward, step_end = callbacks.hooks["after_backward"], callbacks.hooks["step_end"]
    feed, cost = context.data.train, context.cost
    callbacks("epoch_start", context)
    first = state.batch
    for batch in feed.epoch(state.epoch, state.batch):
        context.batch = batch
        context.loss = engine.forward_backward(batch)
        for call in after_backward:
            call(context)
        engine.optimizer_step()
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
        if state.stage_step >= stage_steps:
            break
    if state.batch == first < feed.batches:
        raise DataError(f"the training data gave no batch in pass {state.epoch + 1} (expected {feed.batches})")
    if state.batch >= feed.batches:
        # Measured first, counted then: a run stopped while it validates resumes with that validation.
        if "val" in context.data.feeds and (state.epoch + 1) % context.validate_every == 0:
            validate(context)
        state.epoch += 1
        state.batch = 0
        callbacks("epoch_end", context)


def validate(context: Context) -> None:
    """Measure the network being trained on the validation split."""
    context.callbacks("validation_start", context)
    values = evaluate(context, "val")
    context.state.metrics.update(values)
    context.state.validated = context.state.step
    context.scheduler.validated(values)
    context.callbacks("validation_end", context)
