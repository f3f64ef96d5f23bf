"""Row D1: the first loss that is NaN or infinite ends the run, named by step and batch; the last good one is kept."""

import math

import pytest
from command_runs import assert_goes_on_to, newest_step, run_with, whole_run
from run_outcomes import last_state, points

BATCHES, PASSES = 3, 2


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return whole_run(tmp_path_factory.mktemp("d1") / "whole")


@pytest.mark.parametrize(("value", "step"), [(math.nan, 2), (math.inf, 4), (math.nan, 6)])
def test_d1_the_run_ends_with_that_step_and_goes_on_from_the_one_before(tmp_path, whole, value, step):
    folder = tmp_path / "run"
    ended = run_with({"forward": (step, lambda: value)}, folder)
    assert ended.code == 1
    number, batch = (step - 1) // BATCHES + 1, (step - 1) % BATCHES + 1
    assert f"the loss is {value} at step {step} (batch {batch} of pass {number}, learning rate 0.05)" in ended.said
    assert "Traceback" not in ended.said
    assert newest_step(folder) == points(folder, "train/loss")[-1][0] == step - 1
    assert math.isfinite(last_state(folder)["model"]["factor"])
    assert_goes_on_to(folder, whole)


def test_d1_a_pass_that_was_not_saved_is_done_again(tmp_path, whole):
    folder = tmp_path / "run"
    assert run_with({"forward": (5, lambda: math.nan)}, folder, "checkpoint.every_steps=null").code == 1
    assert newest_step(folder) == 3
    assert_goes_on_to(folder, whole)
