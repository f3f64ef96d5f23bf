import copy
import io
import itertools

import pytest
import torch
from multilevel_networks import cnn, mlp, normed_blocks, randomise_norms, residual, scatter_weights, seeded, tensors_of
from torch import nn

from accelerator.errors import CheckpointError, ConfigError
from accelerator.multilevel import MultilevelNetwork, create_network_hierarchy, prolongate, restrict
from accelerator.multilevel.narrowing import count_flops
from accelerator.multilevel.transfer import state_of

IMAGES = torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(0)).double()
ROWS = torch.randn(4, 3, generator=torch.Generator().manual_seed(1)).double()
SEQUENCES = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(2)).double()


class Attention(nn.Module):
    """A transformer layer between two Linear layers; takes [B, 5, 3]."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(3, 16), nn.Linear(16, 2)
        self.layer = nn.TransformerEncoderLayer(16, 4, 24, 0.0, "gelu", batch_first=True, norm_first=True)

    def forward(self, x):
        return self.head(self.layer(self.embed(x)))


def attention():
    torch.manual_seed(0)
    return randomise_norms(Attention().double())


KEPT_BY_AVERAGE = {
    "gelu": (lambda: mlp((3, 16, 12, 2), nn.GELU), ROWS),
    "tanh, odd widths": (lambda: mlp((3, 17, 13, 11, 2), nn.Tanh), ROWS),
    "no bias": (lambda: mlp((3, 16, 12, 2), nn.SiLU, bias=False), ROWS),
    "conv + batch norm + pooling + flatten": (lambda: cnn(9), IMAGES),
    "residual + batch norm": (lambda: residual("batch"), IMAGES),
    "residual + group norm": (lambda: residual("group"), IMAGES),
    "layer norm + learned position and scale": (normed_blocks, SEQUENCES),
    "attention + layer norm": (attention, SEQUENCES),
}
WITHOUT_JOINT_NORMS = ("gelu", "tanh, odd widths", "conv + batch norm + pooling + flatten", "residual + batch norm")
KEPT_BY_WEIGHTED = {
    "relu, odd widths": (lambda: mlp((3, 17, 13, 11, 2), nn.ReLU), ROWS),
    "no bias": (lambda: mlp((3, 16, 12, 2), nn.LeakyReLU, bias=False), ROWS),
    "one hidden layer": (lambda: mlp((3, 9, 2), nn.PReLU), ROWS),
    "conv + batch norm + pooling + flatten": (lambda: cnn(8, nn.ReLU, eps=0.0), IMAGES),
    "residual + batch norm": (lambda: residual("batch", torch.relu), IMAGES),
}
CASES = {f"average: {name}": ("average", *case) for name, case in KEPT_BY_AVERAGE.items()}
CASES |= {f"weighted: {name}": ("weighted", *case) for name, case in KEPT_BY_WEIGHTED.items()}
CASES |= {f"inject: {name}": ("inject", *KEPT_BY_AVERAGE[name]) for name in WITHOUT_JOINT_NORMS}
CASES |= {f"net2wider: {name}": ("net2wider", *KEPT_BY_AVERAGE[name]) for name in ("gelu", "attention + layer norm")}
every_case = pytest.mark.parametrize(("transfer", "make", "x"), CASES.values(), ids=CASES)


def hierarchy(make, x, transfer="average", **options):
    options = {"levels": 2, "min_width": 1, "matching": "random", "generator": seeded(0)} | options
    return create_network_hierarchy(make(), x, transfer=transfer, **options)


@pytest.mark.parametrize("factor", [2, 4])
@every_case
def test_prolongation_keeps_the_function(transfer, make, x, factor):
    network = hierarchy(make, x, transfer, factor=factor, noise=0.0)
    scatter_weights(network.levels[1], 7)
    network.prolongate(0, keep=0.0)
    fine, coarse = (level.eval()(x) for level in network.levels)
    assert coarse.std() > 0.01
    torch.testing.assert_close(fine, coarse, rtol=1e-9, atol=1e-9)


@every_case
def test_the_gradients_of_a_prolonged_network_and_of_the_coarse_one_are_carried_into_each_other(transfer, make, x):
    """For f_c(c) = f(𝒫c): ∇f_c = 𝒫ᵀ∇f; and ∇f(𝒫c) = 𝓡ᵀ∇f_c(c), since the copies of a unit share its gradient."""
    network = hierarchy(make, x, transfer, noise=0.0)
    scatter_weights(network.levels[1], 3)
    network.prolongate(0, keep=0.0)
    for level in network.levels:
        level.eval()(x).square().sum().backward()
    (hop,) = network.hops
    fine, coarse = ({name: p.grad for name, p in level.named_parameters()} for level in network.levels)
    torch.testing.assert_close(hop.prolong_transposed(fine), coarse, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(hop.restrict_transposed(coarse), fine, rtol=1e-8, atol=1e-8)


def test_with_keep_one_an_untouched_coarse_level_gives_the_fine_network_back():
    network = hierarchy(lambda: cnn(8), IMAGES, keep=1.0)
    before = {name: tensor.clone() for name, tensor in tensors_of(network.levels[0]).items()}
    network.prolongate(0)
    for name, tensor in tensors_of(network.levels[0]).items():
        torch.testing.assert_close(tensor, before[name], rtol=1e-12, atol=1e-12)


def test_keep_tells_twins_apart():
    network = hierarchy(lambda: mlp((3, 8, 2)), ROWS, matching="identity")
    original = copy.deepcopy(network.levels[0].state_dict())
    for keep, alike in [(0.0, True), (0.5, False)]:
        network.levels[0].load_state_dict(original)
        network.prolongate(0, keep=keep)
        weight = network.levels[0][0].weight
        assert torch.equal(weight[0::2], weight[1::2]) is alike


def test_a_share_below_one_mixes_the_result_with_what_the_level_held():
    """N = (1 − α) N₀ + α 𝒫N_c at keep = 0: the interpolation of Zou et al."""
    network = hierarchy(lambda: mlp((3, 8, 2)), ROWS)
    before = {name: tensor.clone() for name, tensor in state_of(network.levels[0]).items()}
    scatter_weights(network.levels[1], 2)
    network.prolongate(0, keep=0.0, share=0.25)
    up = network.hops[0].prolong(state_of(network.levels[1]))
    for name, tensor in state_of(network.levels[0]).items():
        torch.testing.assert_close(tensor, 0.75 * before[name] + 0.25 * up[name], rtol=1e-12, atol=1e-12)
    for share in (0.0, 1.1):
        with pytest.raises(ConfigError, match=rf"share={share}: must be above 0 and at most 1"):
            network.prolongate(0, share=share)
    with pytest.raises(ConfigError, match=r"keep\.height: no such axis"):
        network.prolongate(0, keep={"height": 1.0})


def test_a_correction_is_the_prolonged_change_of_the_coarse_level():
    """With keep = 1, prolongation is N₀ + 𝒫(N_c − 𝓡N₀): the correction, on every parameter."""
    network = hierarchy(lambda: mlp((3, 9, 7, 2)), ROWS)
    before = {name: tensor.clone() for name, tensor in state_of(network.levels[0]).items()}
    start = {name: tensor.clone() for name, tensor in state_of(network.levels[1]).items()}
    scatter_weights(network.levels[1], 2)
    correction = network.correction(0, start)
    network.prolongate(0, keep=1.0)
    for name, tensor in state_of(network.levels[0]).items():
        torch.testing.assert_close(tensor, before[name] + correction[name], rtol=1e-12, atol=1e-12)


def test_noise_tells_twins_apart_by_the_stated_share_and_is_drawn_from_the_generator():
    def prolonged(seed, **options):
        network = hierarchy(
            lambda: mlp((3, 400, 2)), ROWS, "net2wider", matching="identity", generator=seeded(seed), **options
        )
        network.prolongate(0, keep=0.0)
        return network.levels[0]

    exact = prolonged(0, noise=0.0)[0].weight.detach()
    assert torch.equal(exact[0::2], exact[1::2])
    for share, options in [(0.01, {}), (0.2, {"noise": 0.2})]:  # 0.01 is the family's default
        noisy = prolonged(0, **options)
        noise = (noisy[0].weight.detach() - exact) / exact.std()
        assert float(noise.std()) == pytest.approx(share, rel=0.1)  # 1200 draws: a standard error of 2 %
        assert not torch.equal(noisy[0].weight[0::2], noisy[0].weight[1::2])
    assert torch.equal(prolonged(0)[0].weight, prolonged(0)[0].weight)
    assert not torch.equal(prolonged(0)[0].weight, prolonged(1)[0].weight)
    average = create_network_hierarchy(mlp((3, 16, 2)), ROWS, levels=2, matching="identity")
    average.prolongate(0, keep=0.0)
    assert torch.equal(average.levels[0][0].weight[0::2], average.levels[0][0].weight[1::2])


def test_each_level_holds_the_restriction_of_the_finer_one_and_the_model_is_level_zero():
    model = mlp((3, 65, 40, 2))
    before = copy.deepcopy(model.state_dict())
    network = create_network_hierarchy(model, ROWS, levels=4)
    assert network.levels[0] is model
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [network.widths(level) for level in range(4)] == [[65, 40], [33, 20], [17, 10], [9, 10]]
    for level, hop in enumerate(network.hops):
        torch.testing.assert_close(state_of(network.levels[level + 1]), hop.restrict(state_of(network.levels[level])))
    assert network.parameters == tuple(3 * a + a + a * b + b + 2 * b + 2 for a, b in map(network.widths, range(4)))


def test_a_group_stops_at_the_least_width():
    network = create_network_hierarchy(mlp((3, 64, 12, 2)), ROWS, levels=3, min_width=8)
    assert [network.widths(level) for level in range(3)] == [[64, 12], [32, 12], [16, 12]]


def test_costs_are_the_counted_flops_of_a_forward_and_backward_pass():
    """A Linear n → m costs 2nm a row forward, as much for the weight's gradient and, but for the first, the input's."""
    network = create_network_hierarchy(mlp((10, 64, 32, 5)), torch.zeros(7, 10).double(), levels=3)

    def flops(a, b):
        return 7 * 2 * (2 * 10 * a + 3 * a * b + 3 * b * 5)

    assert network.costs == pytest.approx((1, flops(32, 16) / flops(64, 32), flops(16, 8) / flops(64, 32)), rel=1e-12)


def test_coarse_levels_are_modules_of_the_same_kind_that_state_their_widths():
    coarse = hierarchy(lambda: cnn(8), IMAGES).levels[1]
    described = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.Tanh(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 5, 3, padding=1, bias=False),
        nn.BatchNorm2d(5),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(20, 5),
        nn.Tanh(),
        nn.Dropout(0.5),
        nn.Linear(5, 3),
    )
    assert repr(coarse) == repr(described)
    again = create_network_hierarchy(coarse, IMAGES, levels=2, min_width=1)
    assert again.widths(1) == [2, 3, 3]
    blocks = hierarchy(normed_blocks, SEQUENCES).levels[1]
    assert blocks.norm.normalized_shape == (4,)
    assert hierarchy(lambda: residual("group"), IMAGES).levels[1].first_norm.num_channels == 4


def test_options_of_parameters_and_modes_of_modules_are_those_of_the_model():
    model = nn.Sequential(nn.Linear(3, 16), nn.BatchNorm1d(16), nn.Linear(16, 16), nn.Linear(16, 1)).double()
    model[0].weight.requires_grad_(False)
    model[2].weight = nn.Parameter(model[2].weight.detach().clone())
    model[2].weight.no_decay = True
    model[1].eval()
    model[3].weight.grad = torch.ones_like(model[3].weight)
    coarse = create_network_hierarchy(model, ROWS, levels=2).levels[1]
    assert [p.requires_grad for p in coarse.parameters()] == [p.requires_grad for p in model.parameters()]
    assert [module.training for module in coarse] == [True, False, True, True]
    assert coarse[2].weight.no_decay is True
    assert coarse[3].weight.grad is None
    assert model[3].weight.grad.sum() == 16


def test_shared_weights_are_shared_on_every_level():
    shared = nn.Linear(16, 16)
    model = nn.Sequential(nn.Linear(3, 16), shared, nn.Tanh(), shared, nn.Linear(16, 16), nn.Linear(16, 1)).double()
    model[4].weight = shared.weight
    network = create_network_hierarchy(model, ROWS, levels=2)
    coarse = network.levels[1]
    assert coarse[1] is coarse[3]
    assert coarse[4].weight is coarse[1].weight
    assert coarse[4].weight.shape == (8, 8)
    scatter_weights(coarse, 0)
    network.prolongate(0, keep=0)
    torch.testing.assert_close(model(ROWS), coarse(ROWS))


def test_a_module_left_out_keeps_its_size():
    model = nn.Sequential(
        nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16), nn.Linear(16, 1)
    )
    coarse = create_network_hierarchy(model, ROWS.float(), levels=2, leave_out=["2"]).levels[1]
    assert [tuple(layer.weight.shape) for layer in coarse if isinstance(layer, nn.Linear)] == [
        (16, 3),
        (16, 16),
        (8, 16),
        (1, 8),
    ]


def test_restriction_takes_the_weights_of_the_present_network_and_rematching_its_pairs():
    network = hierarchy(lambda: mlp((3, 16, 2), nn.ReLU), ROWS, "weighted", matching="heavy_edge")
    (before,) = (found.parent for found in network.hops[0].transfers["width"].aggregates.values())
    scatter_weights(network.levels[0], 5)
    network.restrict(0)
    (after,) = network.hops[0].transfers["width"].aggregates.values()
    assert torch.equal(after.parent, before)
    weight = torch.cat([network.levels[0][0].weight, network.levels[0][0].bias[:, None]], 1)
    norm = weight.norm(dim=1).detach()
    mean = torch.zeros(8).double().index_add(0, before, norm / 2)[before]
    torch.testing.assert_close(after.p, norm / mean)
    network.restrict(0, rematch=True)
    (rematched,) = (found.parent for found in network.hops[0].transfers["width"].aggregates.values())
    assert not torch.equal(rematched, before)
    fresh = create_network_hierarchy(network.levels[0], ROWS, levels=2, transfer="weighted")
    torch.testing.assert_close(fresh.levels[1].state_dict(), network.levels[1].state_dict())


@pytest.mark.parametrize("transfer", ["average", "weighted"])
@pytest.mark.filterwarnings("ignore:transfer='weighted' keeps the function only")
def test_a_saved_hierarchy_continues_bit_for_bit(transfer):
    def run(network, begin, end):
        for cycle in range(begin, end):
            for level in network.levels:
                with torch.no_grad():
                    for index, parameter in enumerate(level.parameters()):
                        parameter.mul_(1 + 0.1 * torch.sin(parameter + cycle + index))
            network.restrict(0, rematch=True)
            network.prolongate(1, keep=0.3)
            network.restrict(1)
            network.prolongate(0)

    def make(seed):
        make_model = lambda: cnn(16, seed=seed)  # noqa: E731
        return hierarchy(make_model, IMAGES, transfer, levels=3, generator=seeded(seed))

    straight, resumed = make(0), make(1)
    run(straight, 0, 4)
    half = make(0)
    run(half, 0, 2)
    buffer = io.BytesIO()
    torch.save(half.state_dict(), buffer)
    buffer.seek(0)
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    run(resumed, 2, 4)
    for one, other in zip(straight.levels, resumed.levels, strict=True):
        assert all(
            torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
        )


def test_a_state_of_another_hierarchy_is_refused_and_changes_nothing():
    network, other = hierarchy(lambda: mlp((3, 16, 2)), ROWS), hierarchy(lambda: mlp((3, 20, 2), seed=1), ROWS)
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(CheckpointError, match=r"levels\.0\.0\.weight: \[16, 3\] here, \[20, 3\] saved"):
        network.load_state_dict(other.state_dict())
    with pytest.raises(CheckpointError, match="transfer: 'average' here, 'weighted' saved"):
        network.load_state_dict(network.state_dict() | {"transfer": "weighted"})
    with pytest.raises(CheckpointError, match="aggregates: only in the hierarchy"):
        network.load_state_dict({key: value for key, value in before.items() if key != "aggregates"})
    for level, saved in zip(network.levels, before["levels"].values(), strict=True):
        assert all(torch.equal(tensor, saved[name]) for name, tensor in level.state_dict().items())


def test_creation_is_deterministic_given_the_generator():
    one, other = (hierarchy(lambda: mlp((3, 32, 32, 2)), ROWS, levels=3, generator=seeded(4)) for _ in range(2))
    for a, b in zip(one.levels[2].parameters(), other.levels[2].parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": 1}, "levels=1: a hierarchy needs at least 2 levels"),
        ({"factor": 1}, r"factor=1: must be above 1 \(2 halves\)"),
        ({"matching": "heavy"}, "matching='heavy' is unknown — did you mean 'heavy_edge'"),
        ({"transfer": "mean"}, "transfer='mean' is unknown — choose from: average, inject, net2wider, weighted"),
        ({"min_width": 0}, "min_width=0: must be at least 1"),
        ({"keep": 1.5}, "keep=1.5: must be between 0"),
        ({"levels": 4}, r"levels=4: no width of level 2 \(8\) can be divided by factor=2 .* ask for levels=3"),
    ],
)
def test_options_that_cannot_be_are_refused_with_the_value(options, message):
    with pytest.raises(ConfigError, match=message):
        create_network_hierarchy(mlp((3, 32, 2)), ROWS, **options)


def test_all_wrong_options_are_told_together():
    with pytest.raises(ConfigError) as caught:
        create_network_hierarchy(mlp(), ROWS, levels=0, factor=1, matching="x", min_width=-1)
    assert len(caught.value.problems) == 4


def test_levels_that_do_not_exist_are_refused():
    network = hierarchy(lambda: mlp((3, 16, 2)), ROWS)
    for call, name in itertools.product((1, -1), ("restrict", "prolongate")):
        with pytest.raises(ConfigError, match=rf"{name}\({call}\): this hierarchy of 2 levels takes 0 to 0"):
            getattr(network, name)(call)


def test_a_coarse_network_that_does_not_run_is_refused_with_the_probable_reason():
    with pytest.raises(
        ConfigError, match=r"Linear fails on the example input when narrowed to level 1 \(its forward may"
    ):
        count_flops(nn.Linear(4, 1), ROWS, level=1)


def test_weighted_transfer_through_other_activations_warns_and_names_them():
    with pytest.warns(UserWarning, match=r"these are not: '1' \(GELU\); transfer='average' keeps it"):
        create_network_hierarchy(mlp((3, 16, 2), nn.GELU), ROWS, levels=2, transfer="weighted")


def test_the_hierarchy_describes_itself():
    text = repr(create_network_hierarchy(mlp((3, 64, 2)), ROWS, levels=2))
    assert "level 1: widths [32], 194 parameters, 0.5 of the work" in text
    assert "kept: 2 (2): it is an output of the network" in text


def test_several_inputs_and_outputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.head = nn.Linear(3, 16), nn.Linear(2, 16), nn.Linear(16, 1)

        def forward(self, x, y):
            h = torch.tanh(self.a(x) + self.b(y))
            return {"mean": self.head(h), "logvar": (self.head(-h),)}

    x = (torch.randn(4, 3), torch.randn(4, 2))
    network = create_network_hierarchy(Two(), x, levels=2)
    scatter_weights(network.levels[1], 0)
    network.prolongate(0, keep=0)
    torch.testing.assert_close(network.levels[0](*x), network.levels[1](*x))


class Corner:
    """A user's transfer: the leading block of every tensor, and zeros around it."""

    def restrict(self, state, *, squared=False):
        return {name: t[:4, :4] if t.dim() == 2 else t[:4] for name, t in state.items()}

    def prolong(self, state, *, squared=False):
        return {name: nn.functional.pad(t, (0, 4) * t.dim()) for name, t in state.items()}

    prolong_transposed, restrict_transposed = restrict, prolong


