import copy

import pytest
import torch
from multilevel_networks import dense_operator, mlp, scatter_weights, seeded
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from accelerator.errors import ConfigError
from accelerator.multilevel import (
    MultilevelAdam,
    carry_average,
    carry_optimizer_state,
    create_fno_hierarchy,
    create_network_hierarchy,
)
from accelerator.multilevel.optimizer_state import go_on_starting, start_averages
from accelerator.multilevel.transfer import state_of
from domain.physics.model.fno import FNO

OPTIMIZERS = {
    "SGD": (torch.optim.SGD, {"momentum": 0.9}),
    "Adam": (torch.optim.Adam, {"amsgrad": True}),
    "AdamW": (torch.optim.AdamW, {"weight_decay": 0.1}),
    "NAdam": (torch.optim.NAdam, {}),
    "RAdam": (torch.optim.RAdam, {}),
    "Adamax": (torch.optim.Adamax, {}),
    "RMSprop": (torch.optim.RMSprop, {"momentum": 0.5, "centered": True}),
    "Adagrad": (torch.optim.Adagrad, {}),
    "Adadelta": (torch.optim.Adadelta, {}),
    "Rprop": (torch.optim.Rprop, {}),
    "ASGD": (torch.optim.ASGD, {}),
}

FIRST = ("exp_avg", "grad_avg", "prev", "exp_inf")
SECOND = ("exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum")
"""Which dense operator moves a tensor (down, up), and whether its entries are squared."""


def rule(optimizer, key):
    if key in FIRST or (key == "momentum_buffer" and optimizer != "RMSprop"):
        return ("PT", "RT"), False
    if key in SECOND:
        return ("PT", "RT"), True
    return ("R", "P"), key == "acc_delta"


def batches(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(8, 3, generator=generator, dtype=torch.float64) for _ in range(count)]


def train(model, optimizer, data):
    for x in data:
        optimizer.zero_grad()
        (model(x) - x.sum(1, keepdim=True)).square().mean().backward()
        optimizer.step()


def network(levels=2, activation=nn.GELU, **options):
    options = {"matching": "random", "min_width": 1, "generator": seeded(0)} | options
    return create_network_hierarchy(mlp((3, 11, 8, 2), activation), batches(1)[0], levels=levels, **options)


def make(name, model, **options):
    cls, own = OPTIMIZERS[name]
    return cls(model.parameters(), **{"lr": 1e-2, **own, **options})


@pytest.mark.filterwarnings("ignore:transfer='weighted' keeps the function only")
@pytest.mark.parametrize("transfer", ["average", "weighted"])
@pytest.mark.parametrize("source", [0, 1])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_state_is_moved_by_its_dense_operator(name, source, transfer):
    net = network(transfer=transfer)
    target = 1 - source
    optimizers = [make(name, level) for level in net.levels]
    train(net.levels[source], optimizers[source], batches(3))
    train(net.levels[target], optimizers[target], batches(1, seed=9))  # state of an earlier visit
    carry_optimizer_state(optimizers[source], optimizers[target], net, source, target)
    parameters = dict(net.levels[target].named_parameters())
    checked = 0
    for pname, parameter in net.levels[source].named_parameters():
        held, carried = optimizers[source].state[parameter], optimizers[target].state[parameters[pname]]
        assert held.keys() == carried.keys()
        for key, value in held.items():
            if not isinstance(value, torch.Tensor) or value.dim() == 0:
                assert carried[key] == value, key
                continue
            entries, squared = rule(name, key)
            expected = dense_operator(net.hops[0].transfers["width"], pname, entries[source])(value, squared)
            torch.testing.assert_close(carried[key], expected, rtol=1e-10, atol=1e-14, msg=f"{pname}.{key}")
            checked += 1
    assert checked >= 6
    train(net.levels[target], optimizers[target], batches(1))
    assert all(p.isfinite().all() for p in net.levels[target].parameters())


@pytest.mark.parametrize("name", ["SGD", "Adam", "RAdam", "Adagrad", "RMSprop"])
def test_carried_up_by_averages_the_state_is_that_of_training_the_prolonged_network(name):
    """At lr = 0 on the same batches: twins share every gradient, so both moments are exact."""
    net = network(activation=nn.Tanh)
    scatter_weights(net.levels[1], 0)
    net.prolongate(0, keep=0.0)
    coarse, carried, direct = (make(name, net.levels[level], lr=0.0, **{}) for level in (1, 0, 0))
    if name == "RMSprop":
        coarse, carried, direct = (
            torch.optim.RMSprop(net.levels[level].parameters(), lr=0.0, centered=True) for level in (1, 0, 0)
        )
    train(net.levels[1], coarse, batches(4))
    train(net.levels[0], direct, batches(4))
    carry_optimizer_state(coarse, carried, net, 1, 0)
    for parameter, expected in direct.state.items():
        torch.testing.assert_close(carried.state[parameter], expected, rtol=1e-9, atol=1e-12)


