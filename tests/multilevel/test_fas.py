import io
import itertools
import math

import pytest
import torch
from multilevel_networks import mlp, scatter_weights, seeded
from torch import nn

from accelerator.errors import ConfigError
from accelerator.multilevel import FAS, MultilevelNetwork, coupled_decay, create_network_hierarchy, gradients
from accelerator.multilevel.fas import subset
from accelerator.multilevel.transfer import state_of
from domain.physics.model.fno import FNO


def batches(*sizes, seed=0):
    """Rows and noisy targets, of unequal batch sizes."""
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randn(size, 3, generator=generator).double() for size in sizes]
    return [(x, torch.cat([x.prod(1, keepdim=True), x.sin().sum(1, keepdim=True)], 1)) for x in rows]


def width(levels=2, transfer="average", seed=0):
    return create_network_hierarchy(
        mlp((3, 12, 9, 2), nn.Tanh, seed=seed),
        torch.zeros(1, 3).double(),
        levels=levels,
        min_width=1,
        matching="random",
        transfer=transfer,
        noise=0.0,
        generator=seeded(seed),
    )


def operator():
    """Fewer channels, fewer modes, a coarser grid."""
    torch.manual_seed(0)
    model = FNO((2, 8, 8), (1, 8, 8), width=4, modes=(3, 4), layers=2, projection=4).double()
    x = torch.randn(1, 2, 8, 8).double()
    return create_network_hierarchy(model, x, levels=2, min_width=1, axes=("width", "modes", "resolution"))


