"""Averages of the weights over the steps: exponential (EMA) and with equal weights (SWA).

The average is what is validated, tested and loaded; the training goes on with the weights themselves.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from accelerator.errors import ConfigError
from accelerator.multilevel.optimizer_state import carry_average
from accelerator.runtime.callbacks.base import Callback
from accelerator.runtime.callbacks.monitors import check_every
from accelerator.runtime.callbacks.predictions import as_used
from accelerator.utilities import distributed

if TYPE_CHECKING:
    from accelerator.runtime.context.context import Context


class Averaging(Callback, ABC):
    """What both averages do; `_due` and `_average_of` are their own.

    For a validation the averaged weights are put in the place of the network's, tensor by tensor, so that a compiled or
    distributed network stays what it is; and back, whatever ends the validation. From coarse to fine in a cascade the
    average is prolonged with the weights; in a cycle, of which the coarse levels make corrections, the average is that
    of the finest level alone.
    """

    priority = 8  # first to change the network for a validation, last to leave it; before a checkpoint is saved

    def __init__(self) -> None:
        self._average: AveragedModel | None = None
        self._level, self._swapped = 0, False
        self._saved: dict[str, Any] = {}

    def run_start(self, context: Context) -> None:
        """Go on with the average that was saved."""
        others = [name for name, other in context.callbacks.callbacks.items() if isinstance(other, Averaging)]
        if len(others) > 1:
            raise ConfigError(f"callbacks.{', callbacks.'.join(others)}: one run has one average; remove the others")
        if any(hasattr(parameter, "full_tensor") for parameter in context.model.parameters()):
            raise ConfigError("ema and swa need whole networks: train with engine.strategy=ddp, or remove them")
        if self._saved:
            self._average = self._begin(context, self._saved["level"])
            self._average.module.load_state_dict(self._saved["average"])
            self._average.n_averaged.fill_(self._saved["count"])
            self._saved = {}

    def stage_start(self, context: Context) -> None:
        """Carry the average to the level that is trained now."""
        if self._average is None or context.cycle is not None or context.level == self._level:
            return
        coarse, source = self._average, self._level
        assert context.network is not None
        self._average = self._begin(context, context.level)
        carry_average(coarse, self._average, context.network, source, context.level)

    def step_end(self, context: Context) -> None:
        """Take the step into the average."""
        if (context.cycle is None or context.level == 0) and self._due(context):
            if self._average is None:
                self._average = self._begin(context, context.level)
            self._average.update_parameters(context.model)

    def validation_start(self, context: Context) -> None:
        """Let the average be validated."""
        if self._average is not None and self._level == context.level:
            self._complete(context, self._average)
            self._swap(context.model, self._average)

    def validation_end(self, context: Context) -> None:
        """Go on with the weights."""
        if self._swapped:
            assert self._average is not None
            self._swap(context.model, self._average)

    def failed(self, context: Context) -> None:
        """Whatever ended a validation: what is saved now are the weights."""
        self.validation_end(context)

    def save_start(self, context: Context) -> None:
        """Put the average of the full network into the checkpoint."""
        fine = self._average if self._level == 0 else None
        context.average = None if fine is None else fine.module.state_dict()

    def state_dict(self) -> dict[str, Any]:
        """The average, of how many steps it is, and its level."""
        if self._average is None:
            return self._saved
        average = self._average.module.state_dict()
        return {"average": average, "count": int(self._average.n_averaged), "level": self._level}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Keep it until the network is there."""
        self._saved = state

    @abstractmethod
    def _due(self, context: Context) -> bool:
        """Whether the step that was just done is averaged."""

    @abstractmethod
    def _average_of(self, model: nn.Module) -> AveragedModel:
        """A new average of this network."""

    def _complete(self, context: Context, average: AveragedModel) -> None:
        """What is left to be done before the average is used."""

    def _begin(self, context: Context, level: int) -> AveragedModel:
        self._level = level
        return self._average_of(context.levels[level])

    @torch.no_grad()
    def _swap(self, model: nn.Module, average: AveragedModel) -> None:
        for ours, theirs in zip(_tensors(model), _tensors(average.module), strict=True):
            kept = ours.clone()
            ours.copy_(theirs)
            theirs.copy_(kept)
        self._swapped = not self._swapped


def _tensors(model: nn.Module) -> chain[Tensor]:
    return chain(model.parameters(), model.buffers())


class EMA(Averaging):
    """Exponential moving average of the weights: w̄ ← d · w̄ + (1 − d) · w, beginning with w̄ = w.

    After n updates d is min(decay, (1 + n) / (10 + n)), as TensorFlow's is: in a run shorter than 1/(1 − decay) steps
    the average would be of the weights it began with.

    Source: Polyak & Juditsky, "Acceleration of stochastic approximation by averaging", 1992; `torch.optim.swa_utils`.

    Args:
        decay: what stays of the average at each update, in the end; about 1 − 1/(updates to average over).
        every: steps between two updates.
        start_step: the first step that is taken in.
        buffers: average buffers too (a batch norm's statistics); otherwise they are the network's own.
    """

    def __init__(self, decay: float = 0.999, every: int = 1, start_step: int = 1, buffers: bool = True) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ConfigError(f"decay={decay}: expected at least 0 and below 1")
        check_every(every)
        check_every(start_step, "start_step")
        self.decay, self.every, self.start_step, self.buffers = decay, every, start_step, buffers

    def _due(self, context: Context) -> bool:
        step = context.state.step - self.start_step
        return step >= 0 and step % self.every == 0

    def _average_of(self, model: nn.Module) -> AveragedModel:
        return AveragedModel(model, multi_avg_fn=_growing(self.decay), use_buffers=self.buffers)


def _growing(decay: float) -> Any:
    """Torch's moving average, whose decay grows with the number of updates up to the one wanted."""
    reached = False

    def average(averaged: Any, current: Any, count: Any) -> None:
        nonlocal reached
        now = decay
        if not reached:  # later the count, which may be on a GPU, is not asked for
            number = int(count)
            now = min(decay, (1 + number) / (10 + number))
            reached = now == decay
        get_ema_multi_avg_fn(now)(averaged, current, count)

    return average


class SWA(Averaging):
    """Stochastic weight averaging: the mean of the weights at the ends of the last passes.

    A batch norm's statistics are those of no average of networks: they are measured anew before each validation, in
    a forward pass over the training split (on several ranks, with those of rank 0). The learning rate is the
    schedule's; a constant or cyclical one suits best.

    Source: Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", 2018.

    Args:
        start: the part of the schedule's work after which passes are averaged.
    """

    def __init__(self, start: float = 0.75) -> None:
        super().__init__()
        if not 0 <= start < 1:
            raise ConfigError(f"start={start}: expected at least 0 and below 1, a part of the schedule")
        self.start = start

    def _due(self, context: Context) -> bool:
        state = context.state
        if context.in_window or state.batch < context.data.train.batches:
            return False
        return state.work > self.start * sum(stage.steps * context.costs[stage.level] for stage in context.stages)

    def _average_of(self, model: nn.Module) -> AveragedModel:
        return AveragedModel(model)

    def _complete(self, context: Context, average: AveragedModel) -> None:
        norms = [m for m in average.module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        if not any(norm.track_running_stats for norm in norms):
            return
        batches = (context.level_batch(context.level, batch) for batch in context.data.train.epoch(0))
        with as_used(context):
            update_bn(batches, average.module)
        distributed.copy_from_main(buffer for norm in norms for buffer in norm.buffers())