def test_carried_down_the_momentum_is_that_of_the_coarse_gradient():
    net = network()
    scatter_weights(net.levels[1], 0)
    net.prolongate(0, keep=0.0)
    fine, carried, direct = (make("SGD", net.levels[level], lr=0.0) for level in (0, 1, 1))
    train(net.levels[0], fine, batches(4))
    train(net.levels[1], direct, batches(4))
    carry_optimizer_state(fine, carried, net, 0, 1)
    for parameter, expected in direct.state.items():
        torch.testing.assert_close(carried.state[parameter], expected, rtol=1e-9, atol=1e-12)


def test_levels_that_are_not_neighbours_are_bridged():
    net = network(levels=3)
    optimizers = [make("Adam", level) for level in net.levels]
    train(net.levels[2], optimizers[2], batches(2))
    carry_optimizer_state(optimizers[2], optimizers[0], net, 2, 0)
    carry_optimizer_state(optimizers[2], optimizers[1], net, 2, 1)
    in_two = make("Adam", net.levels[0])
    carry_optimizer_state(optimizers[1], in_two, net, 1, 0)
    for parameter in net.levels[0].parameters():
        torch.testing.assert_close(in_two.state[parameter], optimizers[0].state[parameter])


def test_reset_momentum_starts_signed_moments_at_zero_and_carries_the_rest():
    net = network()
    source, reset, carried = make("Adam", net.levels[1]), make("Adam", net.levels[0]), make("Adam", net.levels[0])
    train(net.levels[1], source, batches(3))
    carry_optimizer_state(source, reset, net, 1, 0, momentum="reset")
    carry_optimizer_state(source, carried, net, 1, 0)
    for parameter in net.levels[0].parameters():
        state = reset.state[parameter]
        assert state["exp_avg"].abs().max() == 0
        assert state["step"] == 3
        assert torch.equal(state["exp_avg_sq"], carried.state[parameter]["exp_avg_sq"])
        assert carried.state[parameter]["exp_avg"].abs().max() > 0


def test_options_are_copied_group_by_group():
    net = network()
    groups = [[level[0].weight, level[0].bias] for level in net.levels]
    rest = [[*level[2].parameters(), *level[4].parameters()] for level in net.levels]
    source = torch.optim.SGD([{"params": groups[1]}, {"params": rest[1], "lr": 0.5, "momentum": 0.3}], lr=0.1)
    target = torch.optim.SGD([{"params": rest[0]}, {"params": groups[0]}], lr=9.0, momentum=0.9)
    for group in source.param_groups:
        group["initial_lr"] = 2 * group["lr"]
    carry_optimizer_state(source, target, net, 1, 0)
    assert [(g["lr"], g["momentum"], g["initial_lr"]) for g in target.param_groups] == [(0.5, 0.3, 1.0), (0.1, 0, 0.2)]
    assert target.param_groups[0]["params"] == rest[0]


def test_a_tensor_learning_rate_is_copied_not_shared():
    net = network()
    source, target = (
        torch.optim.Adam(level.parameters(), lr=torch.tensor(rate), foreach=False)
        for level, rate in zip(net.levels, (0.1, 0.2), strict=True)
    )
    carry_optimizer_state(source, target, net, 0, 1)
    source.param_groups[0]["lr"].fill_(7.0)
    assert target.param_groups[0]["lr"] == torch.tensor(0.1)


def test_a_source_without_state_leaves_the_target_fresh():
    net = network()
    source, target = make("Adam", net.levels[1]), make("Adam", net.levels[0])
    train(net.levels[0], target, batches(2))
    carry_optimizer_state(source, target, net, 1, 0)
    assert not any(target.state.values())
    train(net.levels[0], target, batches(1))


def test_buffers_of_an_earlier_visit_are_reused():
    net = network()
    optimizers = [make("Adam", level) for level in net.levels]
    for level, optimizer in zip(net.levels, optimizers, strict=True):
        train(level, optimizer, batches(2))
    weight = net.levels[0][2].weight
    buffer = optimizers[0].state[weight]["exp_avg"]
    carry_optimizer_state(optimizers[1], optimizers[0], net, 1, 0)
    assert optimizers[0].state[weight]["exp_avg"] is buffer


