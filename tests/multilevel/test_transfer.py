import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from multilevel_networks import cnn, dense_operator, mlp, normed_blocks, residual, scatter_weights, seeded, tensors_of
from torch import nn

from accelerator.multilevel import create_network_hierarchy
from accelerator.multilevel.transfer import Aggregates

IMAGES = torch.zeros(1, 2, 8, 8).double()

pytestmark = pytest.mark.filterwarnings("ignore:transfer='weighted' keeps the function only")

options = st.fixed_dictionaries(
    {
        "factor": st.sampled_from([2, 4]),
        "matching": st.sampled_from(["heavy_edge", "random", "identity"]),
        "transfer": st.sampled_from(["average", "weighted"]),
    }
)


@st.composite
def hierarchies(draw):
    """Two-level hierarchies of MLPs of any (odd) widths, convolutional, residual and normed networks."""
    seed = draw(st.integers(0, 100))
    chosen = draw(options)
    kind = draw(st.sampled_from(["mlp", "cnn", "residual", "blocks"]))
    if kind == "mlp":
        hidden = draw(st.lists(st.integers(2, 13), min_size=1, max_size=3))
        model, x = mlp((3, *hidden, 2), nn.ReLU, draw(st.booleans()), seed), torch.zeros(1, 3).double()
    elif kind == "blocks":
        model, x = normed_blocks(seed), torch.zeros(1, 5, 3).double()
    else:
        model, x = (cnn(7, seed=seed) if kind == "cnn" else residual(seed=seed)), IMAGES
    return create_network_hierarchy(model, x, levels=2, min_width=1, generator=seeded(seed), **chosen)


def random_tensors(model, seed=1):
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: t for name, t in tensors_of(model).items() if t.is_floating_point()}
    return {name: torch.randn(t.shape, generator=generator, dtype=torch.float64) for name, t in tensors.items()}


@settings(deadline=None, max_examples=60)
@given(hierarchies())
def test_matrix_free_operators_equal_dense_matrices(network):
    (transfer,) = network.transfers
    fine, coarse = (random_tensors(level) for level in network.levels)
    for name in fine:
        for squared in (False, True):
            for operator, entries, tensor in [
                (transfer.restrict, "R", fine[name]),
                (transfer.prolong, "P", coarse[name]),
                (transfer.prolong_transposed, "PT", fine[name]),
                (transfer.restrict_transposed, "RT", coarse[name]),
            ]:
                expected = dense_operator(transfer, name, entries)(tensor, squared)
                torch.testing.assert_close(operator(name, tensor, squared=squared), expected, rtol=1e-12, atol=1e-12)


@settings(deadline=None, max_examples=60)
@given(hierarchies())
def test_restriction_inverts_prolongation(network):
    (transfer,) = network.transfers
    for name, tensor in random_tensors(network.levels[1]).items():
        back = transfer.restrict(name, transfer.prolong(name, tensor))
        torch.testing.assert_close(back, tensor, rtol=1e-12, atol=1e-12)


@settings(deadline=None, max_examples=60)
@given(hierarchies())
def test_transposes_are_adjoint(network):
    (transfer,) = network.transfers
    fine, coarse = random_tensors(network.levels[0], 1), random_tensors(network.levels[1], 2)
    for name, z in coarse.items():
        g = fine[name]
        for forward, adjoint in [
            (lambda t, name=name: transfer.prolong(name, t), transfer.prolong_transposed(name, g)),
            (lambda t, name=name: transfer.restrict_transposed(name, t), transfer.restrict(name, g)),
        ]:
            torch.testing.assert_close((forward(z) * g).sum(), (z * adjoint).sum(), rtol=1e-10, atol=1e-10)


@settings(deadline=None, max_examples=40)
@given(hierarchies(), st.sampled_from([0.0, 0.3, 1.0]))
def test_prolongation_keeps_the_stated_share_of_the_fine_detail(network, keep):
    (transfer,) = network.transfers
    fine, coarse = network.levels
    before = {name: tensor.clone() for name, tensor in tensors_of(fine).items()}
    scatter_weights(coarse, 3)
    network.prolongate(0, keep=keep)
    for name, tensor in tensors_of(fine).items():
        if not tensor.is_floating_point():
            continue
        p, r = (dense_operator(transfer, name, entries) for entries in "PR")
        n0, nc = before[name], tensors_of(coarse)[name]
        if "running_var" in name:
            expected = p(nc) * (n0 / p(r(n0))) ** keep
            assert (tensor > 0).all()
        else:
            expected = p(nc) + keep * (n0 - p(r(n0)))
        torch.testing.assert_close(tensor.detach(), expected.detach(), rtol=1e-10, atol=1e-10)


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