def by_hand(**options):
    torch.manual_seed(0)
    fine, coarse = nn.Linear(8, 8).double(), nn.Linear(4, 4).double()
    return MultilevelNetwork([fine, coarse], [Corner()], costs=[1.0, 0.25], **options)


def test_a_hierarchy_by_hand_takes_a_users_transfer():
    network = by_hand(keep=1.0)
    fine, coarse = network.levels
    assert torch.equal(coarse.weight, fine.weight[:4, :4])
    before = fine.weight.detach().clone()
    with torch.no_grad():
        coarse.weight += 1
    network.prolongate(0)
    expected = before + nn.functional.pad(torch.ones(4, 4), (0, 4, 0, 4))
    torch.testing.assert_close(fine.weight.detach(), expected, rtol=0, atol=1e-15)
    network.prolongate(0, keep=0.0)
    assert torch.equal(fine.weight, nn.functional.pad(coarse.weight, (0, 4, 0, 4)))
    assert network.coupling is None
    assert network.widths(0) == []
    assert "level 1: widths [], 20 parameters, 0.25 of the work" in repr(network)
    other = by_hand()
    scatter_weights(other.levels[0], 5)
    other.load_state_dict(network.state_dict())
    torch.testing.assert_close(state_of(other.levels[0]), state_of(fine), rtol=0, atol=0)


