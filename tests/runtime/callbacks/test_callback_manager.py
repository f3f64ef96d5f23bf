import re

import pytest
from run_outcomes import At

from accelerator.errors import ConfigError, Terminated
from accelerator.runtime.callbacks import base
from accelerator.runtime.callbacks.base import HOOKS, Callback
from accelerator.runtime.callbacks.manager import CallbackManager
from accelerator.runtime.run import execute


def recorder(log, priority=50, name=None):
    """A callback that notes every moment."""

    def note(hook):
        return lambda self, context: log.append(hook if name is None else (hook, name))

    return type("Recorder", (Callback,), {"priority": priority, **{hook: note(hook) for hook in HOOKS}})()


def moments(config, folder, **callbacks):
    log = []
    execute(config, folder, callbacks={"recorder": recorder(log), **callbacks})
    return log


STEP = ["after_backward", "step_end"]
VALIDATION = ["validation_start", "validation_end"]


def test_hooks_come_in_the_order_drawn(tiny_config, tmp_path):
    one_pass = ["epoch_start", *STEP * 3, *VALIDATION, "epoch_end", "save_start"]
    assert moments(tiny_config(), tmp_path) == [
        "run_start",
        "stage_start",
        *one_pass * 2,
        "stage_end",
        "test_start",
        "test_end",
        "run_end",
    ]


def test_the_drawing_and_the_list_name_the_same_hooks():
    drawn = [word for word in re.findall(r"[a-z_]+", base.__doc__) if word in HOOKS]
    assert drawn == list(HOOKS)
    assert all(hook in vars(Callback) for hook in HOOKS)


def test_a_pass_the_budget_cuts_off_is_validated_but_has_no_end(tiny_config, tmp_path):
    config = tiny_config(trainer={"max_steps": 4, "test": False})
    assert moments(config, tmp_path) == [
        "run_start",
        "stage_start",
        *["epoch_start", *STEP * 3, *VALIDATION, "epoch_end", "save_start"],
        *["epoch_start", *STEP, *VALIDATION],
        "stage_end",
        "save_start",
        "run_end",
    ]


def test_each_stage_of_a_schedule_starts_and_ends(tiny_config, tmp_path):
    config = tiny_config(
        multilevel={"name": "cascade", "levels": 2, "min_width": 2},
        model={"name": "mlp", "hidden": [16, 16]},
        callbacks={"metric_logger": None, "throughput": None},
    )
    log = moments(config, tmp_path)
    stages = [hook for hook in log if hook.startswith("stage")]
    assert stages == ["stage_start", "stage_end"] * 2
    # The level changes after a stage is measured and saved.
    assert log[log.index("stage_end") - 2 :][:4] == [*VALIDATION, "stage_end", "save_start"]


def test_without_validation_data_nothing_is_validated_or_tested(tiny_config, tmp_path):
    config = tiny_config(data={"_target_": "toy_problem.plane", "val": 0, "test": 0}, trainer={"max_epochs": 1})
    assert moments(config, tmp_path) == [
        "run_start",
        "stage_start",
        "epoch_start",
        *STEP * 3,
        "epoch_end",
        "save_start",
        "stage_end",
        "run_end",
    ]


def test_an_exception_is_told_and_the_run_still_ends(tiny_config, tmp_path):
    log, seen = [], []

    def fail(context):
        raise ZeroDivisionError("in a callback")

    with pytest.raises(ZeroDivisionError, match="in a callback"):
        execute(
            tiny_config(),
            tmp_path,
            callbacks={
                "recorder": recorder(log),
                "fails": At("after_backward", fail, number=2),
                "looks": At("failed", lambda context: seen.append(context.error)),
            },
        )
    assert log[-3:] == ["after_backward", "failed", "run_end"]
    assert isinstance(seen[0], ZeroDivisionError)
    assert "ZeroDivisionError: in a callback" in (tmp_path / "error.txt").read_text()


def test_smaller_priorities_come_in_first_and_go_out_last():
    log = []
    callbacks = {name: recorder(log, priority, name) for name, priority in (("b", 50), ("c", 90), ("a", 10))}
    manager = CallbackManager(callbacks)
    for hook in HOOKS:
        manager(hook, None)
    for hook in HOOKS:
        names = [name for called, name in log if called == hook]
        assert names == (["a", "b", "c"] if hook.endswith("_start") else ["c", "b", "a"]), hook


def test_equal_priorities_keep_the_order_of_the_config_and_reverse_it_on_the_way_out():
    log = []
    manager = CallbackManager({name: recorder(log, 50, name) for name in "yxz"})
    manager("run_start", None)
    manager("run_end", None)
    assert "".join(name for _, name in log) == "yxzzxy"


