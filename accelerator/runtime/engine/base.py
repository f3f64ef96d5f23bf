"""What a training loop asks of an engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from accelerator.runtime.data.feed import Batch, Share

Objective = Callable[[Tensor, Tensor], Tensor]


class Clip(NamedTuple):
    """What gradients are cut to before a step: each entry to ±value, then all together to a 2-norm."""

    norm: float | None = None
    value: float | None = None

    def __call__(self, parameters: list[nn.Parameter]) -> None:
        """Cut the gradients of these parameters."""
        if self.value is not None:
            nn.utils.clip_grad_value_(parameters, self.value)
        if self.norm is not None:
            nn.utils.clip_grad_norm_(parameters, self.norm)


class Engine(Protocol):
    """Runs one optimizer step, on one device or on several.

    A batch is (inputs, targets), two tensors with the batch dimension first; the feeds deliver them on the device.
    On several ranks each gets its share of the batch's rows (`accelerator.runtime.data.feed.Share`), and what comes
    out is that of the whole batch. The loop calls ``forward_backward``, then the callbacks, then ``optimizer_step``,
    for each batch.

    Attributes:
        device: where the networks and the batches are.
        accumulate: in how many pieces a batch is computed, one after the other: the step is the same, the memory less.
    """

    device: torch.device
    accumulate: int

    def prepare(self, module: nn.Module) -> nn.Module:
        """Put a network, or the transforms, where it will run."""
        ...

    def shard(self, levels: list[nn.Module]) -> None:
        """Divide the network's weights among the ranks, if it is to be; before an optimizer is made of them.

        Raises:
            ConfigError: there is more than one level, or the network cannot be divided.
        """
        ...

    def bind(self, model: nn.Module, objective: Objective, optimizer: Optimizer, clip: Clip) -> None:
        """Train this network with this optimizer from now on (called at each change of level)."""
        ...

    def forward_backward(self, batch: Batch) -> Tensor:
        """Loss of the whole batch (0-dim, detached); its gradients, unscaled, are in ``.grad``."""
        ...

    def optimizer_step(self) -> bool:
        """Clip, step, and forget the gradients.

        Returns:
            False if the step was left out, because a gradient overflowed in half precision.
        """
        ...

    def predict(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Prediction of the bound network and target for a batch, on the device, without gradients."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What must survive a kill: the loss scale of half precision, and the number of pieces."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        ...

    def model_state(self, model: nn.Module) -> dict[str, Any]:
        """The network's state as a checkpoint holds it, whole on rank 0; collective."""
        ...

    def load_model_state(self, model: nn.Module, state: dict[str, Any]) -> None:
        """Take back what `model_state` returned on rank 0, and every rank has read."""
        ...

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The optimizer's state as a checkpoint holds it, whole on rank 0; collective."""
        ...

    def load_optimizer_state(self, optimizer: Optimizer, state: dict[str, Any]) -> None:
        """Take back what `optimizer_state` returned on rank 0, and every rank has read."""
        ...


def pieces(batch: Batch, count: int) -> Iterator[tuple[Tensor, Tensor, float]]:
    """A batch in (at most) so many pieces: (inputs, targets, weight), the weights being shares of the whole batch.

    The mean-reduced losses of all pieces on all ranks, so weighted, sum to the loss of the whole batch.
    """
    inputs, targets = batch
    rows = len(targets)
    weight = batch.weight if isinstance(batch, Share) else 1.0
    count = min(count, rows)
    for some_inputs, some_targets in zip(inputs.tensor_split(count), targets.tensor_split(count), strict=True):
        yield some_inputs, some_targets, weight * len(some_targets) / rows
