"""Small guards and gauges that are on unless removed."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from accelerator.errors import ConfigError, NonFiniteLossError
from accelerator.runtime.callbacks.base import Callback

if TYPE_CHECKING:
    from accelerator.runtime.context.context import Context


class FiniteLoss(Callback):
    """Stops the run at the first loss that is NaN or infinite, before anything of it is saved.

    Args:
        every: steps between two looks on a GPU, where each waits for the device; on a CPU every loss is looked at.
    """

    priority = 90

    def __init__(self, every: int = 20) -> None:
        if every < 1:
            raise ConfigError(f"every={every}: expected at least 1")
        self.every = every

    def run_start(self, context: Context) -> None:
        """Learn whether a look is free."""
        self._every = 1 if context.engine.device.type == "cpu" else self.every
        self._took = self._takes = _rates(context)

    def step_end(self, context: Context) -> None:
        """Look at the loss."""
        loss = context.loss
        assert loss is not None
        if (self._every == 1 or context.state.step % self._every == 0) and not math.isfinite(loss.item()):
            state = context.state
            rates = ", ".join(f"{rate:.3g}" for rate in self._took)
            raise NonFiniteLossError(
                f"the loss is {loss.item()} at step {state.step} (batch {state.batch} of pass {state.epoch + 1}, "
                f"learning rate {rates}); try a smaller optimizer.lr or trainer.clip_norm=1"
            )
        # A loss is that of the weights the step before has left; the schedule is a step ahead already.
        self._took, self._takes = self._takes, _rates(context)


def _rates(context: Context) -> list[float]:
    return [group["lr"] for group in context.optimizer.param_groups]


class Throughput(Callback):
    """Measures training steps and samples a second, validation left out.

    Metrics: ``speed/steps_per_second``, ``speed/samples_per_second``, each pass.
    """

    priority = 40
    critical = False
    main_only = True

    def epoch_start(self, context: Context) -> None:
        """Start the clock."""
        self._begin, self._step = time.perf_counter(), context.state.step

    def validation_start(self, context: Context) -> None:
        """Stop it: the pass is trained."""
        self._measure(context)

    def epoch_end(self, context: Context) -> None:
        """Stop it, if there was no validation."""
        self._measure(context)

    def _measure(self, context: Context) -> None:
        steps, seconds = context.state.step - self._step, time.perf_counter() - self._begin
        if steps == 0 or seconds <= 0:
            return
        self._step = context.state.step
        feed = context.data.train
        values = {
            "speed/steps_per_second": steps / seconds,
            "speed/samples_per_second": steps / seconds * feed.samples / feed.batches,
        }
        if context.journal is not None:
            context.journal.metrics(values, context.state.step)