def test_a_hierarchy_by_hand_that_does_not_fit_together_is_refused():
    fine, coarse = nn.Linear(8, 8), nn.Linear(4, 4)
    with pytest.raises(ConfigError, match="got 2 levels, 2 transfers, 2 costs"):
        MultilevelNetwork([fine, coarse], [Corner(), Corner()], costs=[1, 0.5])
    with pytest.raises(ConfigError, match="got 2 levels, 1 transfers, 3 costs"):
        MultilevelNetwork([fine, coarse], [Corner()], costs=[1, 0.5, 0.2])
    with pytest.raises(ConfigError, match=r"a transfer gave 'weight' with shape \[4, 4\]; Linear has shape \[5, 5\]"):
        MultilevelNetwork([fine, nn.Linear(5, 5)], [Corner()], costs=[1, 0.5])
    with pytest.raises(ConfigError, match=r"a transfer gave 'bias' with shape \[4\]; Linear has no such tensor"):
        MultilevelNetwork([fine, nn.Linear(4, 4, bias=False)], [Corner()], costs=[1, 0.5])
    with pytest.raises(ConfigError, match="keep=2: must be between 0"):
        MultilevelNetwork([fine, coarse], [Corner()], costs=[1, 0.5], keep=2)


def test_two_networks_of_ones_own_take_the_leading_block_and_pad():
    fine, coarse = mlp((3, 8, 6, 2), seed=1), mlp((3, 5, 4, 2), seed=2)
    restrict(fine, coarse)
    assert torch.equal(coarse[2].weight, fine[2].weight[:4, :5])
    assert torch.equal(coarse[0].bias, fine[0].bias[:5])
    scatter_weights(coarse, 3)
    rows = fine[2].weight[4:, :5].detach().clone()
    prolongate(coarse, fine)
    torch.testing.assert_close(fine(ROWS), coarse(ROWS), rtol=1e-12, atol=1e-12)
    assert torch.equal(fine[2].weight[4:, :5], rows)  # new units keep their rows, so that they can learn
    again = copy.deepcopy(coarse)
    restrict(fine, coarse)
    torch.testing.assert_close(state_of(coarse), state_of(again), rtol=0, atol=0)
    with pytest.raises(ConfigError, match=r"'0.weight' is \[5, 3\] in the fine network and \[8, 3\] in the coarse one"):
        restrict(coarse, fine)
    with pytest.raises(ConfigError, match="differ in structure: '4.bias' is in one of them only"):
        prolongate(mlp((3, 5, 2)), fine)