class Blocks(nn.Module):
    """Three residual blocks; takes [B, 3]."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(3, 6), nn.Linear(6, 2)
        self.blocks = nn.ModuleList(Block() for _ in range(3))

    def forward(self, x):
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, x):
        return x + self.down(torch.tanh(self.up(x)))


def stack():
    torch.manual_seed(0)
    return create_network_hierarchy(
        Blocks().double(), torch.zeros(1, 3).double(), levels=2, min_width=1, axes=("width", "depth")
    )


def fields():
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(n, 2, 8, 8, generator=generator).double(), torch.randn(n, 1, 8, 8, generator=generator).double())
        for n in (3, 2)
    ]


NETWORKS = {
    "width": (width, batches(8, 5, 3)),
    "width, weighted": (lambda: width(transfer="weighted"), batches(8, 5, 3)),
    "width, inject": (lambda: width(transfer="inject"), batches(8, 5, 3)),
    "width, modes and resolution": (operator, fields()),
    "width and depth": (stack, batches(8, 5, 3)),
}
every_network = pytest.mark.parametrize(("make", "data"), NETWORKS.values(), ids=NETWORKS)

pytestmark = pytest.mark.filterwarnings("ignore:transfer='weighted' keeps the function only")


def gradient_of(network, decay=None):
    """The gradient of the mean squared error on a batch, by parameter."""

    def gradient(level, batch):
        x, y = network.level_batch(level, *batch)
        nn.functional.mse_loss(network.levels[level](x), y).backward()
        return gradients(network.levels[level], None if decay is None else decay[level])

    return gradient


def mean_gradient(network, level, data, gradient):
    total = sum(len(batch[0]) for batch in data)
    found = {}
    for batch in data:
        for name, tensor in gradient(level, batch).items():
            found[name] = found.get(name, 0) + tensor * len(batch[0]) / total
    return found


def with_tau(fas, level, number, gradient, batch):
    """What an optimizer sees: the gradient of a batch with tau added."""
    model = fas.network.levels[level]
    for name, tensor in gradient(level, batch).items():
        model.get_parameter(name).grad = tensor
    fas.add_tau(level, number)
    return gradients(model)


@every_network
def test_with_tau_the_coarse_gradient_is_the_restricted_fine_one_on_every_batch(make, data):
    """f_c + τᵀc has the gradient 𝒫ᵀ∇f(x) at c₀ = 𝓡x, on each of the batches."""
    network = make()
    gradient = gradient_of(network)
    fas = FAS(network, tau="minibatch")
    fas.descend(0, data, gradient)
    torch.testing.assert_close(state_of(network.levels[1]), network.hops[0].restrict(state_of(network.levels[0])))
    for number, batch in enumerate(data):
        expected = network.hops[0].prolong_transposed(gradient(0, batch))
        assert max(float(tensor.abs().max()) for tensor in fas.taus[1][number].values()) > 1e-3
        found = with_tau(fas, 1, number, gradient, batch)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@every_network
def test_the_tau_of_the_whole_set_is_the_mean_of_the_minibatch_taus_by_batch_size(make, data):
    network = make()
    gradient = gradient_of(network)
    whole, parts = FAS(network, tau="wholeset"), FAS(network, tau="minibatch")
    whole.descend(0, data, gradient)
    parts.descend(0, data, gradient)
    sizes = [len(x) for x, _ in data]
    (tau,) = whole.taus[1]
    for name, tensor in tau.items():
        mean = sum(size * part[name] for size, part in zip(sizes, parts.taus[1], strict=True)) / sum(sizes)
        torch.testing.assert_close(tensor, mean, rtol=1e-12, atol=1e-12)
    expected = network.hops[0].prolong_transposed(mean_gradient(network, 0, data, gradient))
    own = mean_gradient(network, 1, data, gradient)
    found = {name: own[name] + tau[name] for name in own}
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_one_minibatch_is_the_whole_set():
    network, data = width(), batches(8)
    whole, parts = FAS(network, tau="wholeset"), FAS(network, tau="minibatch")
    whole.descend(0, data, gradient_of(network))
    parts.descend(0, data, gradient_of(network))
    assert whole.taus[1][0].keys() == dict(network.levels[1].named_parameters()).keys()  # the biases too
    torch.testing.assert_close(whole.taus[1], parts.taus[1], rtol=1e-14, atol=1e-15)


def test_more_steps_than_batches_wrap_around_and_a_gradient_that_is_not_there_becomes_tau():
    network, data = width(), batches(4, 4)
    fas = FAS(network)
    fas.descend(0, data, gradient_of(network))
    for number in (0, 1, 2, 3):
        fas.add_tau(1, number)
        found = gradients(network.levels[1])
        torch.testing.assert_close(found, fas.taus[1][number % 2], rtol=0, atol=0)
    norms = [math.sqrt(sum(float(t.square().sum()) for t in tau.values())) for tau in fas.taus[1]]
    assert fas.tau_norm(1) == pytest.approx(sum(norms) / 2, rel=1e-14)
    assert fas.tau_norm(0) == 0
    fas.add_tau(0, 0)
    assert all(parameter.grad is None for parameter in network.levels[0].parameters())


def test_without_tau_the_coarse_level_follows_its_own_loss():
    network, data = width(), batches(4)
    fas = FAS(network, tau="none")
    fas.descend(0, data, lambda level, batch: pytest.fail("no gradient is needed"))
    fas.add_tau(1, 0)
    assert all(parameter.grad is None for parameter in network.levels[1].parameters())
    assert fas.tau_norm(1) == 0


def test_coupled_weight_decay_is_part_of_what_tau_corrects():
    """A coarse SGD step at c₀, with weight decay of its own, is −lr·𝒫ᵀ(∇f(x) + λx)."""
    network, data = width(), batches(8)
    optimizers = [torch.optim.SGD(level.parameters(), lr=0.1, weight_decay=0.3) for level in network.levels]
    decay = [coupled_decay(*pair) for pair in zip(optimizers, network.levels, strict=True)]
    gradient = gradient_of(network, decay)
    fas = FAS(network)
    fas.descend(0, data, gradient)
    start = {name: tensor.clone() for name, tensor in state_of(network.levels[1]).items()}
    x, y = data[0]
    nn.functional.mse_loss(network.levels[1](x), y).backward()
    fas.add_tau(1, 0)
    optimizers[1].step()
    plain = gradient_of(network)(0, data[0])
    fine = {name: tensor + 0.3 * network.levels[0].get_parameter(name).detach() for name, tensor in plain.items()}
    for name, step in network.hops[0].prolong_transposed(fine).items():
        found = network.levels[1].get_parameter(name).detach()
        torch.testing.assert_close(found, start[name] - 0.1 * step, rtol=1e-12, atol=1e-12)


def test_decay_that_is_part_of_the_gradient_is_told_from_decay_of_the_weights():
    model = mlp((3, 8, 2))
    weights, biases = [model[0].weight, model[2].weight], [model[0].bias, model[2].bias]
    groups = [{"params": weights, "weight_decay": 0.1}, {"params": biases, "weight_decay": 0.0}]
    coupled = {"0.weight": 0.1, "2.weight": 0.1}
    for kind, options, expected in [
        (torch.optim.SGD, {"lr": 0.1}, coupled),
        (torch.optim.Adam, {}, coupled),
        (torch.optim.RMSprop, {}, coupled),
        (torch.optim.AdamW, {}, {}),
        (torch.optim.Adam, {"decoupled_weight_decay": True}, {}),
        (torch.optim.NAdam, {"decoupled_weight_decay": True}, {}),
    ]:
        assert coupled_decay(kind([dict(group) for group in groups], **options), model) == expected
    assert coupled_decay(torch.optim.Muon(weights, weight_decay=0.1), model) == {}
    assert coupled_decay(torch.optim.Adafactor(weights, weight_decay=0.1), model) == {}


def test_frozen_parameters_have_no_gradient_and_no_tau():
    network, data = width(), batches(4)
    for level in network.levels:
        level[0].weight.requires_grad_(False)
    fas = FAS(network)
    fas.descend(0, data, gradient_of(network))
    assert "0.weight" not in fas.taus[1][0]
    assert "0.bias" in fas.taus[1][0]
    fas.add_tau(1, 0)
    assert network.levels[1][0].weight.grad is None


@pytest.mark.parametrize("kind", ["minibatch", "wholeset"])
def test_a_third_level_is_corrected_by_the_tau_of_the_second(kind):
    """τ₂ = 𝒫ᵀ(∇f₁(c₁) + τ₁) − ∇f₂(𝓡c₁), where c₁ has been trained since it came down."""
    network, data = width(3), batches(8, 5)
    gradient = gradient_of(network)
    fas = FAS(network, tau=kind)
    fas.descend(0, data, gradient)
    with torch.no_grad():
        for parameter in network.levels[1].parameters():
            parameter.add_(0.1 * torch.sin(parameter))
    fas.descend(1, data, gradient)
    for number, batch in enumerate(data):
        if kind == "minibatch":
            middle = with_tau(fas, 1, number, gradient, batch)
            found = with_tau(fas, 2, number, gradient, batch)
        else:
            middle, found = (
                {n: t + fas.taus[level][0][n] for n, t in mean_gradient(network, level, data, gradient).items()}
                for level in (1, 2)
            )
        expected = network.hops[1].prolong_transposed(middle)
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


# A linear network with one hidden layer: y = W₂W₁x.


def linear(hidden=12, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, hidden, bias=False), nn.Linear(hidden, 2, bias=False)).double()


def regression(noise, seed=0):
    """Three batches of different size with targets Ax + noise, and the least-squares solution."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(24, 6, generator=generator).double()
    y = x @ torch.randn(6, 2, generator=generator).double() + noise * torch.randn(24, 2, generator=generator).double()
    return list(zip(x.split([12, 8, 4]), y.split([12, 8, 4]), strict=True)), torch.linalg.lstsq(x, y).solution.T