def test_training_on_with_carried_state_leaves_the_source_alone():
    net = network()
    source, target = (make("Adam", net.levels[level]) for level in (1, 0))
    train(net.levels[1], source, batches(2))
    held = copy.deepcopy(source.state_dict()["state"])
    carry_optimizer_state(source, target, net, 1, 0)
    train(net.levels[0], target, batches(2))
    torch.testing.assert_close(source.state_dict()["state"], held, rtol=0, atol=0)


def test_lbfgs_starts_afresh_with_a_warning():
    net = network()
    source, target = (torch.optim.LBFGS(level.parameters(), lr=0.5) for level in net.levels)
    x = batches(1)[0]
    source.step(lambda: net.levels[0](x).square().mean())
    with pytest.warns(UserWarning, match="LBFGS keeps a history that cannot be carried"):
        carry_optimizer_state(source, target, net, 0, 1)
    assert not target.state
    assert target.param_groups[0]["lr"] == 0.5


def test_muon_over_the_weights_and_adam_over_the_biases():
    net = network(activation=nn.Tanh)
    weights = [[level[i].weight for i in (0, 2, 4)] for level in net.levels]
    target, source = (torch.optim.Muon(group, lr=0.01, weight_decay=0.0) for group in weights)
    train(net.levels[1], source, batches(3))
    carry_optimizer_state(source, target, net, 1, 0)
    for coarse, fine, name in zip(weights[1], weights[0], ("0.weight", "2.weight", "4.weight"), strict=True):
        expected = dense_operator(net.hops[0].transfers["width"], name, "RT")(
            source.state[coarse]["momentum_buffer"].double()
        )
        found = target.state[fine]["momentum_buffer"]
        torch.testing.assert_close(found.double(), expected, rtol=1e-2, atol=1e-6)
        assert found.abs().max() > 0
    train(net.levels[0], target, batches(1))


def test_without_momentum_there_is_nothing_to_carry_but_the_options():
    net = network()
    source, target = (torch.optim.SGD(net.levels[level].parameters(), lr=lr) for level, lr in ((0, 0.1), (1, 9.0)))
    train(net.levels[0], source, batches(2))
    carry_optimizer_state(source, target, net, 0, 1)
    assert target.param_groups[0]["lr"] == 0.1
    assert all(state.get("momentum_buffer") is None for state in target.state.values())
    train(net.levels[1], target, batches(1))


def test_state_of_unknown_meaning_starts_at_zero_and_is_named():
    class Custom(torch.optim.SGD):
        """An optimizer with a state tensor of its own."""

    net = network()
    source, target = (Custom(level.parameters(), lr=0.1, momentum=0.9) for level in net.levels)
    train(net.levels[0], source, batches(1))
    for state in source.state.values():
        state["velocity"] = torch.ones_like(state["momentum_buffer"])
    with pytest.warns(UserWarning, match=r"the state \['velocity'\] of Custom .* starts afresh on level 1"):
        carry_optimizer_state(source, target, net, 0, 1)
    for name, parameter in net.levels[1].named_parameters():
        state = target.state[parameter]
        same_shape = parameter.shape == dict(net.levels[0].named_parameters())[name].shape
        assert (state["velocity"] == same_shape).all()
        assert state["momentum_buffer"].abs().max() > 0


def test_factored_second_moments_start_afresh_and_train_on():
    net = network()
    source, target = (torch.optim.Adafactor(level.parameters()) for level in net.levels)
    train(net.levels[0], source, batches(2))
    with pytest.warns(UserWarning, match="the state .*'row_var'.* of Adafactor"):
        carry_optimizer_state(source, target, net, 0, 1)
    train(net.levels[1], target, batches(1))


