"""Narrower copies of a network, and what a step on them costs."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from accelerator.errors import ConfigError
from accelerator.multilevel.coupling import Coupling
from accelerator.multilevel.layout import Span
from accelerator.multilevel.tracing import Example, evaluation_mode, inputs_of


def narrowed(model: nn.Module, coupling: Coupling, widths: Mapping[int, int]) -> nn.Module:
    """A copy of the network with other widths and all weights zero.

    Classes, sharing of parameters, `requires_grad` and the training mode are the model's; attributes such as
    `in_features` state the new widths.

    Args:
        model: the network the coupling was traced from.
        coupling: where each group lies.
        widths: of each group that can be coarsened.
    """

    def lost(span: Span) -> int:
        return span.outer * (coupling.groups[span.group].width - widths[span.group]) * span.inner

    shapes: dict[str, list[int]] = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        shapes[name] = list(tensor.shape)
        for slot in coupling.slots.get(name, ()):
            shapes[name][slot.dim] -= lost(slot.span)
    stated: dict[tuple[str, str], Any] = {}
    for attribute in coupling.attributes:
        place, less = (attribute.module, attribute.name), sum(map(lost, attribute.spans)) // attribute.divisor
        value: Any = stated.get(place, getattr(model.get_submodule(attribute.module), attribute.name))
        if attribute.index is None:
            stated[place] = value - less
        else:
            entries = list(value)
            entries[attribute.index] -= less
            stated[place] = type(value)(entries)
    return with_shapes(model, shapes, stated)


def with_shapes(
    model: nn.Module, shapes: Mapping[str, Sequence[int]], stated: Mapping[tuple[str, str], Any]
) -> nn.Module:
    """A copy of the network with tensors of these shapes, all zero; those not named are copied as they are.

    Args:
        model: the network, left as it is.
        shapes: of parameters and buffers, by name.
        stated: values of attributes that tell a size, by the module's path and their name.
    """
    memo: dict[int, Any] = {}
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    for name, shape in shapes.items():
        tensor = tensors[name]
        narrow: Tensor = tensor.detach().new_zeros(tuple(shape))
        if isinstance(tensor, nn.Parameter):
            narrow = nn.Parameter(narrow, requires_grad=tensor.requires_grad)
        vars(narrow).update(vars(tensor))
        memo[id(tensor)] = narrow
    copied = copy.deepcopy(model, memo)
    for (path, name), value in stated.items():
        setattr(copied.get_submodule(path), name, value)
    return copied


def count_flops(network: nn.Module, example_input: Example, level: int) -> int:
    """FLOPs of a forward and backward pass, by torch's count: matrix products, convolutions and attention.

    Raises:
        ConfigError: the network does not run on the example input.
    """
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    try:
        with evaluation_mode(network), torch.enable_grad(), FlopCounterMode(display=False) as counter:
            leaves = tree_leaves(network(*inputs_of(example_input)))
            outputs = [leaf.float().sum() for leaf in leaves if isinstance(leaf, Tensor) and leaf.requires_grad]
            if outputs:
                torch.autograd.grad(torch.stack(outputs).sum(), parameters, allow_unused=True)
    except Exception as error:
        where = "" if level == 0 else f" when narrowed to level {level} (its forward may hard-code a width)"
        raise ConfigError(f"{type(network).__name__} fails on the example input{where}: {error}") from error
    return counter.get_total_flops()
