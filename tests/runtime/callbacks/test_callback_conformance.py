"""What every registered callback must do: an argument a name, a run that it does not disturb, a kill it survives."""

import inspect
import re

import pytest
import torch
from run_outcomes import At, equal, last_state, points, send

from accelerator.errors import Terminated
from accelerator.runtime.callbacks.base import HOOKS, Callback
from accelerator.runtime.callbacks.manager import CallbackManager
from accelerator.runtime.checkpoint.operation import decode, encode
from accelerator.runtime.context.build import build_context
from accelerator.runtime.loop.train import train
from accelerator.runtime.run import check_config, dry_run, execute
from accelerator.runtime.run import test as measure
from accelerator.utilities.base_registry import registry

NAMES = registry("callback").names()

# Arguments without a default.
NEEDS = {
    "accumulation_schedule": {"epochs": {0: 2, 2: 1}, "levels": {1: 4}},
    "freeze": {"patterns": ["layers.0.*"], "until_epoch": 2},
    "max_time": {"hours": 1.0},
}
# What makes a callback do more within the few steps of these tests.
BUSY = {
    **NEEDS,
    "ema": {"decay": 0.8},
    "generalization_gap": {"samples": 9},
    "gradient_norm": {"per": "module"},
    "lr_monitor": {"every": 1},
    "memory": {"every": 1},
    "prediction_writer": {"splits": ["val", "test"]},
    "sample_predictions": {"every": 2},
    "swa": {"start": 0.1},
}
TRAINS_OTHERWISE = {"accumulation_schedule", "freeze"}
VALIDATES_OTHERWISE = {"ema", "swa"}
MEASURED_TIMES = ("speed/", "step_time/", "memory/")

# Random numbers are drawn in each step: a callback that draws one changes all that follow.
ONE_LEVEL = {"model": {"name": "mlp", "hidden": [4], "dropout": 0.2}, "trainer": {"max_epochs": 3}}
TWO_LEVELS = {
    "model": {"name": "mlp", "hidden": [16, 16], "dropout": 0.2},
    "multilevel": {"name": "cascade", "levels": 2, "min_width": 2},
    "trainer": {"max_epochs": 3},
}


def with_callback(tiny_config, name, sections, options):
    config = tiny_config(**sections)
    core = {key: config["callbacks"][key] for key in ("metric_logger", "checkpoint")}
    config["callbacks"] = core | ({} if name is None else {name: {"name": name, **options.get(name, {})}})
    return config


def timeless(found):
    """What does not depend on the clock: losses wait for a while, so the order in the file does."""
    return sorted(point for point in found if not point[0].startswith(MEASURED_TIMES))


@pytest.fixture(scope="module")
def plain_runs(tmp_path_factory):
    """The points of runs without the callback, made once."""
    found = {}

    def get(tiny_config, levels, sections):
        if levels not in found:
            folder = tmp_path_factory.mktemp(levels)
            execute(with_callback(tiny_config, None, sections, {}), folder)
            found[levels] = points(folder)
        return found[levels]

    return get


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_it_does_and_what_each_argument_is(name):
    found = registry("callback").get(name)
    assert issubclass(found, Callback)
    document = inspect.getdoc(found)
    assert document.splitlines()[0].endswith(".")
    _, _, arguments = document.partition("Args:\n")
    described = re.findall(r"^    (\w+):", arguments, re.MULTILINE)
    assert described == list(inspect.signature(found).parameters)
    own = [hook for hook in HOOKS if hook in vars(found)]
    assert all(vars(found)[hook].__doc__ for hook in own)
    assert isinstance(found.critical, bool)
    assert isinstance(found.main_only, bool)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_built_from_its_name_alone_where_it_can_be(tiny_config, name):
    config = with_callback(tiny_config, name, ONE_LEVEL, NEEDS)
    check_config(config)
    assert dry_run(config).callbacks.callbacks[name]


@pytest.mark.parametrize(("levels", "sections"), [("one", ONE_LEVEL), ("two", TWO_LEVELS)])
@pytest.mark.parametrize("name", NAMES)
def test_what_only_looks_changes_no_bit_of_the_run(tiny_config, tmp_path, plain_runs, name, levels, sections, caplog):
    execute(with_callback(tiny_config, name, sections, BUSY), tmp_path)
    assert "is skipped from now on" not in caplog.text
    expected = plain_runs(tiny_config, levels, sections)
    if name in VALIDATES_OTHERWISE:
        expected = [point for point in expected if point[0].startswith("train/")]
    keys = {key for key, _, _ in expected}
    found = [point for point in points(tmp_path) if point[0] in keys]
    assert (found == expected) == (name not in TRAINS_OTHERWISE)


def remembers(name):
    return registry("callback").get(name).state_dict is not Callback.state_dict


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        *[pytest.param(name, (10,), marks=[] if remembers(name) else pytest.mark.faults) for name in NAMES],
        *[pytest.param(name, (2, 5), marks=pytest.mark.faults) for name in NAMES],
    ],
)
def test_a_run_killed_on_either_level_goes_on_to_the_last_bit(tiny_config, tmp_path, name, steps):
    config = with_callback(tiny_config, name, TWO_LEVELS, BUSY)
    whole = tmp_path / "whole"
    execute(config, whole)
    for step in steps:
        parts = tmp_path / f"killed at {step}"
        with pytest.raises(Terminated):
            execute(config, parts, callbacks={"stop": At("step_end", send(), number=step)})
        execute(config, parts, resume=parts / "checkpoints")
        assert equal(last_state(parts), last_state(whole)), step
        assert timeless(points(parts)) == timeless(points(whole)), step


@pytest.mark.parametrize("name", NAMES)
def test_its_state_comes_back_from_a_checkpoint_and_goes_into_the_next(tiny_config, tmp_path, name):
    config = with_callback(tiny_config, name, TWO_LEVELS, BUSY)
    context = build_context(config, None)
    context.callbacks("run_start", context)
    train(context)
    state = context.callbacks.callbacks[name].state_dict()
    (tmp_path / "state").write_bytes(encode({"state": state, "one": torch.zeros(1)}))
    saved = decode(tmp_path / "state")["state"]
    assert equal(saved, state)
    other = build_context(config, None).callbacks.callbacks[name]
    other.load_state_dict(saved)
    assert equal(other.state_dict(), state)


@pytest.mark.parametrize("name", NAMES)
def test_where_nothing_may_be_written_it_still_runs(tiny_config, tmp_path, monkeypatch, name, caplog):
    monkeypatch.chdir(tmp_path)
    context = build_context(with_callback(tiny_config, name, TWO_LEVELS, BUSY), None)
    assert context.journal is None
    context.callbacks("run_start", context)
    train(context)
    measure(context)
    context.callbacks("run_end", context)
    assert list(tmp_path.iterdir()) == []
    assert "is skipped from now on" not in caplog.text


@pytest.mark.parametrize("name", NAMES)
def test_on_another_rank_it_is_there_unless_it_is_the_main_ones(name):
    callback = registry("callback").get(name)(**NEEDS.get(name, {}))
    assert (name in CallbackManager({name: callback}, main=False).callbacks) == (not callback.main_only)