def cycle(network, fas, data, gradient, coarse_steps=6):
    """A V-cycle through all levels without smoothing on the finer ones, by SGD with momentum."""
    last = len(network) - 1
    for level in range(last):
        fas.descend(level, data, gradient)
    optimizer = torch.optim.SGD(network.levels[last].parameters(), lr=0.05, momentum=0.9)
    whole = [(torch.cat([x for x, _ in data]), torch.cat([y for _, y in data]))]
    seen = whole if fas.kind == "wholeset" else data
    for step in range(coarse_steps):
        for name, tensor in gradient(last, seen[step % len(seen)]).items():
            network.levels[last].get_parameter(name).grad = tensor
        fas.add_tau(last, step)
        optimizer.step()
    return [fas.ascend(level) for level in reversed(range(last))]


@pytest.mark.parametrize(("kind", "noise", "fixed"), [("wholeset", 0.5, 1), ("minibatch", 0.0, 1), ("none", 0.5, 0)])
def test_a_stationary_point_of_the_fine_loss_stays_where_it_is(kind, noise, fixed):
    """The fixed-point property of FAS, through three levels; without tau the coarse levels pull away."""
    data, solution = regression(noise)
    model = linear()
    with torch.no_grad():
        model[1].weight.copy_(solution @ torch.linalg.pinv(model[0].weight))
    network = create_network_hierarchy(model, data[0][0], levels=3, min_width=1, matching="random", generator=seeded(1))
    gradient = gradient_of(network)
    at_rest = mean_gradient(network, 0, data, gradient)
    assert max(float(tensor.abs().max()) for tensor in at_rest.values()) < 1e-13
    before = {name: tensor.clone() for name, tensor in state_of(model).items()}
    corrections = cycle(network, FAS(network, tau=kind, guard=None), data, gradient)
    moved = max(float((tensor - before[name]).abs().max()) for name, tensor in state_of(model).items())
    if fixed:
        assert moved < 1e-12
        assert max(correction.norm for correction in corrections) < 1e-12
    else:
        assert moved > 1e-2


