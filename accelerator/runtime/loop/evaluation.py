"""Validation and test: one pass over a split without gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from accelerator.errors import ConfigError, Terminated
from accelerator.runtime.data.feed import own_samples
from accelerator.runtime.metrics import Average
from accelerator.utilities import distributed

if TYPE_CHECKING:
    from accelerator.runtime.context.context import Context


@torch.inference_mode()
def evaluate(context: Context, split: str) -> dict[str, float]:
    """Loss and metrics of the bound network on a split, as its level sees it.

    The loss is the one trained on, in the units trained on; metrics see predictions and targets in the data's own
    units (target transforms undone).

    Returns:
        ``{"<split>/loss": …, "<split>/<metric>": …}``, each weighted by samples.
    """
    engine, transforms = context.engine, context.data.transforms
    model = context.model
    loss = Average(context.objective)
    training = model.training
    model.eval()
    for metric in context.metrics.values():
        metric.reset()
    # Statistics of batch norms are each rank's own until its next step; measured and saved are those of rank 0.
    distributed.copy_from_main(model.buffers())
    try:
        for batch in context.data.feeds[split].epoch(0):
            prediction, target = engine.predict(context.level_batch(context.level, batch))
            if own_samples(batch) == 0:
                continue
            loss.update(prediction, target)
            if context.metrics and transforms.changes_targets:
                prediction, target = transforms.original(prediction), transforms.original(target)
            for metric in context.metrics.values():
                metric.update(prediction, target)
            # One of several ranks goes on: the others would wait for it. They agree at their next step.
            if context.stop is not None:
                raise Terminated(context.stop)
    finally:
        model.train(training)
    measured = {"loss": loss, **context.metrics}
    return {f"{split}/{name}": _number(name, metric.compute()) for name, metric in measured.items()}


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        shape = f"of shape {tuple(value.shape)}" if hasattr(value, "shape") else f"a {type(value).__name__}"
        raise ConfigError(
            f"metrics.{name} is {shape}, not one number; for classes, an average (such as average=macro) gives one"
        ) from error
