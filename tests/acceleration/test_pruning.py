"""Whole units are removed, the right ones, everywhere; and what is left computes what it should."""

import pytest
import torch
from networks_to_prune import FAMILIES, network_and_input, zero_units
from torch import nn

from accelerator.acceleration import Prune, flops_of, parameters_of, prune, selected
from accelerator.errors import ConfigError
from accelerator.multilevel import trace_coupling
from domain.cross.model.mlp import MLP
from domain.cv.model.resnet import ResNet


def mlp(*hidden):
    torch.manual_seed(0)
    return MLP((5,), (3,), hidden).double(), torch.randn(4, 5).double()


@pytest.mark.parametrize("family", FAMILIES)
def test_keeping_every_unit_changes_no_bit(family):
    network, inputs, _ = network_and_input(family)
    coupling = trace_coupling(network, inputs)
    same = selected(network, coupling, {number: torch.arange(g.width) for number, g in coupling.free.items()})
    assert all(torch.equal(tensor, same.state_dict()[name]) for name, tensor in network.state_dict().items())
    assert torch.equal(same(inputs), network(inputs))


@pytest.mark.parametrize("per_layer", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_units_that_are_zero_go_first_and_the_function_stays(family, per_layer):
    network, inputs, leave_out = network_and_input(family)
    coupling = trace_coupling(network, inputs, leave_out=leave_out)
    generator = torch.Generator().manual_seed(1)
    for number, group in coupling.free.items():
        units = torch.randperm(group.width, generator=generator)[: group.width // 2]
        zero_units(network, coupling, number, units.tolist())
    expected = network(inputs)
    smaller = prune(network, inputs, 0.5, per_layer=per_layer, leave_out=leave_out)
    assert expected.std() > 1e-3
    torch.testing.assert_close(smaller(inputs), expected, atol=1e-12, rtol=0)
    traced = trace_coupling(smaller, inputs, leave_out=leave_out)
    assert [group.width for group in traced.free.values()] == [g.width // 2 for g in coupling.free.values()]


def test_sizes_parameters_and_flops_are_exact():
    network, inputs = mlp(16, 12)
    smaller = prune(network, inputs, 0.5)
    assert [(m.in_features, m.out_features) for m in smaller.modules() if isinstance(m, nn.Linear)] == [
        *[(5, 8), (8, 6), (6, 3)]
    ]
    assert parameters_of(smaller) == (5 * 8 + 8) + (8 * 6 + 6) + (6 * 3 + 3)
    assert flops_of(smaller, inputs) == 2 * 4 * (5 * 8 + 8 * 6 + 6 * 3)
    assert parameters_of(network) == (5 * 16 + 16) + (16 * 12 + 12) + (12 * 3 + 3), "left as it was"
    assert type(smaller) is MLP


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"amount": 0.3}, [7, 14]),
        ({"amount": 0.5, "round_to": 8}, [8, 16]),
        ({"amount": 0.75, "round_to": 4}, [4, 8]),
        ({"amount": 0.9, "min_width": 6}, [6, 6]),
        ({"amount": 0.99}, [1, 1]),
        ({"amount": 0.5, "leave_out": ["layers.0"]}, [10, 10]),
    ],
)
def test_how_many_units_stay(options, kept):
    network, inputs = mlp(10, 20)
    smaller = prune(network, inputs, **options)
    assert [smaller.layers[0].out_features, smaller.layers[2].out_features] == kept


def test_all_together_units_go_where_they_matter_least():
    network, inputs = mlp(16, 16)
    with torch.no_grad():
        network.layers[0].weight[8:] *= 1e-3
        network.layers[0].bias[8:] *= 1e-3
        network.layers[2].weight[:, 8:] *= 1e-3
    smaller = prune(network, inputs, 0.25, per_layer=False)
    assert (smaller.layers[0].out_features, smaller.layers[2].out_features) == (8, 16)
    assert torch.equal(smaller.layers[0].weight, network.layers[0].weight[:8])


def test_heads_go_whole():
    network, inputs, _ = network_and_input("transformer")
    smaller = prune(network, inputs, 0.5)
    attention, before = smaller.blocks[0].attention, network.blocks[0].attention
    assert (attention.query.out_features, attention.head_size) == (8, 4)
    # The bias tells which head each row was of: three projections keep the same ones.
    for projection in ("query", "key", "value"):
        getattr(before, projection).bias.data = torch.arange(16.0).double()
    bias = {p: getattr(prune(network, inputs, 0.5).blocks[0].attention, p).bias for p in ("query", "key", "value")}
    heads = bias["query"].view(2, 4)
    assert torch.equal(heads, heads[:, :1] + torch.arange(4.0))
    assert (heads[:, 0] % 4 == 0).all()
    assert torch.equal(bias["key"], bias["query"])
    assert torch.equal(bias["value"], bias["query"])


