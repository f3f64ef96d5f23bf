"""Smaller and faster networks from trained ones, in pure torch: nothing of the platform is needed.

>>> import torch
>>> from accelerator.acceleration import flops_of, prune
>>> network = torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))
>>> smaller = prune(network, torch.randn(2, 4), amount=0.5)
>>> smaller[0]
Linear(in_features=4, out_features=32, bias=True)
>>> flops_of(smaller, torch.randn(1, 4)) / flops_of(network, torch.randn(1, 4))
0.5
"""

from accelerator.acceleration.cost import flops_of, parameters_of
from accelerator.acceleration.importance import IMPORTANCES
from accelerator.acceleration.pruning import Prune, prune, selected
from accelerator.acceleration.quantization import Quantize, quantize
from accelerator.acceleration.surgery import resized, sizes_of

__all__ = [
    "IMPORTANCES",
    "Prune",
    "Quantize",
    "flops_of",
    "parameters_of",
    "prune",
    "quantize",
    "resized",
    "selected",
    "sizes_of",
]
