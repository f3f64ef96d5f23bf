import functools
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from multilevel_networks import (
    cnn,
    dense_operator,
    mlp,
    normed_blocks,
    randomise_norms,
    residual,
    scatter_weights,
    seeded,
    tensors_of,
)
from torch import nn

from accelerator.multilevel import create_network_hierarchy
from accelerator.multilevel.aggregates import FAMILIES, Aggregates
from accelerator.multilevel.transfer import state_of, write_state
from domain.physics.model.fno import FNO

IMAGES = torch.zeros(1, 2, 8, 8).double()

pytestmark = pytest.mark.filterwarnings("ignore:transfer='weighted' keeps the function only")

FACTORS = {"average": 2, "weighted": 1.5, "inject": 3, "net2wider": 4}
MATCHING = {"mlp": "random", "cnn": "heavy_edge", "residual": "identity", "blocks": "radial_basis", "fno": "random"}
OPTIONS = {"fno": {"axes": ("width", "modes")}, "stack": {"axes": ("width", "depth")}}


class Stack(nn.Module):
    """Residual blocks with normalisation between two convolutions; takes [B, 2, 8, 8]."""

    def __init__(self, count=3, channels=6):
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(2, channels, 1), nn.ModuleList(Block(channels) for _ in range(count))
        self.head = nn.Conv2d(channels, 1, 1)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Block(nn.Module):
    """x + tanh(norm(conv(x)))."""

    def __init__(self, channels):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)

    def forward(self, x):
        return x + torch.tanh(self.norm(self.conv(x)))


def stack(seed=0):
    torch.manual_seed(seed)
    return randomise_norms(Stack().double()).eval()


@functools.cache
def network_of(kind, transfer, hidden=(7, 12), bias=True, seed=0):
    """Two levels, coarsened by the family's factor."""
    makers = {
        "mlp": lambda: (mlp((3, *hidden, 2), nn.ReLU, bias, seed), torch.zeros(1, 3).double()),
        "cnn": lambda: (cnn(7, seed=seed), IMAGES),
        "residual": lambda: (residual(seed=seed), IMAGES),
        "blocks": lambda: (normed_blocks(seed), torch.zeros(1, 5, 3).double()),
        "fno": lambda: (FNO((2, 8, 8), (1, 8, 8), width=5, modes=(3, 4), layers=2, projection=4).double(), IMAGES),
        "stack": lambda: (stack(seed), IMAGES),
    }
    model, x = makers[kind]()
    options = {"factor": FACTORS[transfer], "matching": MATCHING.get(kind, "random"), "transfer": transfer}
    options |= {"noise": 0.0, "min_width": 1, "generator": seeded(seed)} | OPTIONS.get(kind, {})
    return create_network_hierarchy(model, x, levels=2, **options)


every_network = pytest.mark.parametrize(("kind", "family"), [*itertools.product([*MATCHING, "stack"], FAMILIES)])
any_mlp = given(
    st.builds(
        network_of,
        st.just("mlp"),
        st.sampled_from(FAMILIES),
        st.lists(st.integers(3, 13), min_size=1, max_size=3).map(tuple),
        st.booleans(),
        st.integers(0, 3),
    )
)


def random_tensors(model, seed=1):
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: t for name, t in tensors_of(model).items() if t.is_floating_point()}
    return {name: torch.randn(t.shape, generator=generator, dtype=torch.float64) for name, t in tensors.items()}


