"""Gauges of the optimization: learning rates, gradients, parameters, and what the network learns by heart."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from accelerator.errors import ConfigError
from accelerator.runtime.callbacks.base import Callback
from accelerator.runtime.callbacks.predictions import as_used
from accelerator.runtime.loop.evaluation import evaluate

if TYPE_CHECKING:
    from accelerator.runtime.context.context import Context
    from accelerator.runtime.data.feed import Batch, Feed


def check_every(every: int | None, what: str = "every") -> None:
    """Refuse an interval below 1.

    Raises:
        ConfigError: names it.
    """
    if every is not None and every < 1:
        raise ConfigError(f"{what}={every}: expected at least 1")


class LRMonitor(Callback):
    """Writes the learning rate and the momentum of every parameter group.

    Metrics: ``optimizer/lr/<group>``, and ``optimizer/momentum/<group>`` where the optimizer has one (``momentum``, or
    the first of Adam's ``betas``); those the step is taken with, under its number.

    Args:
        every: steps between two looks; null: one look a pass, at its last step.
    """

    critical = False
    main_only = True

    def __init__(self, every: int | None = None) -> None:
        check_every(every)
        self.every = every

    def after_backward(self, context: Context) -> None:
        """Look, if it is time: the rates are still those of this step."""
        if context.journal is None or not due(context, self.every):
            return
        for index, group in enumerate(context.optimizer.param_groups):
            momentum = group["betas"][0] if "betas" in group else group.get("momentum")
            for name, value in (("lr", group["lr"]), ("momentum", momentum)):
                if value is not None:
                    # A rate that is a tensor is written to by the schedule.
                    value = value.clone() if isinstance(value, Tensor) else value
                    context.journal.metric(f"optimizer/{name}/{index}", value, context.state.step + 1)


def due(context: Context, every: int | None) -> bool:
    """Whether the step at hand, not counted yet, is the n-th or, for None, the last of its pass."""
    state = context.state
    if every is None:
        return not context.in_window and state.batch + 1 == context.data.train.batches
    return (state.step + 1) % every == 0


class GradientNorm(Callback):
    """Writes the 2-norm of the gradient a step is taken with, before it is clipped.

    Metrics: ``gradient_norm``, and ``gradient_norm/<part>`` for each part. Norms stay on the device until the journal
    writes them.

    Args:
        every: steps between two looks.
        per: parts that are measured beside the whole: ``group`` of the optimizer, outermost ``module`` of the network,
            or ``none``.
    """

    priority = 30  # after what changes gradients
    critical = False

    def __init__(self, every: int = 1, per: Literal["none", "group", "module"] = "none") -> None:
        check_every(every)
        if per not in ("none", "group", "module"):
            raise ConfigError(f"per={per}: expected none, group or module")
        self.every, self.per = every, per

    def after_backward(self, context: Context) -> None:
        """Measure, if it is time; on all ranks, for gradients that are spread over them."""
        step = context.state.step + 1
        if step % self.every:
            return
        norms = {"gradient_norm": _norm(p for group in context.optimizer.param_groups for p in group["params"])}
        if self.per == "group":
            parts = ((str(index), group["params"]) for index, group in enumerate(context.optimizer.param_groups))
        elif self.per == "module":
            parts = ((name, module.parameters()) for name, module in context.model.named_children())
        else:
            parts = ()
        norms |= {f"gradient_norm/{name}": _norm(parameters) for name, parameters in parts}
        if context.journal is not None:
            context.journal.metrics(norms, step)


def _norm(parameters: Iterable[Tensor]) -> Tensor:
    return _whole(get_total_norm([p.grad for p in parameters if p.grad is not None]))


def _whole(value: Tensor) -> Tensor:
    """A value that is spread over ranks (a DTensor), put together; collective."""
    return getattr(value, "full_tensor", lambda: value)()


class ParameterStatistics(Callback):
    """Writes what the network's parameters look like at the end of a pass.

    Metrics, for each parameter: ``parameters/norm/<name>`` (its 2-norm), ``parameters/mean/<name>``,
    ``parameters/std/<name>`` (of its entries, not corrected), and ``parameters/update/<name>``, the size of the pass's
    last update relative to the parameter before it, ‖Δw‖ / ‖w‖: about 0.001 is usual.

    Args:
        every: passes between two looks.
    """

    critical = False

    def __init__(self, every: int = 1) -> None:
        check_every(every)
        self.every = every
        self._before: dict[str, Tensor] = {}

    def after_backward(self, context: Context) -> None:
        """Keep the parameters as they are before the last update."""
        if due(context, None) and (context.state.epoch + 1) % self.every == 0:
            self._before = {name: p.detach().clone() for name, p in context.model.named_parameters()}

    @torch.no_grad()
    def step_end(self, context: Context) -> None:
        """Measure the parameters and what the update changed."""
        if not self._before:
            return
        before, self._before = self._before, {}
        values: dict[str, Tensor] = {}
        for name, after in context.model.named_parameters():
            old = before[name]
            values |= {
                f"parameters/norm/{name}": torch.linalg.vector_norm(after),
                f"parameters/mean/{name}": after.mean(),
                f"parameters/std/{name}": after.std(correction=0),
                f"parameters/update/{name}": torch.linalg.vector_norm(after - old) / torch.linalg.vector_norm(old),
            }
        whole = [_whole(value).float() for value in values.values()]
        if context.journal is not None:
            numbers = torch.stack(whole).tolist()
            context.journal.metrics(dict(zip(values, numbers, strict=True)), context.state.step)


class GeneralizationGap(Callback):
    """Writes how much worse the network does on the validation split than on what it was trained on.

    Metric: ``generalization_gap``, the validation loss less the training loss. The training loss of a pass is a mean
    over its steps, of a network that was still worse at the beginning of the pass and had its dropout on: the gap comes
    out too small, and can be below zero. With ``samples``, the loss of the very network that is validated is measured
    on some samples of the training split instead, in evaluation mode (though random transforms are on): that is
    ``train_eval/loss``, and the gap is the difference to it.

    Args:
        samples: of the training split, measured at each validation (rounded up to whole batches); null: none.
    """

    priority = 30  # after the logger has the pass's loss; before an average leaves the network
    critical = False

    def __init__(self, samples: int | None = None) -> None:
        check_every(samples, "samples")
        self.samples = samples

    def run_start(self, context: Context) -> None:
        """Make the part of the training split a split of its own."""
        if self.samples is not None:
            context.data.feeds["train_eval"] = _Part(context.data.train, self.samples)

    def validation_end(self, context: Context) -> None:
        """Measure the same network on the training samples."""
        if self.samples is not None:
            with as_used(context):
                loss = evaluate(context, "train_eval")["train_eval/loss"]
            self._write(context, loss, {"train_eval/loss": loss})

    def epoch_end(self, context: Context) -> None:
        """Compare with the mean of the pass, which the logger has made by now."""
        state = context.state
        if self.samples is None and state.validated == state.step and "train/epoch_loss" in state.metrics:
            self._write(context, state.metrics["train/epoch_loss"], {})

    @staticmethod
    def _write(context: Context, training: float, values: dict[str, float]) -> None:
        if context.journal is not None:
            gap = context.state.metrics["val/loss"] - training
            context.journal.metrics({**values, "generalization_gap": gap}, context.state.step)


class _Part:
    """The first batches of a feed, as a feed."""

    def __init__(self, feed: Feed, samples: int) -> None:
        self._epoch = feed.epoch
        size = feed.samples / feed.batches
        self.batches = min(math.ceil(samples / size), feed.batches)
        self.samples = min(math.ceil(self.batches * size), feed.samples)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Its batches, from batch number ``start`` on."""
        return itertools.islice(self._epoch(epoch, start), self.batches - start)
