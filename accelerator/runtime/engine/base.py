"""What a training loop asks of an engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from accelerator.runtime.data.feed import Batch

Objective = Callable[[Tensor, Tensor], Tensor]


class Engine(Protocol):
    """Runs one optimizer step on a device.

    A batch is (inputs, targets), two tensors with the batch dimension first; the feeds deliver them on the device.
    The loop calls ``forward_backward``, then the callbacks, then ``optimizer_step``, for each batch.
    """

    device: torch.device

    def prepare(self, module: nn.Module) -> nn.Module:
        """Put a network, or the transforms, where it will run."""
        ...

    def bind(self, model: nn.Module, objective: Objective, optimizer: Optimizer, clip_norm: float | None) -> None:
        """Train this network with this optimizer from now on (called at each change of level)."""
        ...

    def forward_backward(self, batch: Batch) -> Tensor:
        """Loss of a batch (0-dim, detached); its gradients are in ``.grad``."""
        ...

    def optimizer_step(self) -> None:
        """Clip, step, and forget the gradients."""
        ...

    def predict(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Prediction of the bound network and target for a batch, on the device, without gradients."""
        ...