def test_every_block_of_a_group_norm_loses_as_many():
    torch.manual_seed(0)
    network, inputs = ResNet((1, 8, 8), (10,), (8,), norm="group", groups=4, blocks=1).double(), torch.randn(2, 1, 8, 8)
    network.stem[1].bias.data = torch.arange(8.0).double()
    smaller = prune(network, inputs.double(), 0.5)
    assert smaller.stem[1].num_groups == 4
    assert (smaller.stem[1].bias // 2).tolist() == [0, 1, 2, 3]


def test_the_norms_order_units_by_all_the_weights_they_have_a_part_in():
    network = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)).double()
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[3.0, 0.0], [1.0, 1.0], [0.0, 0.0]]))
        network[0].bias.copy_(torch.tensor([0.0, 1.0, 0.0]))
        network[2].weight.copy_(torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 3.5]]))
    inputs = torch.randn(2, 2).double()
    coupling = trace_coupling(network, inputs)
    # Sums of sizes 3, 4, 3.5; of squares 9, 4, 12.25.
    for importance, gone in (("l1", 0), ("l2", 1)):
        (kept,) = Prune(amount=0.34, importance=importance).select(network, coupling).values()
        assert kept.tolist() == [unit for unit in range(3) if unit != gone]


class Joined(nn.Module):
    """A layer that reads the input beside the units, and another copy of them behind."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(3, 8), nn.Linear(3, 6), nn.Linear(3 + 8 + 6, 2)

    def forward(self, x):
        return self.last(torch.cat([x, torch.relu(self.first(x)), torch.tanh(self.second(x))], dim=1))


def test_units_in_a_concatenation_are_judged_by_their_own_columns():
    torch.manual_seed(0)
    network, inputs = Joined().double(), torch.randn(4, 3).double()
    coupling = trace_coupling(network, inputs)
    with torch.no_grad():
        for layer in (network.first, network.second):
            layer.weight.fill_(1e-3)
            layer.bias.fill_(1e-3)
    for number, units in zip(coupling.free, ([0, 3, 4, 7], [1, 2, 5]), strict=True):
        zero_units(network, coupling, number, units)
    smaller = prune(network, inputs, 0.5)
    assert torch.equal(smaller.last.weight, network.last.weight[:, [0, 1, 2, 4, 5, 8, 9, 11, 14, 15]])
    torch.testing.assert_close(smaller(inputs), network(inputs), atol=1e-12, rtol=0)


def test_random_is_of_its_seed_alone():
    network, inputs = mlp(64)
    rows = [prune(network, inputs, importance="random", seed=seed).layers[0].weight for seed in (0, 0, 1)]
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])


@pytest.mark.parametrize("amount", [0, 1, -0.5, float("nan")])
def test_an_amount_that_is_no_share_is_refused(amount):
    with pytest.raises(ConfigError, match=rf"amount={amount}: expected a share of the units above 0 and below 1"):
        Prune(amount=amount)


def test_all_mistakes_are_told_together():
    with pytest.raises(ConfigError) as caught:
        Prune(amount=2, importance="l2x", round_to=0, min_width=0)
    assert caught.value.problems == [
        "amount=2: expected a share of the units above 0 and below 1, such as 0.5 for half of them",
        "importance='l2x' is unknown — did you mean 'l2'?",
        "round_to=0: expected at least 1",
        "min_width=0: expected at least 1",
    ]


def test_a_network_without_units_of_its_own_is_refused_with_the_reason():
    with pytest.raises(ConfigError, match=r"cannot prune: MLP has no width to .* \(layers\.0: it is an output"):
        prune(*mlp())


def test_an_amount_too_small_for_a_single_unit_is_refused():
    with pytest.raises(ConfigError, match=r"amount=0\.05: no unit goes, by round_to=1 and min_width=1 .*layers\.0: 10"):
        prune(*mlp(10), 0.05)


def test_weights_that_are_not_finite_are_refused():
    network, inputs = mlp(8)
    network.layers[0].weight.data[3] = float("nan")
    with pytest.raises(ConfigError, match=r"the weights of layers\.0 are not finite"):
        prune(network, inputs)


def test_a_module_left_out_that_is_not_there_is_told():
    with pytest.raises(ConfigError, match=r"leave_out names 'layer\.0'.*did you mean 'layers\.0'"):
        prune(*mlp(8), leave_out=["layer.0"])
