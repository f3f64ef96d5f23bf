"""What a network costs to use."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from accelerator.multilevel.tracing import Example, evaluation_mode, inputs_of


def parameters_of(network: nn.Module) -> int:
    """The number of its parameters; shared ones once."""
    return sum(parameter.numel() for parameter in network.parameters())


def flops_of(network: nn.Module, example_input: Example) -> int:
    """FLOPs of a forward pass, by torch's count: 2·m·n·k for a product (m, k) × (k, n); convolutions and attention too,
    what works entry by entry not.
    """
    with evaluation_mode(network), torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(*inputs_of(example_input))
    return counter.get_total_flops()
