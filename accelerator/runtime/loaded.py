"""A trained network where it was trained, among its data, loss and metrics, to be measured and not to be trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from accelerator.errors import ConfigError
from accelerator.runtime.context.build import build_context
from accelerator.runtime.context.context import Context
from accelerator.runtime.engine.base import Clip
from accelerator.runtime.loop.evaluation import evaluate
from accelerator.runtime.start import Start


def loaded_context(config: Mapping[str, Any], start: Start) -> Context:
    """Everything of a run but its training: one process, one level, no callbacks, nothing written.

    Args:
        config: resolved and checked.
        start: the trained network.

    Raises:
        CheckpointError: it does not fit the config.
        ConfigError: a component refused its arguments, or network, loss and data do not fit together.
        DataError: the data cannot be used.
    """
    alone = {key: value for key, value in config["engine"].items() if key != "devices"}
    measured = {
        "engine": alone,
        "multilevel": {"name": "single"},
        "callbacks": {},
        "checkpoint": {**config["checkpoint"], "monitor": "val/loss", "mode": "min"},
    }
    return build_context({**config, **measured}, None, start=start, training=False)


def measure(context: Context, split: str) -> dict[str, float]:
    """Loss and metrics of the network on a split: ``{"<split>/loss": …, …}``.

    Raises:
        ConfigError: the data has no such split.
    """
    if split not in context.data.feeds:
        raise ConfigError(f"evaluate.split={split}: the data has no such split; it has {', '.join(context.data.feeds)}")
    context.engine.bind(context.model, context.objective, context.optimizer, Clip())
    return evaluate(context, split)
