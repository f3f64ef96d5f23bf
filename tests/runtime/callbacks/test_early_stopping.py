import math
from types import SimpleNamespace

import pytest
from run_outcomes import equal, last_state, points

from accelerator.errors import ConfigError
from accelerator.runtime.callbacks.early_stopping import EarlyStopping
from accelerator.runtime.context.build import build_context
from accelerator.runtime.run import execute


def stops_after(values, *, levels=None, **options):
    """The number of the validation after which training ends; None if it does not."""
    callback = EarlyStopping(**{"monitor": "val/x", **options})
    for number, value in enumerate(values, 1):
        context = SimpleNamespace(
            level=0 if levels is None else levels[number - 1],
            state=SimpleNamespace(metrics={"val/x": value}, step=number),
            finish_early=False,
        )
        callback.validation_end(context)
        if context.finish_early:
            return number
    return None


@pytest.mark.parametrize(
    ("values", "options", "expected"),
    [
        ([3, 2, 1, 0], {"patience": 1}, None),
        ([3, 2, 2], {"patience": 1}, 3),
        ([3, 2, 2.5, 2.2, 2.1], {"patience": 3}, 5),
        ([3, 2, 2.5, 1.9, 2, 2], {"patience": 2}, 6),
        ([1, 2, 3, 3], {"patience": 1, "mode": "max"}, 4),
        ([-1, -2], {"patience": 1, "mode": "max"}, 2),
        ([3, 2.95, 2.8, 2.7], {"patience": 1, "min_delta": 0.1}, 2),
        ([3, 2.8, 2.6], {"patience": 1, "min_delta": 0.1}, None),
        ([5, math.nan, 4], {"patience": 9}, 2),
        ([5, -math.inf, 4], {"patience": 9}, 2),
        ([math.nan, math.nan], {"patience": 2, "stop_on_nan": False}, 2),
        ([math.nan, 5, 4], {"patience": 2, "stop_on_nan": False}, None),
        ([1, math.nan], {"patience": 1, "stop_on_nan": False}, 2),
        ([5, 4, 3, 2], {"threshold": 3}, 3),
        ([5, 6, 7.5, 9], {"threshold": 7, "mode": "max"}, 3),
        ([-5, -3, -1], {"threshold": -2, "mode": "max"}, 3),
    ],
)
def test_it_ends_after_patience_validations_without_improvement(values, options, expected):
    assert stops_after(values, **options) == expected


@pytest.mark.parametrize(
    ("values", "options", "reason"),
    [
        ([math.nan], {}, "stopping early after step 1: val/x is nan"),
        ([0.25], {"threshold": 0.5}, "stopping early after step 1: val/x=0.25 has reached 0.5"),
        ([2, 3], {"patience": 1}, "stopping early after step 2: val/x was no better in 1 validations than 2"),
        ([2, 1], {"patience": 1, "mode": "max"}, "val/x was no better in 1 validations than 2"),
    ],
)
def test_it_says_why(values, options, reason, caplog):
    caplog.set_level("INFO")
    stops_after(values, **options)
    assert reason in caplog.text


def test_coarse_networks_are_not_waited_for():
    assert stops_after([1, 5, 5, 5, 0.5, 0.6], levels=[1, 1, 1, 1, 0, 0], patience=1) == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"monitor": "val/los"}, r"callbacks\.mine\.monitor=val/los.*did you mean 'val/loss'"),
        (
            {"monitor": "val/r2"},
            r"callbacks\.mine\.mode=min, but val/r2 is better the higher.*set callbacks.mine.mode=max",
        ),
    ],
)
def test_what_it_watches_is_checked_before_the_first_step(tiny_config, options, message):
    config = tiny_config(
        metrics={"r2": {"name": "r2"}}, callbacks={"mine": {"name": "early_stopping", "patience": 2, **options}}
    )
    with pytest.raises(ConfigError, match=message):
        build_context(config, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "least"}, "mode=least: expected min or max"),
        ({"patience": 0}, "patience=0"),
        ({"min_delta": -1.0}, "min_delta=-1.0: expected at least 0"),
    ],
)
def test_settings_out_of_range_are_told(options, message):
    with pytest.raises(ConfigError, match=message):
        EarlyStopping(**options)


def stagnant(tiny_config, **trainer):
    """A run whose second validation is no better than its first: it learns nothing."""
    return tiny_config(
        optimizer={"name": "SGD", "lr": 0.0},
        callbacks={"early_stopping": {"name": "early_stopping", "patience": 2}},
        trainer={"max_epochs": 9, **trainer},
    )


def test_a_run_ends_early_is_saved_and_tested(tiny_config, tmp_path):
    result = execute(stagnant(tiny_config), tmp_path)
    assert result.steps == 9
    assert [step for step, _ in points(tmp_path, "val/loss")] == [3, 6, 9]
    assert "test/loss" in result.metrics
    assert result.last.stem == "step-00000009"


def test_waiting_goes_on_after_a_resume_and_a_run_that_had_stopped_stays_so(tiny_config, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    execute(stagnant(tiny_config), whole)
    execute(stagnant(tiny_config, max_epochs=2), parts)
    for _ in range(2):
        assert execute(stagnant(tiny_config), parts, resume=parts / "checkpoints").steps == 9
        ours, theirs = last_state(parts), last_state(whole)
        assert ours["state"]["step"] == theirs["state"]["step"] == 9
        assert equal(ours["callbacks"]["early_stopping"], theirs["callbacks"]["early_stopping"])
        assert equal(ours["model"], theirs["model"])
