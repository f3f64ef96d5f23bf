import pytest
import torch
from run_outcomes import At, equal, last_state, points, send
from torch import nn
from toy_problem import CASCADE, V_CYCLE

from accelerator.errors import ConfigError, Terminated
from accelerator.runtime.callbacks.averaging import EMA, SWA
from accelerator.runtime.callbacks.base import Callback
from accelerator.runtime.checkpoint.checkpoint_handler import CheckpointHandler
from accelerator.runtime.run import execute


class Normed(nn.Module):
    """A batch norm between two linear maps."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)

    def forward(self, x):
        return self.last(self.norm(self.first(x)).relu())


NORMED = {"imports": ["toy_problem", __name__], "model": {"_target_": f"{__name__}.Normed"}}


class Watch(Callback):
    """The weights after each step, and while they are validated."""

    priority = 20

    def __init__(self):
        self.steps, self.validated, self.after = [], {}, {}

    @staticmethod
    def copy(context):
        return {name: value.clone() for name, value in context.model.state_dict().items()}

    def step_end(self, context):
        self.steps.append(self.copy(context))

    def validation_start(self, context):
        self.validated[context.state.step] = self.copy(context)

    def epoch_end(self, context):
        self.after[context.state.step] = self.copy(context)


def with_average(name, **options):
    return {"callbacks": {name: {"name": name, **options}}}


def close(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value.double(), theirs[name].double(), rtol=1e-5, atol=1e-6, msg=name)


def ema_weights(decay, count):
    """What each of the steps counts for in the average, by its recurrence: w̄ ← d w̄ + (1 − d) w with a growing d."""
    weights = [1.0]
    for n in range(1, count):
        now = min(decay, (1 + n) / (10 + n))
        weights = [now * weight for weight in weights] + [1 - now]
    return weights


@pytest.mark.parametrize(
    ("options", "taken"),
    [
        ({"decay": 0.2}, [1, 2, 3, 4, 5, 6]),  # reached at the second update
        ({"decay": 0.9, "every": 2}, [1, 3, 5]),
        ({"decay": 0.9, "start_step": 4}, [4, 5, 6]),
        ({"decay": 0.0}, [6]),
    ],
)
def test_ema_is_its_closed_form(tiny_config, tmp_path, options, taken):
    watch = Watch()
    execute(tiny_config(**with_average("ema", **options)), tmp_path, callbacks={"watch": watch})
    weights = ema_weights(options["decay"], len(taken))
    assert sum(weights) == pytest.approx(1)
    expected = {
        name: sum(weight * watch.steps[step - 1][name].double() for weight, step in zip(weights, taken, strict=True))
        for name in watch.steps[0]
    }
    close(watch.validated[6], expected)
    close(last_state(tmp_path)["average"], expected)


def test_swa_is_the_mean_of_the_last_passes(tiny_config, tmp_path):
    watch = Watch()
    config = tiny_config(trainer={"max_epochs": 8}, **with_average("swa", start=0.6))
    execute(config, tmp_path, callbacks={"watch": watch})
    # 24 steps of work, of which 14.4 are the first 0.6: the passes that end at 15, 18, 21 and 24.
    expected = {
        name: torch.stack([watch.steps[step - 1][name].double() for step in (15, 18, 21, 24)]).mean(0)
        for name in watch.steps[0]
    }
    close(watch.validated[24], expected)
    close(last_state(tmp_path)["average"], expected)
    assert equal(watch.validated[12], watch.steps[11])


@pytest.mark.parametrize("name", ["ema", "swa"])
def test_the_training_itself_does_not_notice(tiny_config, tmp_path, name):
    runs = {}
    for folder, sections in (("with", with_average(name)), ("without", {})):
        (tmp_path / folder).mkdir()
        watch = Watch()
        execute(tiny_config(**NORMED, **sections), tmp_path / folder, callbacks={"watch": watch})
        runs[folder] = points(tmp_path / folder, "train/loss"), watch.steps
        assert all(equal(after, watch.steps[step - 1]) for step, after in watch.after.items())
    assert equal(list(runs["with"]), list(runs["without"]))


MOMENTS = [
    ("step_end", 12),
    ("validation_start", 2),
    pytest.param(("step_end", 5), marks=pytest.mark.faults),
    pytest.param(("save_start", 2), marks=pytest.mark.faults),
]


@pytest.mark.parametrize("sections", [{}, NORMED, CASCADE, V_CYCLE])
@pytest.mark.parametrize("options", [{"name": "ema", "decay": 0.8}, {"name": "swa", "start": 0.1}])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_killed_anywhere_goes_on_to_the_last_bit(tiny_config, tmp_path, sections, options, moment):
    hook, number = moment
    config = tiny_config(**{"trainer": {"max_epochs": 5}, **sections}, callbacks={"average": options})
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected = execute(config, whole)
    with pytest.raises(Terminated):
        execute(config, parts, callbacks={"stop": At(hook, send(), number=number)})
    found = execute(config, parts, resume=parts / "checkpoints")
    assert equal(last_state(parts), last_state(whole))
    assert last_state(whole)["average"] is not None
    assert points(parts) == points(whole)
    assert found.metrics == expected.metrics


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_an_error_in_a_validation_leaves_no_average_in_the_network(tiny_config, tmp_path, error):
    watch, seen = Watch(), []

    class Looks(Callback):
        priority = 4  # after the average, on the way out

        def failed(self, context):
            seen.append(Watch.copy(context))

    def fail(context):
        raise error

    callbacks = {"watch": watch, "fails": At("validation_end", fail, number=2), "looks": Looks()}
    callbacks["fails"].priority = 70
    with pytest.raises(error):
        execute(tiny_config(**with_average("ema", decay=0.5)), tmp_path, callbacks=callbacks)
    assert not equal(watch.validated[6], watch.steps[5])
    assert equal(seen[0], watch.steps[5])


def test_the_average_that_is_tested_is_that_of_the_best_checkpoint(tiny_config, tmp_path):
    tested, watch = [], Watch()
    look = At("test_start", lambda context: tested.append(Watch.copy(context)))
    config = tiny_config(trainer={"max_epochs": 6}, **with_average("ema", decay=0.5))
    result = execute(config, tmp_path, callbacks={"watch": watch, "look": look})
    state, meta = CheckpointHandler(tmp_path / "checkpoints").load(result.best)
    assert meta.metrics["val/loss"] == min(value for _, value in points(tmp_path, "val/loss"))
    assert equal(tested[0], watch.validated[meta.step])
    assert equal(tested[0], state["average"])
    assert not equal(tested[0], state["model"])


def test_batch_norm_statistics_of_swa_are_measured_with_the_averaged_weights(tiny_config, tmp_path):
    watch, data = Watch(), {}
    look = At("run_start", lambda context: data.update(train=context.data.train.inputs))
    config = tiny_config(loader={"batch_size": 10}, trainer={"max_epochs": 8}, **NORMED, **with_average("swa"))
    execute(config, tmp_path, callbacks={"watch": watch, "look": look})
    average = watch.validated[16]
    hidden = data["train"] @ average["first.weight"].T + average["first.bias"]
    torch.testing.assert_close(average["norm.running_mean"], hidden.mean(0))
    assert not torch.allclose(average["norm.running_mean"], watch.steps[-1]["norm.running_mean"])


@pytest.mark.parametrize("buffers", [True, False])
def test_ema_averages_buffers_if_asked_to(tiny_config, tmp_path, buffers):
    watch = Watch()
    config = tiny_config(**NORMED, **with_average("ema", decay=0.5, buffers=buffers))
    execute(config, tmp_path, callbacks={"watch": watch})
    key = "norm.running_var"
    averaged = sum(w * step[key] for w, step in zip(ema_weights(0.5, 6), watch.steps, strict=True))
    torch.testing.assert_close(watch.validated[6][key], averaged if buffers else watch.steps[-1][key])


def test_the_average_goes_up_a_cascade_with_the_weights(tiny_config, tmp_path):
    averages = {}

    class Looks(Callback):
        priority = 9  # after the average, on the way in

        def stage_start(self, context):
            callback = context.callbacks.callbacks["average"]
            if context.level == 0:
                averages["fine"] = {k: v.clone() for k, v in callback._average.module.state_dict().items()}
                averages["count"] = int(callback._average.n_averaged)
                averages["prolonged"] = context.network.hops[0].prolong(averages["coarse"])

        def stage_end(self, context):
            if context.level == 1:
                module = context.callbacks.callbacks["average"]._average.module
                averages["coarse"] = {k: v.clone() for k, v in module.state_dict().items()}
                averages["steps"] = context.state.step
                context.callbacks("save_start", context)
                averages["saved"] = context.average

    config = tiny_config(**CASCADE, callbacks={"average": {"name": "ema", "decay": 0.9}})
    execute(config, tmp_path, callbacks={"looks": Looks()})
    assert averages["saved"] is None, "the full network has no average yet"
    assert averages["count"] == averages["steps"] > 0
    close(averages["fine"], dict(averages["prolonged"]))


def test_in_a_cycle_the_steps_of_the_finest_level_are_averaged(tiny_config, tmp_path):
    levels, counts = [], []
    count = At("run_end", lambda c: counts.append(int(c.callbacks.callbacks["ema"]._average.n_averaged)))
    config = tiny_config(**V_CYCLE, **with_average("ema"))

    class Levels(Callback):
        def step_end(self, context):
            levels.append(context.level)

    execute(config, tmp_path, callbacks={"levels": Levels(), "count": count})
    assert set(levels) == {0, 1}
    assert counts == [levels.count(0)]
    assert last_state(tmp_path)["average"].keys() == last_state(tmp_path)["network"]["levels"]["0"].keys()


def test_a_run_has_one_average(tiny_config, tmp_path):
    config = tiny_config(callbacks={"one": {"name": "ema"}, "two": {"name": "swa"}})
    with pytest.raises(ConfigError, match=r"callbacks\.one, callbacks\.two: one run has one average"):
        execute(config, tmp_path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EMA(decay=1.0), "decay=1.0: expected at least 0 and below 1"),
        (lambda: EMA(every=0), "every=0: expected at least 1"),
        (lambda: EMA(start_step=0), "start_step=0: expected at least 1"),
        (lambda: SWA(start=1.0), "start=1.0: expected at least 0 and below 1"),
    ],
)
def test_settings_out_of_range_are_told(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
