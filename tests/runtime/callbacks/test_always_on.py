import math
from types import SimpleNamespace

import pytest
import torch
from run_outcomes import At, points, saved_steps

from accelerator.errors import ConfigError, NonFiniteLossError
from accelerator.runtime.callbacks import always_on
from accelerator.runtime.callbacks.always_on import FiniteLoss
from accelerator.runtime.callbacks.base import Callback
from accelerator.runtime.run import execute


def poison(value):
    def act(context):
        context.loss = context.loss * value

    return act


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("step", [1, 3, 5])
def test_the_run_stops_at_the_very_step_whose_loss_is_not_finite(tiny_config, tmp_path, value, step):
    config = tiny_config(checkpoint={"every_steps": 1}, optimizer={"name": "SGD", "lr": 0.0125})
    where = rf"at step {step} \(batch {(step - 1) % 3 + 1} of pass {(step - 1) // 3 + 1}, learning rate 0.0125\)"
    with pytest.raises(NonFiniteLossError, match=where) as caught:
        execute(config, tmp_path, callbacks={"poison": At("after_backward", poison(value), number=step)})
    assert caught.value.exit_code == 1
    assert "optimizer.lr" in str(caught.value)
    # Nothing of the bad step is saved, and every step before it is on record under its own number.
    assert saved_steps(tmp_path) == [1, 2, 3, 4][: step - 1][-2:]
    assert [number for number, _ in points(tmp_path, "train/loss")] == list(range(1, step))


def test_the_rate_it_names_is_that_of_the_step_before_whose_weights_the_loss_is_of():
    group, state = {"lr": 0.5}, SimpleNamespace(step=0, batch=0, epoch=0)
    context = SimpleNamespace(
        engine=SimpleNamespace(device=torch.device("cpu")), optimizer=SimpleNamespace(param_groups=[group]), state=state
    )
    watch = FiniteLoss()
    watch.run_start(context)
    for rate_of_next, loss in [(0.25, 1.0), (0.125, 1.0), (0.0, math.inf)]:
        state.step += 1
        group["lr"], context.loss = rate_of_next, torch.tensor(loss)
        if loss == 1.0:
            watch.step_end(context)
    with pytest.raises(NonFiniteLossError, match=r"at step 3 .*, learning rate 0\.25\)"):
        watch.step_end(context)


def test_a_finite_run_is_left_alone(tiny_config, tmp_path):
    assert execute(tiny_config(), tmp_path).steps == 6


def test_on_a_gpu_it_looks_only_now_and_then(tiny_config, tmp_path):
    class OnGpu(FiniteLoss):
        def run_start(self, context):
            gpu = SimpleNamespace(device=torch.device("cuda"))
            super().run_start(SimpleNamespace(engine=gpu, optimizer=context.optimizer))

    config = tiny_config(callbacks={"finite_loss": None}, trainer={"max_epochs": 4})
    poisoned = {f"poison {step}": At("after_backward", poison(math.nan), number=step) for step in (4, 6, 10)}
    with pytest.raises(NonFiniteLossError, match="at step 10"):
        execute(config, tmp_path, callbacks={**poisoned, "finite": OnGpu(every=5)})


def test_every_is_at_least_one():
    with pytest.raises(ConfigError, match="every=0: expected at least 1"):
        FiniteLoss(every=0)


def test_throughput_measures_each_pass_in_steps_and_samples(tiny_config, tmp_path):
    execute(tiny_config(), tmp_path)
    steps, samples = points(tmp_path, "speed/steps_per_second"), points(tmp_path, "speed/samples_per_second")
    assert [step for step, _ in steps] == [3, 6]
    assert all(value > 0 for _, value in steps)
    for (_, per_step), (_, per_sample) in zip(steps, samples, strict=True):
        assert per_sample == pytest.approx(per_step * 20 / 3)


def test_throughput_leaves_validation_out(tiny_config, tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(always_on.time, "perf_counter", lambda: now[0])

    class Clock(Callback):
        def step_end(self, context):
            now[0] += 2.0

        def validation_end(self, context):
            now[0] += 1000.0

    execute(tiny_config(trainer={"test": False}), tmp_path, callbacks={"clock": Clock()})
    assert points(tmp_path, "speed/steps_per_second") == [(3, 0.5), (6, 0.5)]
