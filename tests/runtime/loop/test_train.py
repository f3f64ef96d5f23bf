import math

import pytest
import torch
from run_outcomes import At, equal, last_state, points, saved_steps
from torch import nn
from toy_problem import plane

from accelerator.errors import DataError
from accelerator.runtime.callbacks.base import Callback
from accelerator.runtime.context.build import build_context
from accelerator.runtime.data.feed import InMemoryFeed
from accelerator.runtime.loop.train import train
from accelerator.runtime.run import execute


class Watch(Callback):
    """(step, epoch, batch, stage, stage_step, level) after each step, and what was validated when."""

    def __init__(self):
        self.steps, self.validations = [], []

    def step_end(self, context):
        s = context.state
        self.steps.append((s.step, s.epoch, s.batch, s.stage, s.stage_step, context.level))

    def validation_end(self, context):
        self.validations.append(context.state.step)


def trained(config, folder=None):
    watch = Watch()
    config["callbacks"] = {}
    context = build_context(config, folder, callbacks={"watch": watch})
    train(context)
    return context, watch


def test_steps_batches_and_passes_are_counted(tiny_config):
    context, watch = trained(tiny_config())
    expected = [(s, (s - 1) // 3, (s - 1) % 3 + 1, 0, s, 0) for s in range(1, 7)]
    assert watch.steps == expected
    state = context.state
    assert (state.step, state.epoch, state.batch, state.stage, state.stage_step, state.work) == (6, 2, 0, 0, 6, 6.0)


@pytest.mark.parametrize(
    ("trainer", "steps", "epochs", "batch", "validations"),
    [
        ({"max_epochs": 1}, 3, 1, 0, [3]),
        ({"max_epochs": 4, "validate_every": 2}, 12, 4, 0, [6, 12]),
        ({"max_epochs": 3, "validate_every": 2}, 9, 3, 0, [6, 9]),
        ({"max_epochs": 3, "validate_every": 5}, 9, 3, 0, [9]),
        ({"max_steps": 1}, 1, 0, 1, [1]),
        ({"max_steps": 3}, 3, 1, 0, [3]),
        ({"max_steps": 5}, 5, 1, 2, [3, 5]),
        ({"max_epochs": 1, "max_steps": 100}, 3, 1, 0, [3]),
    ],
)
def test_the_smaller_budget_ends_the_run_and_nothing_is_validated_twice(
    tiny_config, trainer, steps, epochs, batch, validations
):
    context, watch = trained(tiny_config(trainer=trainer))
    assert (context.state.step, context.state.epoch, context.state.batch) == (steps, epochs, batch)
    assert watch.validations == validations


def test_stages_share_the_budget_and_the_order_of_the_data_goes_on_across_them(tiny_config):
    config = tiny_config(
        trainer={"max_epochs": 8},
        model={"name": "mlp", "hidden": [16, 16]},
        multilevel={"name": "cascade", "levels": 2, "fractions": [0.25, 0.75], "min_width": 2},
    )
    context, watch = trained(config)
    cost = context.costs[1]
    coarse, fine = (stage.steps for stage in context.stages)
    assert 0 < cost < 1
    assert coarse == pytest.approx(0.25 * 24 / cost, abs=1)
    assert fine == pytest.approx(18, abs=1)
    assert [level for *_, level in watch.steps] == [1] * coarse + [0] * fine
    assert [step[4] for step in watch.steps] == [*range(1, coarse + 1), *range(1, fine + 1)]
    assert [step[:3] for step in watch.steps] == [
        (s, (s - 1) // 3, (s - 1) % 3 + 1) for s in range(1, coarse + fine + 1)
    ]
    assert context.state.work == pytest.approx(coarse * cost + fine)
    assert watch.validations.count(coarse) == 1


def test_the_whole_is_a_hand_written_loop_with_clipping_and_a_schedule(tiny_config, tmp_path):
    config = tiny_config(
        model={"_target_": "toy_problem.Scale", "start": 3.0, "power": 1},
        loss={"_target_": "toy_problem.shifted_error"},
        optimizer={"name": "SGD", "lr": 0.1, "momentum": 0.9},
        scheduler={"name": "StepLR", "step_size": 1, "gamma": 0.5, "interval": "epoch"},
        trainer={"max_epochs": 3, "clip_norm": 0.3},
    )
    execute(config, tmp_path)
    factor = nn.Parameter(torch.tensor(3.0))
    optimizer = torch.optim.SGD([factor], lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    feed, expected = InMemoryFeed(*plane()["train"], 8, shuffle=True), []
    for epoch in range(3):
        for inputs, targets in feed.epoch(epoch):
            optimizer.zero_grad()
            loss = (factor * inputs - targets).square().mean()
            loss.backward()
            nn.utils.clip_grad_norm_([factor], 0.3)
            optimizer.step()
            expected.append(loss.item())
        scheduler.step()
    assert [value for _, value in points(tmp_path, "train/loss")] == [
        pytest.approx(loss, rel=1e-6) for loss in expected
    ]
    assert last_state(tmp_path)["model"]["factor"].item() == pytest.approx(factor.item(), rel=1e-6)


def test_a_callback_can_end_the_run_after_the_pass(tiny_config, tmp_path):
    def finish(context):
        context.finish_early = True

    result = execute(tiny_config(trainer={"max_epochs": 5}), tmp_path, callbacks={"end": At("step_end", finish)})
    assert result.steps == 3
    assert math.isfinite(result.metrics["test/loss"])


def test_the_network_trains_in_training_mode_and_is_measured_in_evaluation_mode(tiny_config):
    modes = []

    class Mode(Callback):
        def after_backward(self, context):
            modes.append(("step", context.model.training))

        def validation_end(self, context):
            modes.append(("validated", context.model.training))

    config = tiny_config()
    config["callbacks"] = {}
    context = build_context(config, None, callbacks={"mode": Mode()})
    seen = []
    context.model.register_forward_hook(lambda module, *_: seen.append(module.training))
    train(context)
    assert seen == [True, True, True, False] * 2
    assert all(training for _, training in modes)


def test_data_that_gives_no_batch_is_told(tiny_config):
    context = build_context(tiny_config(), None)
    context.data.train.epoch = lambda epoch, start=0: iter(())
    with pytest.raises(DataError, match=r"the training data gave no batch in pass 1 \(expected 3\)"):
        train(context)


@pytest.mark.parametrize("steps", range(1, 9))
def test_a_run_cut_anywhere_and_resumed_is_the_uninterrupted_one(tiny_config, tmp_path, steps):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    config = tiny_config(
        trainer={"max_epochs": 3},
        checkpoint={"every_steps": 1, "keep": 1000},
        model={"name": "mlp", "hidden": [4], "dropout": 0.2},
        optimizer={"name": "Adam", "lr": 0.01},
        scheduler={"name": "OneCycleLR", "max_lr": 0.1, "interval": "step"},
        transform={"input": {"noise": {"name": "noise", "std": 0.1}}, "target": {"normalize": {"name": "normalize"}}},
    )
    execute(config, whole)

    def fail(context):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        execute(config, parts, callbacks={"fails": At("after_backward", fail, number=steps + 1)})
    assert saved_steps(parts)[-1] == steps
    execute(config, parts, resume=parts / "checkpoints")
    assert equal(last_state(parts), last_state(whole))
    assert points(parts) == points(whole)


def test_a_finished_run_that_is_resumed_trains_no_step(tiny_config, tmp_path):
    execute(tiny_config(), tmp_path)
    state, recorded = last_state(tmp_path), points(tmp_path, "train/loss")
    result = execute(tiny_config(), tmp_path, resume=tmp_path / "checkpoints")
    assert result.steps == 6
    assert equal(last_state(tmp_path), state)
    assert points(tmp_path, "train/loss") == recorded
