"""The train loop: the only one.

A run is a sequence of stages, each a level of the network and a number of steps; plain training is one stage on
level 0. The order of the data goes on across stages; only the coarse levels of a cycle have batches of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from accelerator.errors import DataError, Terminated
from accelerator.runtime.loop.evaluation import evaluate
from accelerator.utilities import distributed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from accelerator.runtime.context.context import Context
    from accelerator.runtime.data.feed import Batch


# Steps between two agreements of the ranks on whether any of them was asked to stop.
AGREE = 8


def train(context: Context) -> None:
    """Train from where the context stands to the end of its schedule.

    Raises:
        Terminated: a signal asked the run to stop; everything up to the last step is saved.
    """
    state, stages, callbacks, feed = context.state, context.stages, context.callbacks, context.data.train
    while True:
        if state.extra is None:
            # Coarse levels of a cycle have the steps they are given; the others make up for what is over or missing.
            spared = 0 if context.in_window else round(state.spared / context.cost)
            state.extra = max(spared, -stages[state.stage].steps)
            state.spared -= state.extra * context.cost
        callbacks("stage_start", context)
        if context.in_window:
            train_window(context)
        else:
            while (state.stage_step < context.stage_steps or state.batch >= feed.batches) and not context.finish_early:
                train_epoch(context)
        if context.at_boundary and "val" in context.data.feeds and state.validated != state.step:
            validate(context)
        callbacks("stage_end", context)
        if state.stage + 1 == len(stages) or (context.finish_early and not context.in_window):
            return
        context.change_level(stages[state.stage + 1])
        state.stage += 1
        state.stage_step, state.extra = 0, None


def train_epoch(context: Context) -> None:
    """Train on what is left of the pass at hand, or of the stage if that is less."""
    state, feed = context.state, context.data.train
    context.callbacks("epoch_start", context)
    first = state.batch
    _steps(context, feed.epoch(state.epoch, state.batch), in_pass=1)
    if state.batch == first < feed.batches:
        raise DataError(f"the training data gave no batch in pass {state.epoch + 1} (expected {feed.batches})")
    if state.batch >= feed.batches:
        # Measured first, counted then: a run stopped while it validates resumes with that validation.
        if "val" in context.data.feeds and (state.epoch + 1) % context.validate_every == 0:
            validate(context)
        state.epoch += 1
        state.batch = 0
        context.callbacks("epoch_end", context)


def train_window(context: Context) -> None:
    """Train a coarse level of a cycle on the cycle's own batches; the pass over the data waits."""
    assert context.cycle is not None
    if context.state.stage_step < context.stage_steps:
        _steps(context, context.cycle.batches(context.data.train, context.state.stage_step), in_pass=0)


def _steps(context: Context, batches: Iterable[Batch], in_pass: int) -> None:
    """One step a batch, until the stage has all of its steps; `in_pass` is what a step counts for in the pass."""
    state, engine, scheduler, callbacks = context.state, context.engine, context.scheduler, context.callbacks
    after_backward, step_end = callbacks.hooks["after_backward"], callbacks.hooks["step_end"]
    level, cost, stage_steps = context.level, context.cost, context.stage_steps
    resampled = context.network is not None and context.network.sampling is not None and level > 0
    fas = context.cycle.fas if context.cycle is not None and not in_pass else None
    window = context.cycle.window[2] if context.cycle is not None else 1
    several = distributed.size() > 1
    for batch in batches:
        if resampled:
            batch = context.level_batch(level, batch)
        context.batch = batch
        context.loss = engine.forward_backward(batch)
        if fas is not None:
            fas.add_tau(level, state.stage_step % window)
        for call in after_backward:
            call(context)
        stepped = engine.optimizer_step()
        state.step += 1
        state.batch += in_pass
        state.stage_step += 1
        state.work += cost
        if not stepped:
            state.skipped += 1
            scheduler.wait(cost)
        elif state.work >= scheduler.next:
            scheduler.advance(state.work)
        for call in step_end:
            call(context)
        if several and state.step % AGREE == 0:
            context.agree_to_stop()
        if context.stop is not None:
            raise Terminated(context.stop)
        if state.stage_step >= stage_steps or (context.finish_now and in_pass):
            break


def validate(context: Context) -> None:
    """Measure the network being trained on the validation split."""
    state = context.state
    context.callbacks("validation_start", context)
    values = evaluate(context, "val")
    if distributed.size() > 1:
        context.agree_to_stop()
        if context.stop is not None:
            raise Terminated(context.stop)
    state.metrics.update(values)
    state.validated = state.step
    context.scheduler.validated(values)
    if context.plateau is not None and context.level > 0:
        value = values[context.scheduler.monitor]
        rising = context.config["checkpoint"]["mode"] == "max"
        if context.plateau.reached(-value if rising else value):
            # The stage ends with this pass; what it did not spend is for the finer levels.
            left = context.stage_steps - state.stage_step
            state.spared += left * context.cost
            state.extra = (state.extra or 0) - left
    context.callbacks("validation_end", context)
