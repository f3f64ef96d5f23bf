"""The pure functions under data parallelism and torch.compile: hierarchies need nothing of their own for either."""

import copy

import pytest
import torch
from multilevel_networks import mlp, seeded
from torch import nn
from torch.nn.functional import mse_loss
from torch.nn.parallel import DistributedDataParallel

from accelerator.multilevel import FAS, carry_optimizer_state, create_network_hierarchy, gradients
from accelerator.multilevel.transfer import state_of


def hierarchy():
    return create_network_hierarchy(
        mlp((3, 12, 10, 2), nn.Tanh), batches()[0][0], levels=3, min_width=1, matching="random", generator=seeded(0)
    )


def batches(count=4):
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(8, 3, generator=generator).double() for _ in range(count)]
    return [(x, torch.cat([x.prod(1, keepdim=True), x.sin().sum(1, keepdim=True)], 1)) for x in rows]


def train(network, models, data):
    """A cascade, then a V-cycle with tau and a guard. `models` are the levels as they are called."""
    optimizers = [torch.optim.Adam(level.parameters(), lr=1e-2) for level in network.levels]

    def backward(level, batch):
        x, y = batch
        mse_loss(models[level](x), y).backward()

    def step(level, batch, change=lambda: None):
        optimizers[level].zero_grad()
        backward(level, batch)
        change()
        optimizers[level].step()

    def gradient(level, batch):
        network.levels[level].zero_grad()
        backward(level, batch)
        return gradients(network.levels[level])

    for level in (2, 1, 0):
        if level < 2:
            network.prolongate(level)
            carry_optimizer_state(optimizers[level + 1], optimizers[level], network, level + 1, level)
        for batch in data:
            step(level, batch)
    fas = FAS(network, tau="minibatch")
    for level in (0, 1):
        fas.descend(level, data, gradient)
        for number, batch in enumerate(data):
            step(level + 1, batch, lambda at=level + 1, number=number: fas.add_tau(at, number))
    corrections = [fas.ascend(level) for level in (1, 0)]
    for batch in data:
        step(0, batch)
    return corrections


def train_rank(rank, ranks, folder):
    torch.distributed.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=ranks)
    network = hierarchy()
    models = [DistributedDataParallel(level) for level in network.levels]
    train(network, models, [(x.chunk(ranks)[rank], y.chunk(ranks)[rank]) for x, y in batches()])
    torch.save([state_of(level) for level in network.levels], f"{folder}/rank{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_with_half_of_each_batch_train_as_one_process(tmp_path):
    torch.multiprocessing.spawn(train_rank, (2, tmp_path), nprocs=2)
    network = hierarchy()
    before = copy.deepcopy(state_of(network.levels[0]))
    corrections = train(network, network.levels, batches())
    assert all(correction.norm > 1e-2 for correction in corrections)
    assert any((tensor - before[name]).abs().max() > 1e-2 for name, tensor in state_of(network.levels[0]).items())
    for rank in (0, 1):
        found = torch.load(f"{tmp_path}/rank{rank}.pt")
        for level, states in zip(network.levels, found, strict=True):
            torch.testing.assert_close(states, state_of(level), rtol=1e-9, atol=1e-11)


@pytest.mark.filterwarnings("ignore:.torch.jit.*deprecated:DeprecationWarning")  # of inductor's own imports
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_levels_train_as_the_plain_ones_and_are_compiled_once(backend):
    torch.compiler.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    plain, compiled = hierarchy(), hierarchy()
    models = [torch.compile(level, backend=backend) for level in compiled.levels]
    data = batches(2)
    for level, model in zip(compiled.levels, models, strict=True):
        mse_loss(model(data[0][0]), data[0][1]).backward()
        level.zero_grad()
    assert counters["stats"]["unique_graphs"] == 3
    counters.clear()
    train(compiled, models, data)
    assert counters["stats"]["unique_graphs"] == 0
    assert not counters["recompiles"]
    train(plain, plain.levels, data)
    for one, other in zip(compiled.levels, plain.levels, strict=True):
        torch.testing.assert_close(state_of(one), state_of(other), rtol=1e-9, atol=1e-11)