def test_what_does_not_fit_is_refused():
    net = network(levels=3)
    adam = [make("Adam", level) for level in net.levels]
    with pytest.raises(ConfigError, match="cannot carry the state of Adam to SGD"):
        carry_optimizer_state(adam[0], make("SGD", net.levels[1]), net, 0, 1)
    with pytest.raises(ConfigError, match="level 3 does not exist: this hierarchy has levels 0 to 2"):
        carry_optimizer_state(adam[0], adam[1], net, 3, 1)
    with pytest.raises(
        ConfigError, match=r"the source optimizer holds a parameter of shape \[11, 3\] that level 1 does"
    ):
        carry_optimizer_state(adam[0], adam[1], net, 1, 1)
    with pytest.raises(ConfigError, match=r"holds a parameter of shape \[3, 3\] that the one of level 0 does not have"):
        carry_optimizer_state(adam[0], adam[2], net, 0, 1)
    with pytest.raises(ConfigError, match="momentum='keep'"):
        carry_optimizer_state(adam[0], adam[1], net, 0, 1, momentum="keep")
    split = torch.optim.Adam([{"params": [p]} for p in net.levels[0].parameters()])
    with pytest.raises(
        ConfigError, match=r"parameter group 0 of the target optimizer mixes the source's groups \[0, 1,"
    ):
        carry_optimizer_state(split, adam[1], net, 0, 1)


def spectral(levels=3):
    torch.manual_seed(0)
    model, x = FNO((1, 16), (1, 16), width=4, modes=8, layers=1, projection=4).double(), torch.randn(8, 1, 16).double()
    return create_fno_hierarchy(model, x, levels=levels, axes=("modes",)), x


def fit(net, level, optimizer, x, steps, sign=1):
    for _ in range(steps):
        optimizer.zero_grad()
        (sign * (net.levels[level](x) - x.roll(1, -1).cos()).square().mean()).backward()
        optimizer.step()


@pytest.mark.parametrize(
    ("kind", "options", "without"),
    [
        ("Adam", {}, 3.1),
        ("AdamW", {}, 3.1),
        ("Adam", {"amsgrad": True}, 3.1),
        ("Adam", {"maximize": True}, 3.1),
        ("NAdam", {}, 5.0),
        ("RMSprop", {}, 9.9),
        ("RMSprop", {"centered": True, "momentum": 0.5}, 9.9),
    ],
)
def test_the_first_step_of_a_new_mode_is_bounded_by_the_learning_rate(kind, options, without):
    """Averages of modes that the coarse level did not have begin at their first gradient g: the step is lr·g/√g². Begun
    at zero it would be (1 − β₁)/√(1 − β₂) = 3.2 times lr for Adam, 1/√(1 − α) = 10 for RMSprop."""
    taken = []
    for bounded in (True, False):
        net, x = spectral(2)
        sign = -1 if options.get("maximize") else 1
        target, source = (getattr(torch.optim, kind)(level.parameters(), lr=1e-4, **options) for level in net.levels)
        fit(net, 1, source, x, 1)
        for state in source.state.values():
            state["step"].fill_(1e5)  # after a long time no bias correction hides it
            if "mu_product" in state:
                state["mu_product"].zero_()
        net.prolongate(0)
        carry_optimizer_state(source, target, net, 1, 0)
        if not bounded:
            for state in target.state.values():
                for key in [key for key in state if ":" in key]:
                    del state[key]
            go_on_starting(target)
        weight = net.levels[0].spectral[0].weight
        before = weight.detach().clone()
        fit(net, 0, target, x, 1, sign)
        step = (weight.detach() - before)[4:]
        assert (before[4:] == 0).all()
        assert (step != 0).all()
        assert (torch.sign(step) == -sign * torch.sign(weight.grad[4:])).all()
        taken.append(float(step.abs().max()) / 1e-4)
    assert taken[0] == pytest.approx(1.0, abs=0.01)
    assert taken[1] > without


@pytest.mark.parametrize(("kind", "before"), [("Adam", 3), ("AdamW", 200), ("RMSprop", 50)])
def test_averages_that_start_anew_are_those_of_a_fresh_optimizer(kind, before):
    """Step by step, also through a checkpoint; of RMSprop, which corrects no bias, Adam's without momentum."""
    torch.manual_seed(0)
    gradients = torch.randn(before + 45, 5, dtype=torch.float64)
    old, fresh = (torch.nn.Parameter(torch.zeros(5, dtype=torch.float64)) for _ in range(2))
    make = getattr(torch.optim, kind)
    optimizer = make([old], lr=0.01)
    reference = torch.optim.Adam([fresh], lr=0.01, betas=(0.0, 0.99)) if kind == "RMSprop" else make([fresh], lr=0.01)
    for gradient in gradients[:before]:
        old.grad = gradient
        optimizer.step()
    keys = [key for key in ("exp_avg", "exp_avg_sq", "square_avg") if key in optimizer.state[old]]
    start_averages(optimizer, {key: {old: None} for key in keys})
    with torch.no_grad():
        old.zero_()
    for step, gradient in enumerate(gradients[before:]):
        old.grad, fresh.grad = gradient.clone(), gradient.clone()
        optimizer.step()
        reference.step()
        torch.testing.assert_close(old, fresh, rtol=1e-9, atol=1e-9)
        if step == 20:
            saved = copy.deepcopy(optimizer.state_dict())
            optimizer = make([old], lr=0.01)
            optimizer.load_state_dict(saved)
            go_on_starting(optimizer)


