"""Small networks in float64 and dense reference operators, shared by the tests of this folder."""

import copy
import functools
import itertools

import torch
from torch import nn

from accelerator.multilevel.narrowing import narrowed


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

    def matrix_of(slot):
        group = slot.span.group
        if group not in transfer.aggregates:
            return torch.eye(slot.span.outer * transfer.coupling.groups[group].width * slot.span.inner).double()
        found = transfer.aggregates[group]
        fine, coarse = len(found.parent), int(found.parent.max()) + 1
        prolong, restrict = torch.zeros(fine, coarse).double(), torch.zeros(coarse, fine).double()
        for unit, parent in enumerate(found.parent.tolist()):
            p, r = found.p[unit], found.r[unit]
            read = [other for other in range(fine) if found.parent[other] == parent and found.r[other] != 0]
            match slot.role:
                case "row" | "unit":
                    pass
                case "column":
                    p, r = r, p
                case "variance":
                    squares = {other: found.p[other] ** 2 if found.p[other] != 0 else 1.0 for other in [*read, unit]}
                    p, r = squares[unit], (r != 0) / sum(squares[other] for other in read)
                case "invariant":
                    p, r = 1, (r != 0) / len(read)
            prolong[unit, parent], restrict[parent, unit] = p, r
        matrix = {"P": prolong, "R": restrict, "PT": prolong.T, "RT": restrict.T}[entries]
        matrix = torch.kron(torch.eye(slot.span.outer).double(), matrix.contiguous())
        return torch.kron(matrix, torch.eye(slot.span.inner).double())

    def apply(tensor, squared=False):
        for dim, slots in itertools.groupby(transfer.coupling.slots.get(name, ()), key=lambda slot: slot.dim):
            slots = list(slots)
            if not any(slot.span.group in transfer.aggregates for slot in slots):
                continue
            blocks = [block for slot in slots for block in (torch.eye(slot.skip).double(), matrix_of(slot))]
            rest = tensor.shape[dim] - sum(block.shape[1] for block in blocks)
            matrix = torch.block_diag(*blocks, torch.eye(rest).double())
            if squared:
                matrix = matrix**2
            tensor = torch.movedim(torch.tensordot(matrix, tensor, dims=([1], [dim])), 0, dim)
        return tensor

    return apply


def tensors_of(model):
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def scatter_weights(model, seed, scale=1.0):
    """Random weights in place of the present ones; variances stay positive."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in tensors_of(model).items():
            if tensor.is_floating_point():
                values = scale * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
                tensor.copy_(values.abs() + 0.1 if "running_var" in name else values)


def coarse_widths(coupling):
    """Half as many units in each group (rounded up, in each block); followers as their leaders say."""
    widths = {number: group.blocks * -(-(group.width // group.blocks) // 2) for number, group in coupling.free.items()}
    for number, group in coupling.free.items():
        if group.follows is not None:
            leader, ratio = group.follows
            widths[number] = ratio * widths[leader]
    return widths


def random_parents(coupling, widths, seed=0):
    """The coarse unit of each fine one, drawn at random within blocks."""
    generator, parents = torch.Generator().manual_seed(seed), {}
    for number, width in widths.items():
        group = coupling.groups[number]
        fine, coarse = group.width // group.blocks, width // group.blocks
        assert fine <= 2 * coarse
        blocks = [torch.arange(fine)[torch.randperm(fine, generator=generator)] % coarse for _ in range(group.blocks)]
        parents[number] = torch.cat([block + coarse * number for number, block in enumerate(blocks)])
    return parents


def copied_and_split(coupling, parents, name, coarse):
    """𝒫 of the average family, entry by entry: rows of a coarse unit copied, columns divided among its copies."""
    for dim in range(coarse.dim()):
        index, weight = torch.arange(0), torch.ones(0, dtype=torch.float64)
        start = 0
        for slot in [slot for slot in coupling.slots.get(name, ()) if slot.dim == dim]:
            parent, (outer, inner) = parents[slot.span.group], (slot.span.outer, slot.span.inner)
            units = int(parent.max()) + 1
            share = 1 / torch.bincount(parent)[parent] if slot.role == "column" else torch.ones(len(parent))
            entries = (torch.arange(outer)[:, None, None] * units + parent[:, None]) * inner + torch.arange(inner)
            index = torch.cat([index, torch.arange(start, start + slot.skip), start + slot.skip + entries.flatten()])
            spread = share.double()[:, None].expand(outer, -1, inner).flatten()
            weight = torch.cat([weight, torch.ones(slot.skip, dtype=torch.float64), spread])
            start += slot.skip + outer * units * inner
        rest = torch.arange(start, coarse.shape[dim])
        index, weight = torch.cat([index, rest]), torch.cat([weight, torch.ones(len(rest), dtype=torch.float64)])
        shape = [-1 if other == dim else 1 for other in range(coarse.dim())]
        coarse = coarse.index_select(dim, index)
        coarse = coarse * weight.view(shape) if coarse.is_floating_point() else coarse
    return coarse


def assert_copies_keep_the_function(model, *inputs, coupling, seed=0, atol=1e-12):
    """A narrowed copy with random weights computes what the network does that holds its weights, prolonged."""
    model = model.double().eval()
    widths = coarse_widths(coupling)
    coarse, fine = narrowed(model, coupling, widths), copy.deepcopy(model)
    assert sum(p.numel() for p in coarse.parameters()) < sum(p.numel() for p in model.parameters())
    scatter_weights(coarse, seed, scale=0.5)
    for name, tensor in coarse.named_buffers():
        if not tensor.is_floating_point():
            tensor.copy_(tensors_of(model)[name])  # masks and counters: of no width
    parents = random_parents(coupling, widths, seed)
    with torch.no_grad():
        for name, tensor in tensors_of(fine).items():
            tensor.copy_(copied_and_split(coupling, parents, name, tensors_of(coarse)[name]))
    expected, found = coarse(*inputs), fine(*inputs)
    assert expected.std() > 1e-3
    torch.testing.assert_close(found, expected, atol=atol, rtol=0)
    return coarse
