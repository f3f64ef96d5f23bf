"""Metrics: any torchmetrics class, or any loss, averaged over samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from accelerator.errors import ConfigError, did_you_mean
from accelerator.runtime.context.component import build, check, is_component, present
from accelerator.utilities import distributed
from accelerator.utilities.base_registry import registry


class Metric(Protocol):
    """What torchmetrics calls a metric."""

    def update(self, preds: Any, target: Any) -> None:
        """Take in a batch."""
        ...

    def compute(self) -> Any:
        """The value over all batches since `reset`."""
        ...

    def reset(self) -> None:
        """Start anew."""
        ...


class Average:
    """A mean-reduced function of (prediction, target), averaged over samples and not over batches."""

    def __init__(self, function: Callable[[Any, Any], Tensor]) -> None:
        self.function = function
        self.reset()

    def update(self, preds: Any, target: Any) -> None:
        """Take in a batch of B samples."""
        self._sum += self.function(preds, target).detach().double() * len(target)
        self._samples += len(target)

    def compute(self) -> float:
        """The mean over all samples since `reset`, of all ranks; NaN if there were none."""
        total, samples = distributed.total((float(self._sum), self._samples))
        return total / samples if samples else float("nan")

    def reset(self) -> None:
        """Start anew."""
        self._sum: Tensor | float = 0.0
        self._samples = 0


def kind_of(section: Mapping[str, Any], key: str) -> str:
    """The registry a metric's name stands in: that of the metrics, or that of the losses.

    Raises:
        ConfigError: it stands in neither.
    """
    name = section.get("name")
    if name is None or name in registry("metric").names():
        return "metric"
    if name in registry("loss").names():
        return "loss"
    known = registry("metric").names() + registry("loss").names()
    raise ConfigError(f"{key}.name: unknown metric '{name}'{did_you_mean(str(name), known)}")


def check_metrics(sections: Mapping[str, Any], imports: tuple[str, ...] = ()) -> list[str]:
    """Every mistake in the config's ``metrics`` section."""
    problems = []
    for name, section in present(sections).items():
        if name == "loss":
            problems.append("metrics.loss: the training loss is measured under this name already; choose another")
        if not is_component(section):
            problems.append(f"metrics.{name}={section!r} names no metric: set metrics.{name}.name=…")
            continue
        try:
            kind = kind_of(section, f"metrics.{name}")
        except ConfigError as error:
            problems += error.problems
        else:
            problems += check(kind, section, f"metrics.{name}", offered=("num_classes",), imports=imports)
    return problems


def build_metrics(
    sections: Mapping[str, Any], device: torch.device, imports: tuple[str, ...] = (), **offered: Any
) -> dict[str, Metric]:
    """The metrics of a run, by name."""
    metrics = {}
    for name, section in present(sections).items():
        key = f"metrics.{name}"
        built = build(kind_of(section, key), section, key, imports=imports, **offered)
        if hasattr(built, "to"):
            built = built.to(device)
        metrics[name] = built if hasattr(built, "compute") else Average(built)
        if distributed.size() > 1 and not isinstance(metrics[name], Average):
            from torchmetrics import Metric as Summable  # two seconds, with all it brings

            if not isinstance(built, Summable):
                raise ConfigError(
                    f"{key}: a {type(built).__name__} cannot be added up over ranks; make it a torchmetrics.Metric"
                )
    return metrics
