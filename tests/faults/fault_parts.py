"""Components that fail on demand, and others that show whether randomness and order survive a fault."""

import random
from collections import Counter

import numpy as np
import torch
from torch.utils.data import Dataset
from toy_problem import Items, Scale, plane

from accelerator.runtime.callbacks.base import HOOKS, Callback

# Place → (number, action): what happens the how-manieth time a process comes to a place. Places are the hooks of a
# callback, "forward" of a network in training, and "sample"; samples made while a run is built count too.
FAULTS = {}
_times = Counter()


def come_to(place):
    """Have the fault that waits here; what its action returns, None if there is no fault."""
    if place not in FAULTS:
        return None
    _times[place] += 1
    number, action = FAULTS[place]
    return action() if _times[place] == number else None


class Probe(Callback):
    """Comes to the places that are hooks."""

    priority = 45


def _hook(name):
    return lambda self, context: come_to(name)


for _name in HOOKS:
    setattr(Probe, _name, _hook(_name))


class Fragile(Scale):
    """A line through the origin; what a fault returns is multiplied in."""

    def forward(self, x):
        value = come_to("forward") if self.training and torch.is_grad_enabled() else None
        prediction = super().forward(x[:, :1])
        return prediction if value is None else prediction * value


class FragileItems(Items):
    def __getitem__(self, index):
        come_to("sample")
        return super().__getitem__(index)


def fragile(samples=20):
    splits = plane(samples=samples)
    return {**splits, "train": FragileItems(*splits["train"])}


class Shaken(Dataset):
    """Each sample is shaken by Python's, NumPy's and torch's generators, as augmentations do."""

    def __init__(self, samples):
        self.samples = samples

    def __len__(self):
        return self.samples

    def __getitem__(self, index):
        shake = torch.tensor([random.random(), np.random.rand(), torch.rand(()).item()])
        return shake + index / self.samples, torch.tensor([index / self.samples])


def shaken(samples=36):
    return {**plane(samples=1), "train": Shaken(samples)}


class Numbered(Dataset):
    """Sample i is (i/n, 0, 0) → i/n, so that a batch tells what is in it."""

    def __init__(self, samples):
        self.samples = samples

    def __len__(self):
        return self.samples

    def __getitem__(self, index):
        return torch.tensor([index / self.samples, 0.0, 0.0]), torch.tensor([index / self.samples])


def numbered(samples=48):
    return {**plane(samples=1), "train": Numbered(samples)}


class SampleLog(Callback):
    """Appends one line for each step: its number, its pass, and the numbers of its samples."""

    def __init__(self, path: str):
        self.path = path

    def step_end(self, context):
        numbers = (context.batch[0][:, 0] * context.data.train.samples).round().int().tolist()
        with open(self.path, "a") as file:
            print(context.state.step, context.state.epoch, *numbers, file=file)


def read_samples(path):
    """step → (pass, numbers of its samples); of a step done again, every time."""
    steps = {}
    for line in path.read_text().splitlines():
        step, epoch, *numbers = map(int, line.split())
        steps.setdefault(step, []).append((epoch, numbers))
    return steps
