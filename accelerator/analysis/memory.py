"""What a training step keeps in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


@dataclass
class Memory:
    """Bytes.

    Attributes:
        weights: parameters and buffers.
        gradients: of what is trained.
        optimizer: its state after a step.
        activations: saved for the backward pass.
        batch: inputs and targets.
    """

    weights: int = 0
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    batch: int = 0

    @property
    def total(self) -> int:
        """Of a training step, between forward and backward pass."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.batch


def saved_for_backward(step: Callable[[], Tensor], known: Iterable[Tensor]) -> int:
    """Bytes that a forward pass keeps for the backward pass, each piece of memory once.

    Args:
        step: a forward pass through network and loss; returns the loss.
        known: tensors that are in memory anyway: weights and the batch.
    """
    before = {tensor.untyped_storage().data_ptr() for tensor in known}
    kept: dict[int, Tensor] = {}  # held, so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place and place not in before:
            kept.setdefault(place, tensor.detach())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = step()
    total = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    del loss
    return total


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Of tensors, those that share memory once."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def optimizer_bytes(optimizer: Optimizer) -> int:
    """Of all tensors in an optimizer's state."""

    def tensors(value: Any) -> Iterable[Tensor]:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, dict):
            for each in value.values():
                yield from tensors(each)
        elif isinstance(value, list | tuple):
            for each in value:
                yield from tensors(each)

    return bytes_of(tensors(dict(optimizer.state)))


def weights_of(model: nn.Module) -> list[Tensor]:
    """Parameters and buffers."""
    return [*model.parameters(), *model.buffers()]
