import pytest
from run_outcomes import At, points, send
from toy_problem import plane

from accelerator.errors import Terminated
from accelerator.runtime.callbacks import logger
from accelerator.runtime.callbacks.base import Callback
from accelerator.runtime.run import execute


class Losses(Callback):
    """The loss and size of each batch, straight from the context."""

    def __init__(self):
        self.seen = []

    def after_backward(self, context):
        self.seen.append((context.state.step + 1, context.loss.item(), len(context.batch[1])))


def never(monkeypatch):
    """Points are drained by number, or when something else asks, never by time."""
    monkeypatch.setattr(logger.time, "monotonic", lambda: -1.0)


@pytest.mark.parametrize("at_once", [1, 2, 4, 1000])
def test_every_step_is_on_record_with_its_own_number_however_late_it_is_drained(
    tiny_config, tmp_path, monkeypatch, at_once
):
    never(monkeypatch)
    monkeypatch.setattr(logger, "_LOSSES", at_once)
    losses = Losses()
    execute(tiny_config(trainer={"max_epochs": 3, "max_steps": 8}), tmp_path, callbacks={"losses": losses})
    expected = [(step, pytest.approx(value)) for step, value, _ in losses.seen]
    assert points(tmp_path, "train/loss") == expected
    assert len(expected) == 8


def test_the_loss_of_a_pass_is_the_mean_over_its_samples(tiny_config, tmp_path):
    losses = Losses()
    execute(tiny_config(), tmp_path, callbacks={"losses": losses})
    expected = []
    for first in (0, 3):
        batches = losses.seen[first : first + 3]
        assert [size for _, _, size in batches] == [8, 8, 4]
        expected.append((first + 3, pytest.approx(sum(value * size for _, value, size in batches) / 20)))
    assert points(tmp_path, "train/epoch_loss") == expected


def test_without_learning_the_loss_of_a_pass_is_that_of_the_whole_set(tiny_config, tmp_path):
    config = tiny_config(
        optimizer={"name": "SGD", "lr": 0.0},
        model={"_target_": "toy_problem.Scale", "start": 0.5},
        loss={"_target_": "toy_problem.shifted_error"},
    )
    execute(config, tmp_path)
    inputs, targets = plane()["train"]
    expected = (0.5 * inputs - targets).square().mean().item()
    assert [value for _, value in points(tmp_path, "train/epoch_loss")] == [pytest.approx(expected)] * 2


def test_a_pass_is_described_by_rates_work_and_level(tiny_config, tmp_path):
    config = tiny_config(scheduler={"name": "StepLR", "step_size": 1, "gamma": 0.5, "interval": "epoch"})
    execute(config, tmp_path)
    for key, expected in {
        "epoch": [(3, 1), (6, 2)],
        "work": [(0, 0.0), (3, 3.0), (6, 6.0)],
        "level": [(0, 0), (3, 0), (6, 0)],
        "lr": [(3, 0.025), (6, 0.0125)],
    }.items():
        assert points(tmp_path, key) == expected, key


def test_level_and_work_are_on_record_where_a_stage_starts_and_once(tiny_config, tmp_path):
    config = tiny_config(
        model={"name": "mlp", "hidden": [16]}, multilevel={"name": "cascade", "levels": 2}, trainer={"max_epochs": 3}
    )
    costs = []
    look = At("run_start", lambda context: costs.extend([context.costs[1], context.stages[0].steps]))
    stop = At("step_end", send(), number=2)
    with pytest.raises(Terminated):
        execute(config, tmp_path, callbacks={"look": look, "stop": stop})
    result = execute(config, tmp_path, resume=tmp_path / "checkpoints")
    cost, coarse = costs
    assert points(tmp_path, "level")[0] == (0, 1)
    assert [step for step, _ in points(tmp_path, "level")] == sorted([0, coarse, *range(3, result.steps + 1, 3)])
    assert (coarse, 0) in points(tmp_path, "level")
    assert (coarse, pytest.approx(coarse * cost)) in points(tmp_path, "work")


def test_what_validation_and_test_measure_is_on_record(tiny_config, tmp_path):
    config = tiny_config(metrics={"error": {"_target_": "toy_problem.shifted_error", "shift": 0.0}})
    result = execute(config, tmp_path)
    for split, steps in (("val", [3, 6]), ("test", [6])):
        for name in ("loss", "error"):
            found = points(tmp_path, f"{split}/{name}")
            assert [step for step, _ in found] == steps
            assert found[-1][1] == result.metrics[f"{split}/{name}"]


def test_steps_before_a_failure_are_on_record_under_their_own_numbers(tiny_config, tmp_path, monkeypatch):
    never(monkeypatch)

    def fail(context):
        raise ZeroDivisionError

    failing = At("step_end", fail, number=3)
    failing.priority = 95  # before the logger, on the way out
    losses = Losses()
    with pytest.raises(ZeroDivisionError):
        execute(tiny_config(), tmp_path, callbacks={"fails": failing, "losses": losses})
    assert points(tmp_path, "train/loss") == [(step, pytest.approx(value)) for step, value, _ in losses.seen[:2]]


def test_a_pass_interrupted_and_resumed_has_the_mean_of_all_its_samples(tiny_config, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    execute(tiny_config(), whole)
    execute(tiny_config(trainer={"max_steps": 5}), parts)
    execute(tiny_config(), parts, resume=parts / "checkpoints")
    assert points(parts, "train/epoch_loss") == points(whole, "train/epoch_loss")
    assert points(parts, "train/loss") == points(whole, "train/loss")


def test_points_do_not_wait_longer_than_a_moment(tiny_config, tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(logger.time, "monotonic", lambda: now[0])
    seen = []

    class Watch(Callback):
        priority = 60  # just after the logger's own step, on the next one

        def step_end(self, context):
            seen.append(len(context.callbacks.callbacks["metric_logger"]._losses))
            now[0] += 0.2

    execute(tiny_config(data={"_target_": "toy_problem.plane", "samples": 48}), tmp_path, callbacks={"watch": Watch()})
    assert max(seen) <= 2
    assert [step for step, _ in points(tmp_path, "train/loss")] == list(range(1, 13))