def two_grid(seed, perturbation, cycles, *, correct=True):
    """Errors f − f* of y = W₂W₁x with W₁ fixed, before and after each cycle of 2 + 2 gradient steps on the fine level,
    between them (if wanted) an exact solution of the coarse problem.

    Units come in pairs s_j ± d_j: the s_j have a spectrum from 1 to 10⁻³, on which gradient descent is slow, and the
    d_j the size of the perturbation.
    """
    generator = torch.Generator().manual_seed(seed)
    orthogonal = torch.linalg.qr(torch.randn(24, 24, generator=generator).double())[0]
    common = orthogonal[:8] * torch.logspace(0, -3, 8).double()[:, None]
    apart = perturbation * orthogonal[8:16]
    model = nn.Sequential(nn.Linear(24, 16, bias=False), nn.Linear(16, 1, bias=False)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.stack([common + apart, common - apart], 1).flatten(0, 1))
        model[1].weight.copy_(torch.randn(1, 16, generator=generator))
    model[0].weight.requires_grad_(False)
    x = torch.linalg.qr(torch.randn(64, 24, generator=generator).double())[0] * 8
    y = torch.randn(64, 1, generator=generator).double()
    network = create_network_hierarchy(model, x, levels=2, matching="identity", min_width=1)
    fas, gradient = FAS(network, tau="wholeset", guard=None), gradient_of(network)
    hidden = x @ model[0].weight.T
    lowest = float((hidden @ torch.linalg.lstsq(hidden, y, driver="gelsd").solution - y).square().mean())
    rate = 1 / float(torch.linalg.matrix_norm(2 * hidden.T @ hidden / len(x), 2))
    fine, coarse = (level[1].weight for level in network.levels)

    def error():
        return float(nn.functional.mse_loss(model(x), y).detach()) - lowest

    def smooth():
        for _ in range(2):
            fine.data -= rate * gradient(0, (x, y))["1.weight"]

    errors = [error()]
    for _ in range(cycles):
        smooth()
        if correct:
            fas.descend(0, [(x, y)], gradient)
            reduced = x @ network.levels[1][0].weight.T
            normal = 2 * reduced.T @ reduced / len(x)
            right = 2 * y.T @ reduced / len(x) - fas.taus[1][0]["1.weight"]
            coarse.data.copy_(torch.linalg.solve(normal, right.T).T)
            fas.ascend(0)
        smooth()
        errors.append(error())
    return errors


