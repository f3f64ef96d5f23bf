"""Fully sharded data parallelism: each rank keeps a part of every weight, gradient and moment.

A block's weights are put together for its forward and its backward pass, and let go of. Between the engine's calls
every parameter is a shard (a DTensor). Checkpoints hold whole tensors all the same, so they know of no ranks.

Source: Zhao et al., "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel", VLDB 2023;
`torch.distributed.fsdp.fully_shard`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from accelerator.errors import ConfigError
from accelerator.runtime.data.feed import Batch, Share
from accelerator.runtime.engine.base import pieces
from accelerator.runtime.engine.recompute import repeated_blocks
from accelerator.utilities import distributed


def shard(model: nn.Module) -> None:
    """Divide a network's parameters among the ranks, in place; collective, before an optimizer is made of them.

    Each repeated block (the items of its ``ModuleList`` or ``Sequential``) is put together by itself, the rest with
    the root. A block that shares a parameter with another module stays with the root.

    Raises:
        ConfigError: a parameter has no dimension to be divided along.
    """
    make_alike(model)
    everywhere = list(model.named_parameters(remove_duplicate=False))
    for name in repeated_blocks(model):
        inside = {id(parameter) for path, parameter in everywhere if path.startswith(f"{name}.")}
        if not any(id(parameter) in inside for path, parameter in everywhere if not path.startswith(f"{name}.")):
            fully_shard(model.get_submodule(name))
    fully_shard(model)


def make_alike(model: nn.Module) -> None:
    """Make a network that is to be sharded the same on all ranks; collective.

    Raises:
        ConfigError: a parameter has no dimension to be divided along.
    """
    scalars = [name for name, parameter in model.named_parameters() if parameter.dim() == 0]
    if scalars:
        raise ConfigError(
            f"engine.strategy=fsdp cannot divide the model's parameter {scalars[0]}, a single number: make it of shape "
            "(1,), or use engine.strategy=ddp"
        )
    distributed.copy_from_main(tensor.data for tensor in (*model.parameters(), *model.buffers()))


class Sharded:
    """A sharded network, and how whole tensors come out of it and go into it.

    Args:
        model: the network, after `shard`.
    """

    def __init__(self, model: nn.Module) -> None:
        assert isinstance(model, FSDPModule)
        self.model, self._buffers = model, list(model.buffers())

    def __call__(self, inputs: Tensor) -> Any:
        """Prediction of the network; collective."""
        if torch.is_grad_enabled():
            # As DDP does: a batch norm's statistics are those of rank 0.
            distributed.copy_from_main(self._buffers)
            return self.model(inputs)
        # What is put together in inference mode could not be used to train, and the root would stay put together.
        with torch.inference_mode(False), torch.no_grad():
            prediction = self.model(inputs)
        self.model.reshard()
        return prediction

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Backward passes that leave their gradients to the next one outside."""
        self.model.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            self.model.set_requires_gradient_sync(True)

    def pieces(self, batch: Batch, accumulate: int) -> list[tuple[Tensor, Tensor, float]]:
        """A batch in pieces, as many on each rank: a forward pass that one took no part in would never end."""
        inputs, targets = batch
        own = list(pieces(batch, accumulate))
        samples = batch.samples if isinstance(batch, Share) else len(targets)
        most = min(accumulate, -(-samples // distributed.size()))
        return own + [(inputs[:1], targets[:1], 0.0)] * (most - len(own))

    def state(self) -> dict[str, Tensor]:
        """The network's state, `whole`; collective."""
        return whole(self.model.state_dict())

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take the state of a whole network, which every rank has.

        Raises:
            RuntimeError: names or shapes differ.
        """
        own = self.model.state_dict()
        wrong = [name for name in own if name in state and own[name].shape != state[name].shape]
        if wrong:
            shapes = f"{tuple(state[wrong[0]].shape)}, expected {tuple(own[wrong[0]].shape)}"
            raise RuntimeError(f"size mismatch for {wrong[0]}: {shapes}")
        self.model.load_state_dict({name: _as(own.get(name), tensor) for name, tensor in state.items()})

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The optimizer's state, `whole`; collective."""
        return whole(optimizer.state_dict())

    def load_optimizer_state(self, optimizer: Optimizer, state: Mapping[str, Any]) -> None:
        """Give an optimizer the state of one of whole parameters, which every rank has.

        Raises:
            ValueError: the groups differ.
        """
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        # Moments have their parameter's shape, and are divided as it is.
        shards = {
            number: {
                key: _as(own, value) if isinstance(value, Tensor) and value.shape == own.shape else value
                for key, value in state["state"][number].items()
            }
            for number, own in enumerate(parameters)
            if number in state["state"]
        }
        optimizer.load_state_dict({**state, "state": shards})


def whole(tree: Any) -> Any:
    """A nest of dicts, lists and tensors, with every shard put together on the CPU of rank 0; collective.

    On the other ranks what was a shard is empty: only rank 0 writes.
    """
    if isinstance(tree, DTensor):
        # One at a time: no device holds more than one whole tensor besides its shards.
        tensor = tree.full_tensor()
        return tensor.cpu() if distributed.rank() == 0 else torch.empty(0, dtype=tensor.dtype)
    if isinstance(tree, Mapping):
        return {key: whole(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [whole(value) for value in tree]
    return tree


def _as(own: Tensor | None, tensor: Tensor) -> Tensor:
    """The shard of a whole tensor that corresponds to one of ours; every rank cuts its own."""
    if not isinstance(own, DTensor):
        return tensor
    return distribute_tensor(tensor.to(own.device), own.device_mesh, own.placements, src_data_rank=None)