def check_algebra(network):
    """Matrix-free = dense, RP = I, adjointness: each with random states."""
    (hop,) = network.hops
    fine, coarse = random_tensors(network.levels[0], 1), random_tensors(network.levels[1], 2)
    if "depth" not in hop.transfers:
        for operator, entries, state in [
            (hop.restrict, "R", fine),
            (hop.prolong, "P", coarse),
            (hop.prolong_transposed, "PT", fine),
            (hop.restrict_transposed, "RT", coarse),
        ]:
            for squared in (False, True):
                expected = dict(state)
                for transfer in hop.transfers.values():
                    expected = {n: dense_operator(transfer, n, entries)(t, squared) for n, t in expected.items()}
                torch.testing.assert_close(operator(state, squared=squared), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(hop.restrict(hop.prolong(coarse)), coarse, rtol=1e-12, atol=1e-12)
    dual = hop.prolong_transposed(hop.restrict_transposed(coarse))
    torch.testing.assert_close(dual, coarse, rtol=1e-12, atol=1e-12)
    for up, down in [(hop.prolong, hop.prolong_transposed), (hop.restrict_transposed, hop.restrict)]:
        above, below = inner(up(coarse), fine), inner(coarse, down(fine))
        torch.testing.assert_close(above, below, rtol=1e-10, atol=1e-10)


def inner(one, other):
    assert one.keys() == other.keys()
    return sum((one[name] * other[name]).sum() for name in one)


@every_network
def test_operators_equal_dense_matrices_invert_and_are_adjoint(kind, family):
    check_algebra(network_of(kind, family))


@settings(deadline=None, max_examples=15)
@any_mlp
def test_the_operators_of_any_odd_widths_equal_dense_matrices_invert_and_are_adjoint(network):
    check_algebra(network)


@every_network
@pytest.mark.parametrize("keep", [0.0, 0.3, 1.0])
def test_prolongation_keeps_the_stated_share_of_the_fine_detail(kind, family, keep):
    network = network_of(kind, family)
    fine, coarse = network.levels
    (hop,) = network.hops
    before, held = state_of(fine), state_of(coarse)
    before, held = ({name: tensor.clone() for name, tensor in state.items()} for state in (before, held))
    scatter_weights(coarse, 3)
    network.prolongate(0, keep={"width": keep, "modes": keep, "depth": keep})
    found, learned = state_of(fine), state_of(coarse)
    up, back = hop.prolong(learned), hop.prolong(hop.restrict(before))
    for name, tensor in found.items():
        if "running_var" in name:
            assert (tensor > 0).all()
        elif tensor.is_floating_point():
            expected = up[name] + keep * (before[name] - back[name])
            torch.testing.assert_close(tensor, expected, rtol=1e-10, atol=1e-10)
    for network_, state in ((fine, before), (coarse, held)):
        write_state(network_, state)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_variance_is_corrected_by_a_factor(family):
    """v = 𝒫v_c · (v₀/𝒫𝓡v₀)^keep: positive whatever the coarse level has learned."""
    network = network_of("cnn", family)
    fine, coarse = network.levels
    before, held = ({n: t.clone() for n, t in state_of(level).items()} for level in (fine, coarse))
    scatter_weights(coarse, 3)
    network.prolongate(0, keep=0.3)
    p, r = (dense_operator(network.hops[0].transfers["width"], "1.running_var", entries) for entries in "PR")
    v0, vc = before["1.running_var"], coarse[1].running_var
    torch.testing.assert_close(fine[1].running_var, p(vc) * (v0 / p(r(v0))) ** 0.3, rtol=1e-10, atol=1e-10)
    write_state(fine, before)
    write_state(coarse, held)


def test_average_gives_the_mean_of_rows_and_the_sum_of_columns():
    model = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [3.0], [5.0], [9.0]]))
        model[0].bias.copy_(torch.tensor([0.0, 1.0, 2.0, 4.0]))
        model[2].weight.copy_(torch.tensor([[1.0, 2.0, 10.0, 20.0]]))
    network = create_network_hierarchy(
        model, torch.zeros(1, 1).double(), levels=2, matching="identity", min_width=1, transfer="average"
    )
    coarse = network.levels[1]
    assert coarse[0].weight.tolist() == [[2.0], [7.0]]
    assert coarse[0].bias.tolist() == [0.5, 3.0]
    assert coarse[2].weight.tolist() == [[3.0, 30.0]]
    network.prolongate(0, keep=0)
    assert model[0].weight.tolist() == [[2.0], [2.0], [7.0], [7.0]]
    assert model[2].weight.tolist() == [[1.5, 1.5, 15.0, 15.0]]


def test_weighted_scales_units_by_their_share_of_the_norm():
    found = Aggregates.weighted(torch.tensor([0, 1, 0, 1, 2]), torch.tensor([1.0, 0.0, 3.0, 0.0, 7.0]))
    assert found.p.tolist() == [0.5, 1.0, 1.5, 1.0, 1.0]  # ν / mean ν; 1 where all norms are zero or the unit is single
    assert found.r.tolist() == [0.5, 0.5, 0.5, 0.5, 1.0]


def test_a_unit_of_norm_zero_beside_another_stays_zero_and_loses_nothing():
    model = mlp((3, 8, 2), nn.ReLU)
    with torch.no_grad():
        model[0].weight[1::2] = 0
        model[0].bias[1::2] = 0
    network = create_network_hierarchy(
        model, torch.zeros(1, 3).double(), levels=2, matching="identity", transfer="weighted", min_width=1
    )
    x = torch.randn(16, 3).double()
    torch.testing.assert_close(network.levels[1](x), model(x))  # dead units are parallel to any
    network.prolongate(0, keep=0)
    assert model[0].weight[1::2].abs().max() == 0
    assert all(tensor.isfinite().all() for tensor in model.parameters())


@pytest.mark.parametrize("bias", [True, False])
def test_weighted_restriction_is_exact_on_parallel_pairs(bias):
    """Units come in pairs w_j = α w_i in a random order; the coarse ReLU network is the same function."""
    seeded(5)
    model = mlp((4, 16, 12, 2), nn.ReLU, bias)
    with torch.no_grad():
        for layer in (model[0], model[2]):
            order, scale = torch.randperm(layer.out_features), torch.rand(layer.out_features // 2).double() * 3 + 0.1
            for tensor in layer.parameters():
                half = tensor[: len(scale)]
                tensor.copy_(torch.cat([half, scale.view(-1, *[1] * (half.dim() - 1)) * half])[order])
    network = create_network_hierarchy(
        model, torch.zeros(1, 4).double(), levels=2, transfer="weighted", matching="heavy_edge", min_width=1
    )
    x = torch.randn(32, 4).double()
    torch.testing.assert_close(network.levels[1](x), model(x), rtol=1e-10, atol=1e-12)


def test_average_restriction_is_exact_on_equal_pairs_for_any_activation():
    model = mlp((4, 16, 2), nn.GELU)
    with torch.no_grad():
        for tensor in model[0].parameters():
            tensor[8:] = tensor[:8].flip(0)
    network = create_network_hierarchy(model, torch.zeros(1, 4).double(), levels=2)
    x = torch.randn(32, 4).double()
    torch.testing.assert_close(network.levels[1](x), model(x), rtol=1e-10, atol=1e-12)
