"""The platform's cycles and cascades are those of a loop of one's own: the same losses and weights, to the last bit."""

from functools import cache
from itertools import product

import pytest
import torch
from torch.nn.functional import mse_loss
from toy_problem import plane

from accelerator.multilevel import (
    FAS,
    carry_optimizer_state,
    cascade,
    coupled_decay,
    create_network_hierarchy,
    gradients,
    steps_of,
)
from accelerator.multilevel.optimizer_state import start_averages
from accelerator.runtime.callbacks.base import Callback
from accelerator.runtime.context.build import build_context
from accelerator.runtime.data.feed import PAIRING, InMemoryFeed, mix
from accelerator.runtime.loop.train import train
from accelerator.utilities.base_registry import registry
from accelerator.utilities.seed import seed_everything

PRE, POST, COARSE, K, LR = 3, 2, 5, 4, 0.05
OPTIMIZERS = {
    "SGD": {"name": "SGD", "lr": LR, "momentum": 0.9, "weight_decay": 1e-2},
    "Adam": {"name": "Adam", "lr": LR, "weight_decay": 1e-2},
    "AdamW": {"name": "AdamW", "lr": LR, "weight_decay": 1e-2},
}
MODEL = {"name": "mlp", "hidden": [16, 16]}


def hierarchy(levels, **options):
    seed_everything(0)
    model = registry("model").get("mlp")(input_shape=(3,), output_shape=(1,), hidden=MODEL["hidden"])
    example = next(iter(InMemoryFeed(*plane()["train"], 8, shuffle=True).epoch(0)))[0]
    generator = torch.Generator().manual_seed(mix(0, PAIRING))
    return create_network_hierarchy(model, example, levels=levels, min_width=2, generator=generator, **options)


@cache
def costs(levels):
    return hierarchy(levels).costs