def test_a_hook_nobody_overrides_costs_nothing():
    class OnlySteps(Callback):
        def step_end(self, context):
            pass

    class Inherits(OnlySteps):
        pass

    manager = CallbackManager({"a": OnlySteps(), "b": Callback(), "c": Inherits()})
    assert {hook: len(calls) for hook, calls in manager.hooks.items() if calls} == {"step_end": 2}
    assert manager.hooks["after_backward"] == ()


class Counter(Callback):
    def __init__(self):
        self.count = 0

    def step_end(self, context):
        self.count += 1

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


def test_states_go_by_name_and_a_callback_that_was_added_starts_afresh():
    manager = CallbackManager({"counter": Counter(), "stateless": Callback()})
    manager("step_end", None)
    state = manager.state_dict()
    assert state == {"counter": {"count": 1}}
    other = CallbackManager({"counter": Counter(), "added": Counter()})
    other.load_state_dict({**state, "removed": {"count": 9}})
    assert {name: callback.count for name, callback in other.callbacks.items()} == {"counter": 1, "added": 0}


def test_a_state_goes_through_a_checkpoint(tiny_config, tmp_path):
    first, second = Counter(), Counter()
    execute(tiny_config(trainer={"max_epochs": 1}), tmp_path, callbacks={"counter": first})
    execute(tiny_config(), tmp_path, resume=tmp_path / "checkpoints", callbacks={"counter": second})
    assert (first.count, second.count) == (3, 6)


class Fails(Callback):
    """Raises at its second step."""

    def __init__(self, error, critical):
        self.error, self.critical, self.calls = error, critical, []

    def run_start(self, context):
        self.calls.append("run_start")

    def step_end(self, context):
        self.calls.append("step_end")
        if len(self.calls) == 3:
            raise self.error

    def run_end(self, context):
        self.calls.append("run_end")

    def state_dict(self):
        return {"calls": len(self.calls)}


def test_a_callback_that_is_not_critical_is_reported_once_and_skipped(tiny_config, tmp_path, caplog):
    fails = Fails(ZeroDivisionError("no gauge"), critical=False)
    result = execute(tiny_config(), tmp_path, callbacks={"gauge": fails})
    assert result.steps == 6
    assert fails.calls == ["run_start", "step_end", "step_end"]
    (record,) = (record for record in caplog.records if "gauge" in record.getMessage())
    assert (record.levelname, record.name) == ("WARNING", "accelerator.runtime.callbacks.manager")
    told = "callback gauge failed in step_end after step 2 and is skipped from now on: ZeroDivisionError: no gauge"
    assert record.getMessage().startswith(told)
    assert re.search(r"\(.*test_callback_manager.py, line \d+\)$", record.getMessage())


def test_what_a_skipped_callback_remembers_is_not_saved(tiny_config, tmp_path):
    fails = Fails(ZeroDivisionError(), critical=False)
    states = []
    look = At("run_end", lambda context: states.append(context.callbacks.state_dict()))
    execute(tiny_config(), tmp_path, callbacks={"gauge": fails, "look": look})
    assert "gauge" not in states[0]
    assert "metric_logger" in states[0]


def test_a_critical_callback_ends_the_run(tiny_config, tmp_path):
    with pytest.raises(ZeroDivisionError):
        execute(tiny_config(), tmp_path, callbacks={"part": Fails(ZeroDivisionError(), critical=True)})


def test_a_users_own_callback_is_critical():
    assert Callback.critical


@pytest.mark.parametrize("error", [ConfigError("the user's"), Terminated("SIGTERM"), KeyboardInterrupt()])
def test_what_is_meant_to_end_a_run_ends_it_through_any_callback(error):
    fails = Fails(error, critical=False)
    manager = CallbackManager({"gauge": fails})
    manager("step_end", None)
    manager("step_end", None)
    with pytest.raises(type(error)):
        manager("step_end", None)
    assert manager.skipped == set()


def test_critical_callbacks_are_called_without_a_guard():
    critical, gauge = Fails(None, critical=True), Fails(None, critical=False)
    calls = CallbackManager({"critical": critical, "gauge": gauge}).hooks["step_end"]
    assert critical.step_end in calls
    assert gauge.step_end not in calls


def test_other_ranks_leave_out_what_only_the_main_one_does_and_keep_its_state():
    class Writes(Counter):
        main_only = True

    def make(main):
        return CallbackManager({"writes": Writes(), "counts": Counter()}, main=main)

    main, other = make(True), make(False)
    for manager in (main, other):
        manager("step_end", None)
    assert list(other.callbacks) == ["counts"]
    assert len(other.hooks["step_end"]) == 1
    assert other.state_dict() == {"counts": {"count": 1}}
    other.load_state_dict(main.state_dict())
    assert other.state_dict() == main.state_dict() == {"writes": {"count": 1}, "counts": {"count": 1}}