@pytest.mark.parametrize("seed", range(6))
def test_the_two_grid_cycle_contracts_the_error_as_the_theory_says(seed):
    """The coarse level takes the sums of the pairs exactly; their differences have ¼ of the largest eigenvalue, so four
    steps leave (1 − ¼)⁸ = .1001 of the error. Without the coarse level the slow sums remain: .86 to .97 a cycle."""
    errors = two_grid(seed, 0.5, 4)
    factors = [after / before for before, after in itertools.pairwise(errors)]
    assert factors[0] < 0.75**8
    assert factors[1:] == pytest.approx([0.75**8] * 3, rel=1e-3)
    alone = two_grid(seed, 0.5, 4, correct=False)
    assert alone[4] / alone[3] > 0.8
    assert errors[4] < 0.01 * alone[4]


@pytest.mark.parametrize("seed", range(6))
def test_with_duplicated_units_one_two_grid_cycle_solves_the_problem(seed):
    before, after = two_grid(seed, 0.0, 1)
    assert before > 0.1
    assert abs(after) < 1e-14
    assert two_grid(seed, 0.0, 1, correct=False)[1] > 0.1


# Coming up: one number a level, all transfers the identity.


class Same:
    """The same network on all levels."""

    def restrict(self, state, *, squared=False):
        return {name: tensor.clone() for name, tensor in state.items()}

    prolong = prolong_transposed = restrict_transposed = restrict


def number(levels=2, value=1.0, correction=0.0, **options):
    """Levels that hold `value` each, the coarser of the first two changed by `correction` since."""
    networks = [nn.Linear(1, 1, bias=False).double() for _ in range(levels)]
    nn.init.constant_(networks[0].weight, value)
    network = MultilevelNetwork(networks, [Same()] * (levels - 1), costs=[1.0] * levels)
    fas = FAS(network, **options)
    for level in range(levels - 1):
        fas.descend(level, [], lambda level, batch: {})
    with torch.no_grad():
        networks[-1].weight.add_(correction)
    return fas, networks[-2].weight.data


def square(weight, calls=None):
    def loss():
        if calls is not None:
            calls.append(float(weight))
        return float(weight.square())

    return loss


def test_a_correction_is_taken_whole_and_scaled_where_nothing_looks_at_the_loss():
    fas, weight = number(correction=-4.0, scale=0.5)
    assert fas.ascend(0).scale == 0.5
    assert float(weight) == -1.0
    fas, weight = number(correction=-4.0, guard=None)
    correction = fas.ascend(0, loss=lambda: pytest.fail("nobody asked"))
    assert (float(weight), correction.norm, correction.scale, correction.guarded) == (-3.0, 4.0, 1.0, False)


@pytest.mark.parametrize(
    ("correction", "guard", "scale", "tried"),
    [
        (-1.0, 0.0, 1.0, [0.0]),  # the loss falls to 0
        (0.04, 0.1, 1.0, [1.04]),  # it rises by 8 %
        (-4.0, 0.1, 0.5, [-3.0, -1.0]),
        (-16.0, 0.0, 0.125, [-15.0, -7.0, -3.0, -1.0]),
        (-32.0, 0.0, 0.0625, [-31.0, -15.0, -7.0, -3.0, -1.0]),
    ],
)
def test_the_guard_halves_a_correction_that_raises_the_loss(correction, guard, scale, tried):
    fas, weight = number(correction=correction, guard=guard)
    calls = []
    found = fas.ascend(0, square(weight, calls))
    assert calls == pytest.approx([1.0, *tried])
    assert (found.scale, found.guarded, found.evaluations) == (scale, scale < 1, len(calls))
    assert float(weight) == pytest.approx(1 + scale * correction)


@pytest.mark.parametrize("correction", [-400.0, 1e300, math.inf, math.nan])
@pytest.mark.parametrize("options", [{"guard": 0.1}, {"line_search": True}])
def test_a_correction_that_cannot_be_used_is_given_up_and_the_weights_are_what_they_were(correction, options):
    fas, weight = number(value=1 / 3, correction=correction, **options)
    found = fas.ascend(0, square(weight))
    assert (found.scale, found.guarded) == (0.0, True)
    assert float(weight) == 1 / 3


