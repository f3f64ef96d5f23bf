"""Components the tests name in configs by their dotted path."""

import torch
from torch import nn
from torch.utils.data import Dataset

# Sections of a config that trains two levels.
CASCADE = {"model": {"name": "mlp", "hidden": [16, 16]}, "multilevel": {"name": "cascade", "levels": 2}}
V_CYCLE = {
    "model": {"name": "mlp", "hidden": [16, 16]},
    "multilevel": {"name": "v_cycle", "levels": 2, "min_width": 2, "pre": 2, "post": 2, "coarse": 3, "k": 2},
    "trainer": {"max_epochs": 6},
    "checkpoint": {"every_epochs": 100},
}


def plane(samples=20, val=8, test=8, seed=0):
    """y = 2 x₁ − x₂ + 0.5 for x ~ N(0, 1)³, without noise."""
    generator = torch.Generator().manual_seed(seed)

    def points(count):
        x = torch.randn(count, 3, generator=generator)
        return x, (2 * x[:, 0] - x[:, 1] + 0.5)[:, None]

    return {name: points(count) for name, count in (("train", samples), ("val", val), ("test", test)) if count}


class Items(Dataset):
    """The pairs of two sequences, one by one."""

    def __init__(self, inputs, targets):
        self.inputs, self.targets = inputs, targets

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, index):
        return self.inputs[index], self.targets[index]


class Scale(nn.Module):
    """x times a learned number, from ``start``."""

    def __init__(self, start: float = 1.0, power: int = 1):
        super().__init__()
        self.factor, self.power = nn.Parameter(torch.tensor(start)), power

    def forward(self, x):
        return self.factor * x**self.power


class Restless(Scale):
    """Draws from the global generator whenever it is called."""

    def forward(self, x):
        return super().forward(x) + 0 * torch.rand(())


class Wrapped(nn.Module):
    """Holds other components: nested in the config."""

    def __init__(self, inner: nn.Module | None = None, others: dict | None = None, num_classes: int | None = None):
        super().__init__()
        self.inner, self.others, self.num_classes = inner, others, num_classes


def shifted_error(prediction, target, *, shift: float = 0.0):
    return (prediction - target + shift).square().mean()


def refuse(value: int = 0):
    raise ValueError(f"value {value} will not do")
