"""Narrower copies of a network, and what a step on them costs."""

from __future__ import annotations

import copy
from collections.abc import Mapping
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

    memo: dict[int, Any] = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        shape = list(tensor.shape)
        for slot in coupling.slots.get(name, ()):
            shape[slot.dim] -= lost(slot.span)
        narrow: Tensor = tensor.detach().new_zeros(shape)
        if isinstance(tensor, nn.Parameter):
            narrow = nn.Parameter(narrow, requires_grad=tensor.requires_grad)
        vars(narrow).update(vars(tensor))
        memo[id(tensor)] = narrow
    coarse = copy.deepcopy(model, memo)
    for attribute in coupling.attributes:
        module, less = coarse.get_submodule(attribute.module), sum(map(lost, attribute.spans)) // attribute.divisor
        stated: Any = getattr(module, attribute.name)
        if attribute.index is None:
            stated -= less
        else:
            entries = list(stated)
            entries[attribute.index] -= less
            stated = type(stated)(entries)
        setattr(module, attribute.name, stated)
    return coarse


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
