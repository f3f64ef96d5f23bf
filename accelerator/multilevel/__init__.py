"""Multilevel training of any network, in pure torch: hierarchies, transfer between levels, and schedules.

A hierarchy holds the network and its coarser copies; a schedule says how much work to spend on which level; training
itself is your own loop. Nested iteration (train coarse, prolong, train finer):

>>> import torch
>>> from accelerator.multilevel import carry_optimizer_state, cascade, create_network_hierarchy, steps_of
>>> model = torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.GELU(), torch.nn.Linear(64, 1))
>>> x = torch.randn(32, 4); y = x.prod(dim=1, keepdim=True)
>>> network = create_network_hierarchy(model, x, levels=3)
>>> optimizers = [torch.optim.Adam(level.parameters(), lr=1e-2) for level in network.levels]
>>> stages = list(cascade(budget=20.0, costs=network.costs))
>>> for stage, steps in zip(stages, steps_of(stages, network.costs)):
...     level = stage.level
...     if level < 2:
...         network.prolongate(level)
...         carry_optimizer_state(optimizers[level + 1], optimizers[level], network, level + 1, level)
...     for _ in range(steps):
...         optimizers[level].zero_grad()
...         torch.nn.functional.mse_loss(network.levels[level](x), y).backward()
...         optimizers[level].step()

`model` is `network.levels[0]` and now trained.
"""

from accelerator.multilevel.aggregates import Aggregates
from accelerator.multilevel.coupling import Coupling, Group, trace_coupling
from accelerator.multilevel.fas import FAS, Correction, coupled_decay, gradients
from accelerator.multilevel.hierarchy import (
    MultilevelNetwork,
    create_fno_hierarchy,
    create_network_hierarchy,
)
from accelerator.multilevel.hop import Hop
from accelerator.multilevel.matching import MATCHINGS, HeavyEdge
from accelerator.multilevel.optimizer_state import MultilevelAdam, carry_average, carry_optimizer_state
from accelerator.multilevel.pairs import prolongate, restrict
from accelerator.multilevel.resampling import GridSampling, coarsen_grid
from accelerator.multilevel.schedule import (
    Smoothing,
    Stage,
    cascade,
    cycles,
    default_fractions,
    full_multigrid,
    single,
    steps_of,
)
from accelerator.multilevel.trainer import CascadeTrainer
from accelerator.multilevel.transfer import Transfer, UnitTransfer

__all__ = [
    "FAS",
    "MATCHINGS",
    "Aggregates",
    "CascadeTrainer",
    "Correction",
    "Coupling",
    "GridSampling",
    "Group",
    "HeavyEdge",
    "Hop",
    "MultilevelAdam",
    "MultilevelNetwork",
    "Smoothing",
    "Stage",
    "Transfer",
    "UnitTransfer",
    "carry_average",
    "carry_optimizer_state",
    "cascade",
    "coarsen_grid",
    "coupled_decay",
    "create_fno_hierarchy",
    "create_network_hierarchy",
    "cycles",
    "default_fractions",
    "full_multigrid",
    "gradients",
    "prolongate",
    "restrict",
    "single",
    "steps_of",
    "trace_coupling",
]
