"""What a training loop asks of an engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

Objective = Callable[[Any, Any], Tensor]


class Engine(Protocol):
    """Runs one optimizer step on a device.

    The loop calls ``forward_backward``, then the callbacks, then ``optimizer_step``, for each batch.
    """

    device: torch.device

    def prepare(self, module: nn.Module) -> nn.Module:
        """Put a network, or the transforms, where it will run."""
        ...

    def bind(self, model: nn.Module, objective: Objective, optimizer: Optimizer, clip_norm: float | None) -> None:
        """Train this network with this optimizer from now on (called at each change of level)."""
        ...

    def forward_backward(self, batch: Any) -> Tensor:
        """Loss of a batch (0-dim, detached); its gradients are in ``.grad``."""
        ...

    def optimizer_step(self) -> None:
        """Clip, step, and forget the gradients."""
        ...

    def predict(self, batch: Any) -> tuple[Any, Any]:
        """Prediction of the bound network and target for a batch, on the device, without gradients."""
        ...


def forward(model: nn.Module, inputs: Any) -> Any:
    """Call a network on a tensor, on a tuple of positional or on a mapping of keyword inputs."""
    if isinstance(inputs, Tensor):
        return model(inputs)
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs)