def test_a_level_passed_without_a_step_hands_the_start_of_its_averages_on():
    net, x = spectral(3)
    optimizers = [torch.optim.Adam(level.parameters(), lr=1e-4) for level in net.levels]
    fit(net, 2, optimizers[2], x, 5)
    for level in (1, 0):
        net.prolongate(level)
        carry_optimizer_state(optimizers[level + 1], optimizers[level], net, level + 1, level)
    direct = torch.optim.Adam(net.levels[0].parameters(), lr=1e-4)
    carry_optimizer_state(optimizers[2], direct, net, 2, 0)
    start = copy.deepcopy(net.levels[0].state_dict())
    fit(net, 0, optimizers[0], x, 1)
    found = copy.deepcopy(net.levels[0].state_dict())
    net.levels[0].load_state_dict(start)
    fit(net, 0, direct, x, 1)
    torch.testing.assert_close(found, net.levels[0].state_dict(), rtol=0, atol=0)


def test_adam_over_a_hierarchy_is_adam_with_its_state_carried():
    def run(multilevel):
        net, x = spectral(3)
        if multilevel:
            optimizer = MultilevelAdam(net, lr=1e-2, weight_decay=0.1, amsgrad=True)
            assert optimizer.level == 2
        else:
            optimizers = [
                torch.optim.Adam(level.parameters(), lr=1e-2, weight_decay=0.1, amsgrad=True) for level in net.levels
            ]
        for previous, level in ((None, 2), (2, 1), (1, 0), (0, 2)):
            if previous is not None:
                net.prolongate(level) if level < previous else (net.restrict(0), net.restrict(1))
                if multilevel:
                    optimizer.change_level(level)
                else:
                    carry_optimizer_state(optimizers[previous], optimizers[level], net, previous, level)
            fit(net, level, optimizer if multilevel else optimizers[level], x, 4)
        return net

    for one, other in zip(run(True).levels, run(False).levels, strict=True):
        torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)


def test_a_learning_rate_schedule_goes_on_when_the_level_changes():
    net, x = spectral(2)
    optimizer = MultilevelAdam(net, lr=1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    for rate in (1.0, 0.5):
        assert scheduler.get_last_lr() == [rate]
        fit(net, 1, optimizer, x, 1)
        scheduler.step()
    net.prolongate(0)
    optimizer.change_level(0)
    assert optimizer.param_groups[0]["lr"] == 0.25
    assert optimizer.param_groups[0]["params"] == list(net.levels[0].parameters())
    assert scheduler.optimizer is optimizer
    before = copy.deepcopy(net.levels[0].state_dict())
    fit(net, 0, optimizer, x, 1)
    scheduler.step()
    assert scheduler.get_last_lr() == [0.125]
    assert any((tensor != before[name]).any() for name, tensor in net.levels[0].state_dict().items())
    with pytest.raises(ConfigError, match="level 2 does not exist: this hierarchy has levels 0 to 1"):
        optimizer.change_level(2)


def test_a_weight_average_moves_as_weights_do():
    net = network()
    averages = [AveragedModel(level, multi_avg_fn=get_ema_multi_avg_fn(0.9)) for level in net.levels]
    for seed in range(3):
        scatter_weights(net.levels[1], seed)
        averages[1].update_parameters(net.levels[1])
    carry_average(averages[1], averages[0], net, 1, 0)
    expected = net.hops[0].prolong(state_of(averages[1].module))
    torch.testing.assert_close(state_of(averages[0].module), expected, rtol=1e-14, atol=0)
    assert averages[0].n_averaged == 3
    x = batches(1)[0]
    torch.testing.assert_close(averages[0](x), averages[1](x), rtol=1e-10, atol=1e-10)
    scatter_weights(averages[0].module, 7)
    carry_average(averages[0], averages[1], net, 0, 1)
    torch.testing.assert_close(
        state_of(averages[1].module), net.hops[0].restrict(state_of(averages[0].module)), rtol=1e-14, atol=0
    )
