"""Restriction and prolongation between two networks of your own: the leading block of every tensor."""

from __future__ import annotations

from torch import Tensor, nn

from accelerator.errors import ConfigError
from accelerator.multilevel.transfer import state_of, write_state


def restrict(fine: nn.Module, coarse: nn.Module) -> None:
    """Write a narrower network from a wider one of the same structure: the leading block of every tensor.

    For two networks of your own; a `MultilevelNetwork` restricts by aggregates instead.

    Raises:
        ConfigError: the networks differ in names or ranks, or `coarse` is larger somewhere.
    """
    source, target = _same_structure(fine, coarse)
    write_state(coarse, {name: tensor[tuple(map(slice, target[name].shape))] for name, tensor in source.items()})


def prolongate(coarse: nn.Module, fine: nn.Module) -> None:
    """Write a wider network from a narrower one of the same structure: copy and pad. What is new keeps its rows but is
    read by nobody (new columns are zero), so it stays the coarse network's function.

    For two networks of your own; a `MultilevelNetwork` prolongates by aggregates instead.

    Raises:
        ConfigError: the networks differ in names or ranks, or `coarse` is larger somewhere.
    """
    target, source = _same_structure(fine, coarse)
    state = {}
    for name, tensor in target.items():
        inside = tuple(map(slice, source[name].shape))
        padded = tensor.clone()
        if tensor.dim() > 1:
            padded[inside[:1]] = 0
        padded[inside] = source[name]
        state[name] = padded
    write_state(fine, state)


def _same_structure(fine: nn.Module, coarse: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    larger, smaller = state_of(fine), state_of(coarse)
    if larger.keys() != smaller.keys():
        only = sorted(larger.keys() ^ smaller.keys())
        raise ConfigError(f"the two networks differ in structure: '{only[0]}' is in one of them only")
    for name, tensor in larger.items():
        small = smaller[name].shape
        if len(small) != tensor.dim() or any(s > t for s, t in zip(small, tensor.shape, strict=True)):
            raise ConfigError(
                f"'{name}' is {list(tensor.shape)} in the fine network and {list(small)} in the coarse one: "
                "the coarse one must be of the same rank and nowhere larger"
            )
    return larger, smaller
