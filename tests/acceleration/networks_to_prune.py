"""Networks of every family in float64, as after some training, with an input each."""

import torch
from torch import nn

from domain.cross.model.mlp import MLP
from domain.cv.model.cnn import CNN
from domain.cv.model.resnet import ResNet
from domain.nlp.model.transformer import Transformer
from domain.physics.model.fno import FNO

# A zero unit counts in a LayerNorm's mean and variance, so what is normalised by one keeps its width there.
NORMED = [f"blocks.{block}.{norm}" for block in range(2) for norm in ("attention_norm", "mlp_norm")]

FAMILIES = {
    "mlp": (lambda: MLP((5,), (3,), (16, 12)), (5,), []),
    "cnn": (lambda: CNN((1, 8, 8), (10,), (8, 16)), (1, 8, 8), []),
    "resnet": (lambda: ResNet((1, 8, 8), (10,), (8, 16), blocks=2), (1, 8, 8), []),
    "transformer": (lambda: Transformer((6,), (11, 6), width=16, heads=4, blocks=2), None, [*NORMED, "norm"]),
    "fno": (lambda: FNO((1, 16, 16), (1, 16, 16), width=8, modes=4, layers=2, projection=16), (1, 16, 16), []),
}


def network_and_input(family):
    torch.manual_seed(0)
    make, shape, leave_out = FAMILIES[family]
    network = make().double().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    inputs = torch.randint(0, 11, (3, 6)) if shape is None else torch.randn(3, *shape).double()
    return network, inputs, leave_out


@torch.no_grad()
def zero_units(network, coupling, group, units):
    """Set every parameter's entries of these units to 0, index by index."""
    parameters, width = dict(network.named_parameters()), coupling.groups[group].width
    for name, slots in coupling.slots.items():
        at = {}
        for slot in slots:
            start, (outer, inner) = at.get(slot.dim, 0) + slot.skip, (slot.span.outer, slot.span.inner)
            size = coupling.groups[slot.span.group].width
            if slot.span.group == group and name in parameters:
                index = [
                    start + (o * width + unit) * inner + i for o in range(outer) for unit in units for i in range(inner)
                ]
                parameters[name].index_fill_(slot.dim, torch.tensor(index), 0.0)
            at[slot.dim] = start + outer * size * inner