class Bare:
    """V-cycles on a hierarchy, by nothing but the pure API."""

    def __init__(self, levels, kind, tau, carried, guard=0.1, correction_scale=1.0, line_search=False):
        self.network = hierarchy(levels)
        self.last, self.carried = levels - 1, carried
        self.kind = {key: value for key, value in OPTIMIZERS[kind].items() if key != "name"}
        self.optimizer_class = getattr(torch.optim, kind)
        self.fas = FAS(self.network, tau=tau, guard=guard, scale=correction_scale, line_search=line_search)
        self.guarded = guard is not None or line_search
        self.optimizers = {0: self.make(0)}
        self.feed, self.position = InMemoryFeed(*plane()["train"], 8, shuffle=True), 0
        self.losses, self.corrections, self.owed = [], [], 0.0

    def make(self, level):
        return self.optimizer_class(self.network.levels[level].parameters(), **self.kind)

    def batch(self, number):
        return list(self.feed.epoch(number // self.feed.batches))[number % self.feed.batches]

    def backward(self, level, batch):
        loss = mse_loss(self.network.levels[level](batch[0]), batch[1])
        loss.backward()
        return loss.item()

    def gradient(self, level, batch):
        self.backward(level, batch)
        network = self.network.levels[level]
        return gradients(network, coupled_decay(self.optimizers[level], network))

    @torch.no_grad()
    def loss(self, level):
        values = [(mse_loss(self.network.levels[level](x), y), len(y)) for x, y in self.window]
        return sum(float(value) * size for value, size in values) / sum(size for _, size in values)

    def steps(self, level, number, afresh):
        optimizer = self.optimizers[level]
        if level == 0:  # what the guard took beyond its planned losses is saved here
            saved = min(round(self.owed), number)
            number, self.owed = number - saved, self.owed - saved
        for step in range(number):
            batch = self.window[step % K] if level else self.batch(self.position)
            self.position += level == 0
            self.losses.append(self.backward(level, batch))
            if level:
                self.fas.add_tau(level, step)
            if afresh and step == 0:
                start_averages(optimizer, {"exp_avg": {p: None for p, s in optimizer.state.items() if "exp_avg" in s}})
                for state in optimizer.state.values():
                    if "momentum_buffer" in state:
                        state["momentum_buffer"].zero_()
            optimizer.step()
            optimizer.zero_grad()

    def cycle(self, level=0):
        if level == self.last:
            self.steps(level, COARSE, afresh=self.carried != "carry")
            return
        self.steps(level, PRE, afresh=self.carried != "carry" and level > 0)
        if level == 0:
            self.window = [self.batch(self.position + number) for number in range(K)]
        coarse = level + 1
        if coarse not in self.optimizers or self.carried != "separate":
            self.optimizers[coarse] = self.make(coarse)
        self.fas.descend(level, self.window, self.gradient)
        if self.carried == "carry":
            carry_optimizer_state(self.optimizers[level], self.optimizers[coarse], self.network, level, coarse)
        self.cycle(coarse)
        correction = self.fas.ascend(level, (lambda: self.loss(level)) if self.guarded else None)
        self.corrections.append(correction)
        self.owed += (
            max(correction.evaluations - (5 if self.fas.line_search else 2), 0) * K * self.network.costs[level] / 3
        )
        if self.carried == "carry":
            self.optimizers[level] = self.make(level)
            carry_optimizer_state(self.optimizers[coarse], self.optimizers[level], self.network, coarse, level)
        self.steps(level, POST, afresh=self.carried != "carry" and level > 0)


class Losses(Callback):
    """The loss of every step."""

    def __init__(self):
        self.seen = []

    def after_backward(self, context):
        self.seen.append(context.loss.item())


def platform(tiny_config, method, optimizer, **trainer):
    config = tiny_config(model=MODEL, optimizer=optimizer, trainer=trainer)
    config |= {"multilevel": {"min_width": 2, **method}, "callbacks": {}}
    losses = Losses()
    context = build_context(config, None, callbacks={"losses": losses})
    train(context)
    return context, losses.seen


def assert_equal_networks(ours, theirs):
    for number, (one, other) in enumerate(zip(ours.levels, theirs.levels, strict=True)):
        for name, tensor in one.state_dict().items():
            assert torch.equal(tensor, other.state_dict()[name]), (number, name)


@pytest.mark.parametrize(
    ("levels", "kind", "tau", "carried"),
    [
        *product([3], ["SGD", "Adam"], ["minibatch"], ["separate", "carry", "reset"]),
        *((3, kind, *rest) for kind, rest in product(["SGD", "Adam"], [("wholeset", "separate"), ("none", "carry")])),
        (2, "SGD", "wholeset", "carry"),
        (2, "Adam", "minibatch", "separate"),
    ],
)
def test_v_cycles_are_those_of_a_loop_of_ones_own(tiny_config, levels, kind, tau, carried):
    same_cycles(tiny_config, levels, kind, tau, carried)


@pytest.mark.parametrize(
    "options",
    [
        {"guard": None},
        {"guard": 0.0, "correction_scale": 30.0},
        {"line_search": True, "correction_scale": 2.0},
    ],
    ids=["no guard", "guarded", "line search"],
)
def test_scaled_corrections_are_those_of_a_loop_of_ones_own(tiny_config, options):
    bare = same_cycles(tiny_config, 3, "AdamW", "minibatch", "separate", **options)
    scales = {correction.scale for correction in bare.corrections}
    assert scales != {1.0} or options["guard"] is None


def same_cycles(tiny_config, levels, kind, tau, carried, **options):
    method = {"name": "v_cycle", "levels": levels, "tau": tau, "optimizer_state": carried, **options}
    method.setdefault("guard", 0.1)
    steps = {"pre": PRE, "post": POST, "coarse": COARSE, "k": K}
    # Three cycles; the rest of the budget is trained on the finest level.
    probe = costs(levels)
    coarse = PRE + POST + COARSE * probe[-1] + (levels - 2) * (PRE + POST) * probe[1]
    losses = 5 if options.get("line_search") else 0 if options.get("guard", 0.1) is None else 2
    dual = sum(losses * K * cost / 3 for cost in probe[:-1])
    taus = 0 if tau == "none" else K * sum(probe[i] + probe[i + 1] for i in range(levels - 1))
    budget = round(3.4 * (coarse + dual + taus))
    context, found = platform(tiny_config, method | steps, OPTIMIZERS[kind], max_epochs=99, max_steps=budget)
    bare = Bare(levels, kind, tau, carried, **options)
    for _ in range(3):
        bare.cycle()
    bare.owed = 0
    bare.steps(0, len(found) - len(bare.losses), afresh=False)
    assert found == bare.losses
    assert_equal_networks(context.network, bare.network)
    assert context.state.work == pytest.approx(budget - context.state.spared, abs=1)
    return bare


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"optimizer_state": "reset"},
        {"warmup_epochs": 2, "share": 0.5},
        {"lr_factors": [1, 2, 3], "fractions": [0.2, 0.3, 0.5], "warmup_epochs": 1, "optimizer_state": "reset"},
    ],
    ids=["carry", "reset", "warm-up and share", "all at once"],
)
def test_a_cascade_is_that_of_a_loop_of_ones_own(tiny_config, kind, options):
    method = {"name": "cascade", "levels": 3, **options}
    context, found = platform(tiny_config, method, OPTIMIZERS[kind], max_epochs=10)

    network = hierarchy(3)
    feed, losses = InMemoryFeed(*plane()["train"], 8, shuffle=True), []
    warmup = options.get("warmup_epochs", 0) * feed.batches
    stages = list(cascade(10 * feed.batches, network.costs, options.get("fractions"), warmup))
    arguments = {key: value for key, value in OPTIMIZERS[kind].items() if key not in ("name", "lr")}
    here, optimizer = stages[0].level, None
    for level in range(here):
        network.restrict(level)
    for stage, steps in zip(stages, steps_of(stages, network.costs), strict=True):
        level, before = stage.level, optimizer
        lr = LR * options.get("lr_factors", [1, 1, 1])[level]
        optimizer = getattr(torch.optim, kind)(network.levels[level].parameters(), lr=lr, **arguments)
        for finer in range(here, level):
            network.restrict(finer)
        for finer in reversed(range(level, here)):
            network.prolongate(finer, share=options.get("share", 1.0))
        if before is not None and options.get("optimizer_state") != "reset":
            carry_optimizer_state(before, optimizer, network, here, level)
            optimizer.param_groups[0]["lr"] = lr
        here = level
        for _ in range(steps):
            inputs, targets = list(feed.epoch(len(losses) // feed.batches))[len(losses) % feed.batches]
            loss = mse_loss(network.levels[level](inputs), targets)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    assert [stage.level for stage in context.stages] == ([0] if warmup else []) + [2, 1, 0]
    assert found == losses
    assert_equal_networks(context.network, network)
