"""Metrics go to the journal: the loss of every step, the rest once a pass."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from accelerator.runtime.callbacks.base import Callback
from accelerator.runtime.data.feed import samples_of

if TYPE_CHECKING:
    from accelerator.runtime.context.context import Context

# Losses stay on the device until this many are there, or this many seconds have passed: one copy for all of them.
_LOSSES, _SECONDS = 64, 0.25


class MetricLogger(Callback):
    """Writes every metric of the run to its journal.

    Keys: ``train/loss`` each step; ``train/epoch_loss`` (mean over the pass's samples), ``lr``, ``epoch``, ``work``
    and ``level`` each pass and where a stage starts; what validation and test measure, as they measure it.

    Of a multigrid cycle also the mean losses of its stages, ``fine_loss`` before going down, ``coarse_loss/<level>``
    and ``final_loss`` after the correction, and what the changes of level measured: ``tau_norm/<level>``,
    ``correction_norm``, ``correction_scale``, ``corrections_guarded``.
    """

    priority = 50

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._size = 0
        self._sum, self._samples = 0.0, 0
        self._stage_sum, self._stage_steps = 0.0, 0
        self._last, self._batch = 0, 0
        self._due = 0.0

    def stage_start(self, context: Context) -> None:
        """Take down the level of the steps that follow, unless resuming inside the stage: then it is on record."""
        if context.state.stage_step:
            return
        self._stage_sum, self._stage_steps = 0.0, 0
        if context.journal is not None:
            change = {} if context.cycle is None else context.cycle.last
            context.journal.metrics({"work": context.state.work, "level": context.level, **change}, context.state.step)

    def step_end(self, context: Context) -> None:
        """Take down the step's loss."""
        losses, state = self._losses, context.state
        if not losses:
            self._size = samples_of(context.batch)  # asking a tensor for its length costs more than all the rest
        losses.append(context.loss)  # pyright: ignore[reportArgumentType]
        self._last, self._batch = state.step, state.batch
        if len(losses) >= _LOSSES or time.monotonic() > self._due:
            self._drain(context)

    def validation_end(self, context: Context) -> None:
        """Take down what validation measured."""
        self._drain(context)
        self._log(context, "val/")

    def epoch_end(self, context: Context) -> None:
        """Take down the pass."""
        self._drain(context)
        state = context.state
        state.metrics["train/epoch_loss"] = self._sum / max(self._samples, 1)
        self._sum, self._samples = 0.0, 0
        if context.journal is not None:
            facts = {"epoch": state.epoch, "work": state.work, "level": context.level}
            rates = {
                "lr" if index == 0 else f"lr/{index}": group["lr"]
                for index, group in enumerate(context.optimizer.param_groups)
            }
            epoch_loss = {"train/epoch_loss": state.metrics["train/epoch_loss"]}
            context.journal.metrics({**epoch_loss, **rates, **facts}, state.step)

    def stage_end(self, context: Context) -> None:
        """Leave nothing behind when the level changes."""
        self._drain(context)
        if context.cycle is not None and context.journal is not None and self._stage_steps:
            corrected = context.stages[context.state.stage].cycle
            name = f"coarse_loss/{context.level}" if context.in_window else "final_loss" if corrected else "fine_loss"
            context.journal.metrics({name: self._stage_sum / self._stage_steps}, context.state.step)
            # Saved after this and resumed, the stage's end comes once more.
            self._stage_sum, self._stage_steps = 0.0, 0

    def save_start(self, context: Context) -> None:
        """The journal's position goes into the checkpoint: every step up to it must be there."""
        self._drain(context)

    def test_end(self, context: Context) -> None:
        """Take down what the test measured."""
        self._log(context, "test/")

    def run_end(self, context: Context) -> None:
        """Leave nothing behind."""
        self._drain(context)
        if context.journal is not None:
            context.journal.flush()

    def state_dict(self) -> dict[str, Any]:
        """The sums of the pass and of the stage at hand."""
        stage = {"stage_sum": self._stage_sum, "stage_steps": self._stage_steps}
        return {"sum": self._sum, "samples": self._samples, **stage}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the pass at hand."""
        self._sum, self._samples = state["sum"], state["samples"]
        self._stage_sum, self._stage_steps = state["stage_sum"], state["stage_steps"]

    def _drain(self, context: Context) -> None:
        if not self._losses:
            return
        values = torch.stack(self._losses).tolist()
        # Not from the counter as it stands: a callback before this one may have ended the run at a later step.
        first = self._last - len(values) + 1
        sizes = self._sizes(context)
        # One by one: a run that drains at other steps, as a resumed one does, adds up to the same bits.
        total, of_stage = self._sum, self._stage_sum
        for value, size in zip(values, sizes, strict=True):
            total += value * size
            of_stage += value
        self._sum, self._samples = total, self._samples + sum(sizes)
        self._stage_sum, self._stage_steps = of_stage, self._stage_steps + len(values)
        if context.journal is not None:
            for step, value in enumerate(values, first):
                context.journal.metric("train/loss", value, step)
            context.journal.flush_if_due()
        self._losses.clear()
        self._due = time.monotonic() + _SECONDS

    def _sizes(self, context: Context) -> list[int]:
        """Samples in each batch that waits: those of one stage and pass, all of a size but the pass's last."""
        count, feed = len(self._losses), context.data.train
        if context.in_window:
            # The pass is what the level that sees all the data makes of it: a cycle's own batches do not count.
            return [0] * count
        sizes = [self._size] * count
        if count > 1 and self._batch == feed.batches:
            sizes[-1] = feed.samples - self._size * (feed.batches - 1)
        return sizes

    def _log(self, context: Context, prefix: str) -> None:
        if context.journal is not None:
            values = {key: value for key, value in context.state.metrics.items() if key.startswith(prefix)}
            context.journal.metrics(values, context.state.step)
