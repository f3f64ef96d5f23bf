"""Small networks in float64 and dense reference operators, shared by the tests of this folder."""

import functools
import itertools

import torch
from torch import nn


def seeded(seed):
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)


def mlp(widths=(3, 12, 10, 2), activation=nn.GELU, bias=True, seed=0):
    torch.manual_seed(seed)
    layers = []
    for fan_in, fan_out in itertools.pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out, bias=bias), activation()]
    return nn.Sequential(*layers[:-1]).double()


def randomise_norms(model):
    """Running statistics and affine parameters as after some training, so that tests see them."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm | nn.GroupNorm):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return model


def cnn(channels=8, activation=nn.Tanh, seed=0, eps=1e-5):
    """Conv → BatchNorm → pooling, twice, flattened to [B, channels·4], two Linear layers; takes [B, 2, 8, 8]."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(2, channels, 3, padding=1),
        nn.BatchNorm2d(channels, eps=eps),
        activation(),
        nn.MaxPool2d(2),
        nn.Conv2d(channels, channels + 2, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels + 2, eps=eps),
        activation(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear((channels + 2) * 4, 10),
        activation(),
        nn.Dropout(0.5),
        nn.Linear(10, 3),
    )
    return randomise_norms(model.double()).eval()


class Residual(nn.Module):
    """Two residual blocks of convolutions with normalisation, a mean over space, and a reshaped output."""

    def __init__(self, channels=8, norm="batch", activation=torch.tanh):
        super().__init__()
        make = {
            "batch": functools.partial(nn.BatchNorm2d, eps=0.0),
            "group": functools.partial(nn.GroupNorm, 2),
        }[norm]
        self.stem = nn.Conv2d(2, channels, 3, padding=1)
        self.first, self.first_norm = nn.Conv2d(channels, channels, 3, padding=1), make(channels)
        self.second, self.second_norm = nn.Conv2d(channels, channels, 3, padding=1), make(channels)
        self.head = nn.Linear(channels, 6)
        self.activation = activation

    def forward(self, x):
        x = self.stem(x)
        x = x + self.activation(self.first_norm(self.first(x)))
        x = torch.add(x, self.activation(self.second_norm(self.second(x))))
        return self.head(x.mean(dim=(2, 3))).view(x.shape[0], 3, 2)


def residual(norm="batch", activation=torch.tanh, seed=0):
    torch.manual_seed(seed)
    return randomise_norms(Residual(norm=norm, activation=activation).double()).eval()


class NormedBlocks(nn.Module):
    """Pre-norm residual blocks over the last dimension, with a learned position and scale; takes [B, 5, 3]."""

    def __init__(self, width=8, hidden=12):
        super().__init__()
        self.embed = nn.Linear(3, width)
        self.position = nn.Parameter(torch.randn(5, width))
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.scale = nn.Parameter(torch.randn(width))
        self.head = nn.Linear(width, 2)

    def forward(self, x):
        x = self.embed(x) + self.position
        x = x + self.scale * self.down(nn.functional.gelu(self.up(self.norm(x))))
        return self.head(x)


def normed_blocks(seed=0):
    torch.manual_seed(seed)
    return randomise_norms(NormedBlocks().double())


def dense_operator(transfer, name, entries):
    """A function that applies the dense matrices P or R ("P", "R") or their transposes ("PT", "RT") to a tensor."""

    def apply(tensor, squared=False):
        for slot in transfer.coupling.slots.get(name, ()):
            if slot.span.group not in transfer.aggregates:
                continue
            found = transfer.aggregates[slot.span.group]
            fine, coarse = len(found.parent), int(found.parent.max()) + 1
            prolong, restrict = torch.zeros(fine, coarse).double(), torch.zeros(coarse, fine).double()
            for unit, parent in enumerate(found.parent.tolist()):
                p, r = found.p[unit], found.r[unit]
                members = [other for other in range(fine) if found.parent[other] == parent]
                match slot.role:
                    case "row" | "unit":
                        pass
                    case "column":
                        p, r = r, p
                    case "variance":
                        p, r = p**2, 1 / sum(found.p[other] ** 2 for other in members)
                    case "invariant":
                        p, r = 1, 1 / len(members)
                prolong[unit, parent], restrict[parent, unit] = p, r
            matrix = {"P": prolong, "R": restrict, "PT": prolong.T, "RT": restrict.T}[entries]
            matrix = torch.kron(torch.eye(slot.span.outer).double(), matrix.contiguous())
            matrix = torch.kron(matrix, torch.eye(slot.span.inner).double())
            if squared:
                matrix = matrix**2
            tensor = torch.movedim(torch.tensordot(matrix, tensor, dims=([1], [slot.dim])), 0, slot.dim)
        return tensor

    return apply


def tensors_of(model):
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def scatter_weights(model, seed):
    """Random weights in place of the present ones; variances stay positive."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in tensors_of(model).items():
            if tensor.is_floating_point():
                values = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
                tensor.copy_(values.abs() + 0.1 if "running_var" in name else values)
