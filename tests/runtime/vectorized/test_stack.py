"""Networks that are trained together against the same networks trained by torch, one by one."""

import copy

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW

from accelerator.runtime.engine.base import Clip
from accelerator.runtime.vectorized.stack import CannotStackError, Stack

N, STEPS = 3, 50
LOSS = nn.functional.mse_loss


def mlp():
    return nn.Sequential(nn.Linear(5, 12), nn.Tanh(), nn.Linear(12, 12), nn.GELU(), nn.Linear(12, 2))


class Tied(nn.Module):
    """One layer used twice under two names, and one that is not trained."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(5, 5)
        self.again = self.first
        self.fixed = nn.Linear(5, 2).requires_grad_(False)

    def forward(self, x):
        return self.fixed(torch.tanh(self.again(torch.tanh(self.first(x)))))


def seeded(make, seed=0, count=N):
    models = []
    for number in range(count):
        torch.manual_seed(100 * seed + number)
        models.append(make())
    return models


def batches(seed, count=N):
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(8, 5, generator=generator), torch.randn(8, 2, generator=generator)) for _ in range(count)]


def trained(models, make_optimizer):
    return [
        make_optimizer([p for p in model.parameters() if p.requires_grad], number)
        for number, model in enumerate(models)
    ]


def alone(model, optimizer, batch, clip=Clip()):  # noqa: B008
    loss = LOSS(model.train()(batch[0]), batch[1])
    loss.backward()
    clip([p for p in model.parameters() if p.requires_grad])
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach()


def both(make, make_optimizer, *, seed=0, clips=None, change=None):
    """Train the networks together and one by one: their losses step by step, the networks, the optimizers."""
    ours = seeded(make, seed)
    theirs = copy.deepcopy(ours)
    our_optimizers, their_optimizers = trained(ours, make_optimizer), trained(theirs, make_optimizer)
    stack = Stack(ours, LOSS, our_optimizers, clips)
    losses = []
    for step in range(STEPS):
        data = batches(1000 * seed + step)
        together = stack.forward_backward(data)
        stack.step()
        expected = torch.stack(
            [
                alone(model, optimizer, batch, clip)
                for model, optimizer, batch, clip in zip(
                    theirs, their_optimizers, data, clips or [Clip()] * N, strict=True
                )
            ]
        )
        losses.append((together, expected))
        if change is not None:
            for optimizers in (our_optimizers, their_optimizers):
                for number, optimizer in enumerate(optimizers):
                    change(optimizer.param_groups[0], number, step)
    return losses, (ours, theirs), (our_optimizers, their_optimizers)


def assert_same(losses, networks, optimizers, rtol=1e-5):
    for together, expected in losses:
        torch.testing.assert_close(together, expected, rtol=rtol, atol=1e-7)
    for ours, theirs in zip(*networks, strict=True):
        for (name, parameter), other in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
            torch.testing.assert_close(parameter, other, rtol=10 * rtol, atol=1e-6, msg=name)
    for ours, theirs in zip(*optimizers, strict=True):
        mine, other = ours.state_dict(), theirs.state_dict()
        assert mine["param_groups"] == other["param_groups"]
        assert mine["state"].keys() == other["state"].keys()
        for index, state in other["state"].items():
            assert mine["state"][index].keys() == state.keys()
            for key, value in state.items():
                torch.testing.assert_close(mine["state"][index][key], value, rtol=1e-3, atol=1e-6, msg=key)


OPTIMIZERS = {
    "sgd": lambda p, n: SGD(p, lr=0.01, fused=True),
    "sgd, each its own": lambda p, n: SGD(p, lr=0.01 * (n + 1), momentum=0.3 * n, weight_decay=0.01 * n),
    "sgd, damped": lambda p, n: SGD(p, lr=0.01, momentum=0.9, dampening=0.2),
    "sgd, damped, each its own": lambda p, n: SGD(p, lr=0.01, momentum=0.9, dampening=0.2 * n),
    "sgd, upwards": lambda p, n: SGD(p, lr=1e-4, maximize=True),
    "nesterov": lambda p, n: SGD(p, lr=0.01, momentum=0.9, nesterov=True),
    "nesterov, each its own": lambda p, n: SGD(p, lr=0.01, momentum=0.5 + 0.1 * n, nesterov=True),
    "adam": lambda p, n: Adam(p, lr=1e-3, weight_decay=0.01, fused=True),
    "adam, each its own": lambda p, n: Adam(
        p, lr=1e-3 * (n + 1), betas=(0.8 + 0.03 * n, 0.9 + 0.02 * n), eps=1e-8 * 10**n, weight_decay=0.01 * n
    ),
    "amsgrad": lambda p, n: Adam(p, lr=1e-3, amsgrad=True),
    "amsgrad, each its own": lambda p, n: Adam(p, lr=1e-3 * (n + 1), amsgrad=True, maximize=True),
    "adamw": lambda p, n: AdamW(p, lr=1e-3, fused=True),
    "adamw, each its own": lambda p, n: AdamW(p, lr=1e-3 * (n + 1), weight_decay=0.1 * n),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_network_is_trained_as_its_own_optimizer_would(name):
    assert_same(*both(mlp, OPTIMIZERS[name]))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_and_so_with_any_seed(name, seed):
    assert_same(*both(mlp, OPTIMIZERS[name], seed=seed))


def test_a_schedule_may_change_each_rate_and_momentum_on_the_way():
    def change(group, number, step):
        group["lr"] *= 0.9 + 0.02 * number
        if step > 20:
            group["momentum"] = 0.5

    assert_same(*both(mlp, lambda p, n: SGD(p, lr=0.05, momentum=0.9), change=change))


def test_momentum_may_begin_on_the_way():
    def change(group, number, step):
        group["momentum"] = 0.0 if step < 10 + 10 * number else 0.9

    assert_same(*both(mlp, lambda p, n: SGD(p, lr=0.02), change=change))
    assert_same(*both(mlp, lambda p, n: SGD(p, lr=0.02), change=lambda group, n, step: change(group, 0, step)))


def test_gradients_are_clipped_one_network_at_a_time():
    clips = [Clip(0.05), Clip(), Clip(0.1, 0.02)]
    assert_same(*both(mlp, lambda p, n: SGD(p, lr=0.1, momentum=0.9), clips=clips))


def test_tied_parameters_stay_tied_and_fixed_ones_fixed():
    losses, (ours, theirs), optimizers = both(Tied, lambda p, n: Adam(p, lr=1e-2))
    assert_same(losses, (ours, theirs), optimizers)
    for number, model in enumerate(ours):
        assert model.again.weight is model.first.weight
        torch.manual_seed(number)
        assert torch.equal(model.fixed.weight, Tied().fixed.weight)


def test_batch_norms_keep_the_statistics_of_their_own_batches():
    def normed():
        return nn.Sequential(nn.Linear(5, 12, bias=False), nn.BatchNorm1d(12), nn.Tanh(), nn.Linear(12, 2))

    assert_same(*both(normed, lambda p, n: SGD(p, lr=0.05, momentum=0.9)))


def test_a_network_that_is_lost_does_not_touch_the_others():
    def run(rates):
        models = seeded(mlp)
        stack = Stack(models, LOSS, trained(models, lambda p, n: Adam(p, lr=rates[n])))
        for step in range(5):
            losses = stack.forward_backward(batches(step))
            stack.step()
        return models, losses

    (sound, losses), (others, with_lost) = run([1e-3, 2e-3, 3e-3]), run([1e-3, 1e38, 3e-3])
    assert torch.isnan(with_lost).tolist() == [False, True, False]
    for number in (0, 2):
        assert torch.equal(losses[number], with_lost[number])
        for ours, theirs in zip(sound[number].parameters(), others[number].parameters(), strict=True):
            assert torch.equal(ours, theirs)


def test_networks_can_be_stacked_anew_and_go_on_as_if_nothing_had_happened():
    for make_optimizer in (
        lambda p, n: Adam(p, lr=1e-3 * (n + 1), amsgrad=True),
        lambda p, n: SGD(p, lr=0.01, momentum=0.9, dampening=0.1),
    ):
        kept, whole = seeded(mlp), seeded(mlp)
        optimizers, others = trained(kept, make_optimizer), trained(whole, make_optimizer)
        stack, other = Stack(kept, LOSS, optimizers), Stack(whole, LOSS, others)
        for step in range(6):
            data = batches(step)
            if step == 3:
                stack = Stack(kept[1:], LOSS, optimizers[1:])
            stack.forward_backward(data if step < 3 else data[1:])
            other.forward_backward(data)
            stack.step()
            other.step()
        for ours, theirs in zip(kept[1:], whole[1:], strict=True):
            for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
                torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)


def test_a_state_has_no_memory_in_common_with_another():
    models = seeded(mlp)
    optimizers = trained(models, lambda p, n: Adam(p, lr=1e-3))
    stack = Stack(models, LOSS, optimizers)
    for step in range(3):
        stack.forward_backward(batches(step))
        stack.step()
    places = [
        tensor.data_ptr() for optimizer in optimizers for state in optimizer.state.values() for tensor in state.values()
    ]
    assert len(set(places)) == len(places) == N * 6 * 3
    assert all(float(state["step"]) == 3 for optimizer in optimizers for state in optimizer.state.values())


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.spare = nn.Linear(5, 2), nn.Linear(5, 2)

    def forward(self, x):
        return self.used(x)


class Asking(nn.Linear):
    def forward(self, x):
        y = super().forward(x)
        return y if y.sum().item() > 0 else 2 * y


class Secretive(nn.Linear):
    """Has a number of its own that is no parameter."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.scale = torch.rand(()).item()

    def forward(self, x):
        return self.scale * super().forward(x)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: nn.Sequential(nn.Linear(5, 2), nn.Dropout(0.5)), "model: it draws random numbers in its steps"),
        (lambda: Asking(5, 2), "model: it asks for the value of a tensor in its steps"),
        (Unused, "model: the loss does not depend on its parameter spare.weight"),
        (lambda: Secretive(5, 2), "model: its loss is .* together and .* alone"),
    ],
)
def test_what_would_not_be_the_same_is_found_before_the_first_step(make, expected):
    models = seeded(make)
    before = [copy.deepcopy(model.state_dict()) for model in models]
    stack = Stack(models, LOSS, trained(models, lambda p, n: Adam(p)))
    with pytest.raises(CannotStackError, match=expected):
        stack.check(batches(0), [LOSS] * N)
    for model, state in zip(models, before, strict=True):
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_a_look_at_a_batch_norm_leaves_its_statistics_alone():
    models = seeded(lambda: nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)))
    Stack(models, LOSS, trained(models, lambda p, n: Adam(p))).check(batches(0), [LOSS] * N)
    assert all(int(model[1].num_batches_tracked) == 0 for model in models)
    assert all(torch.equal(model[1].running_mean, torch.zeros(3)) for model in models)


@pytest.mark.parametrize(
    ("models", "optimizers", "expected"),
    [
        ([nn.Linear(5, 2), nn.Linear(5, 3)], [SGD, SGD], "model: it has parameters or buffers of other shapes"),
        ([nn.Linear(5, 2), nn.Linear(5, 2)], [SGD, Adam], "optimizer: it is Adam, SGD"),
        ([nn.Linear(5, 2), nn.Linear(5, 2)], [torch.optim.Adagrad] * 2, "optimizer: it is Adagrad"),
        (
            [nn.Linear(5, 2), nn.Linear(5, 2)],
            [Adam, lambda p, lr: Adam(p, lr=lr, amsgrad=True)],
            "optimizer.amsgrad: it is not the same in all jobs",
        ),
        ([nn.Sequential(nn.Linear(5, 2), nn.Linear(2, 2).double())] * 2, [SGD, SGD], "model: .* several data types"),
    ],
)
def test_networks_that_are_not_alike_are_refused(models, optimizers, expected):
    made = [make(model.parameters(), lr=0.1) for make, model in zip(optimizers, models, strict=True)]
    with pytest.raises(CannotStackError, match=expected):
        Stack(models, LOSS, made)
