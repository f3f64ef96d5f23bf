import pytest
from run_outcomes import saved_steps

from accelerator.errors import ConfigError
from accelerator.runtime.callbacks import timer
from accelerator.runtime.callbacks.base import Callback
from accelerator.runtime.callbacks.timer import MaxTime
from accelerator.runtime.context.context import Context
from accelerator.runtime.run import execute


@pytest.mark.parametrize(
    ("options", "seconds"),
    [
        ({"time": "01:30:05"}, 5405),
        ({"time": "100:00:00"}, 360000),
        ({"hours": 1.5}, 5400),
        ({"minutes": 0.5}, 30),
        ({"time": "00:00:01", "hours": 1, "minutes": 1}, 3661),
    ],
)
def test_its_time_is_the_sum_of_what_is_given(options, seconds):
    assert MaxTime(**options).seconds == seconds


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "has no time: set time=HH:MM:SS, hours or minutes"),
        ({"time": "90"}, "time=90: expected HH:MM:SS, such as 01:30:00"),
        ({"time": "00:61:00"}, "time=00:61:00"),
        ({"hours": 1, "minutes": -5}, "minutes=-5: expected at least 0"),
    ],
)
def test_a_time_that_is_none_is_told(options, message):
    with pytest.raises(ConfigError, match=message):
        MaxTime(**options)


class Clock(Callback):
    """Lets a minute go by with each step."""

    priority = 60

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(timer.clock, "monotonic", lambda: self.now)

    def step_end(self, context):
        self.now += 60


def test_it_asks_once_at_the_first_step_whose_end_is_past_the_time(tiny_config, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    asked = []
    monkeypatch.setattr(Context, "ask_to_stop", lambda self, reason: asked.append((reason, self.state.step)))
    config = tiny_config(callbacks={"max_time": {"name": "max_time", "minutes": 4}})
    execute(config, tmp_path, callbacks={"clock": Clock(monkeypatch)})
    assert asked == [("max_time", 4)]
    assert "the time is up (240 s) after step 4" in caplog.text


def test_the_run_ends_well_and_a_resumed_one_has_the_time_again(tiny_config, tmp_path, monkeypatch):
    config = tiny_config(callbacks={"max_time": {"name": "max_time", "minutes": 4}})
    result = execute(config, tmp_path, callbacks={"clock": Clock(monkeypatch)})
    assert result.steps == 4
    assert "test/loss" in result.metrics
    assert saved_steps(tmp_path) == [3, 4]
    again = execute(config, tmp_path, resume=tmp_path / "checkpoints", callbacks={"clock": Clock(monkeypatch)})
    assert again.steps == 6