@pytest.mark.parametrize(
    ("correction", "scale", "options"),
    [
        (-1.0, 1.0, {}),
        (-2.0, 0.5, {}),
        (-4.0, 0.25, {}),
        (-8.0, 0.125, {}),
        (-8.0, 0.125, {"scale": 0.5}),  # of 4, 2, 1, ½
        (8.0, 0.0, {}),
    ],
)
def test_the_line_search_takes_the_best_of_the_scales(correction, scale, options):
    fas, weight = number(correction=correction, line_search=True, **options)
    calls = []
    found = fas.ascend(0, square(weight, calls))
    assert (found.scale, found.evaluations, len(calls)) == (scale, 5, 5)
    assert float(weight) == 1 + scale * correction


@pytest.mark.parametrize("options", [{"guard": 0.1}, {"line_search": True}])
def test_on_a_level_in_between_its_tau_belongs_to_the_objective(options):
    """c² − 10c at c = 1 falls when c grows by 1, though c² does not."""
    fas, weight = number(levels=3, correction=1.0, **options)
    fas.taus[1] = [{"weight": torch.full((1, 1), -10.0).double()}]
    assert fas.ascend(1, square(weight)).scale == 1.0
    assert float(weight) == 2.0
    fas, weight = number(levels=3, correction=1.0, **options)
    assert fas.ascend(1, square(weight)).scale < 1.0
    # τ(c − c₀) counts before the correction too: c² + c + 9 falls from 11 to 9 when c goes from 1 to 0.
    fas, weight = number(levels=3, correction=-1.0, **options)
    fas.taus[1], fas.start[1] = [{"weight": torch.ones(1, 1).double()}], {"weight": torch.full((1, 1), -9.0).double()}
    assert fas.ascend(1, square(weight)).scale == 1.0
    assert float(weight) == 0.0


def test_the_place_in_a_cycle_is_saved_and_resumed():
    network, data = width(3), batches(8, 5)
    fas, other = FAS(network), FAS(network)
    for level in (0, 1):
        fas.descend(level, data, gradient_of(network))
    buffer = io.BytesIO()
    torch.save(fas.state_dict(), buffer)
    buffer.seek(0)
    other.descend(0, data[:1], gradient_of(network))
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert fas.start.keys() == other.start.keys() == {1, 2}
    torch.testing.assert_close(other.start, fas.start, rtol=0, atol=0)
    torch.testing.assert_close(other.taus, fas.taus, rtol=0, atol=0)
    scatter_weights(network.levels[2], 1)
    one = fas.ascend(1)
    assert one.norm > 0
    torch.testing.assert_close(other.network.correction(1, other.start[2]), network.correction(1, fas.start[2]))


@pytest.mark.parametrize(
    ("arguments", "window"),
    [
        (("whole_set", 4, 7, 10, 2, 5), (2, 0, 10)),
        (("next_k", 4, 7, 10, 2, 5), (2, 5, 4)),
        (("cycling_k", 4, 0, 10, 2, 5), (0, 0, 4)),
        (("cycling_k", 4, 2, 10, 2, 5), (0, 8, 4)),
        (("cycling_k", 4, 3, 10, 2, 5), (0, 2, 4)),
    ],
)
def test_the_batches_of_a_cycle(arguments, window):
    assert subset(*arguments) == window


def test_options_out_of_range_are_refused_together():
    network = width()
    with pytest.raises(ConfigError) as caught:
        FAS(network, tau="batch", scale=0.0, guard=-1.0)
    tau, scale, guard = caught.value.problems
    assert "tau='batch' is unknown" in tau
    assert "correction_scale=0.0: must be above 0" in scale
    assert "guard=-1.0: the share by which a correction may raise the loss, at least 0" in guard
    with pytest.raises(ConfigError, match=r"correction_scale=inf: must be above 0 \(1 takes the whole correction\)"):
        FAS(network, scale=math.inf)
