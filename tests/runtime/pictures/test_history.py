import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accelerator.runtime.journal import Journal
from accelerator.runtime.pictures import history
from accelerator.runtime.pictures.history import read_history

COSTS = (1.0, 0.5, 0.125)


def noted(folder, stages, *, epoch=None, first=0):
    """What the logger writes for these (level, steps), with a loss of 1/step and a pass every ``epoch`` steps."""
    path = Path(folder) / "journal.jsonl"
    step, work = first, 100.0 if first else 0.0
    with Journal(path) as journal:
        for number, (level, steps) in enumerate(stages):
            if number or not first:
                journal.metrics({"work": work, "level": level}, step)
            for _ in range(steps):
                step, work = step + 1, work + COSTS[level]
                journal.metric("train/loss", 1 / step, step)
                if epoch and step % epoch == 0:
                    journal.metrics(
                        {"train/epoch_loss": 1.0, "lr": 0.1, "epoch": 1, "work": work, "level": level}, step
                    )
            journal.metric("val/loss", level, step)
    return path


@given(
    stages=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 9)), min_size=1, max_size=12), epoch=st.integers(1, 12)
)
def test_each_step_has_its_level_and_the_work_done_by_then(stages, epoch):
    with tempfile.TemporaryDirectory() as folder:
        found = read_history(noted(folder, stages, epoch=epoch), COSTS)
    levels = np.repeat(*np.transpose(stages))
    steps = np.arange(1, len(levels) + 1)
    assert found.training.steps.tolist() == steps.tolist()
    assert found.training.values.tolist() == (1 / steps).tolist()
    assert found.level(steps).tolist() == levels.tolist()
    assert found.work(steps).tolist() == np.cumsum(np.array(COSTS)[levels]).tolist()  # powers of two: exact
    assert found.level(found.validation.steps).tolist() == [level for level, _ in stages]
    assert found.span == (0, len(levels))
    assert (np.diff(found.levels) != 0).all()


def test_a_run_from_another_ones_checkpoint_begins_with_the_work_done_there(tmp_path):
    # Its first level is not noted before the first pass ends: at step 14, with work 102.
    found = read_history(noted(tmp_path, [(1, 6)], epoch=7, first=10), COSTS)
    steps = np.arange(10, 17)
    assert found.work(steps).tolist() == [100.0, 100.5, 101.0, 101.5, 102.0, 102.5, 103.0]
    assert set(found.level(steps).tolist()) == {1}
    assert found.span == (10, 16)


def test_a_loss_that_is_not_finite_is_left_out(tmp_path):
    with Journal(tmp_path / "j") as journal:
        for step, value in enumerate((1.0, float("nan"), float("inf"), 0.5), 1):
            journal.metric("train/loss", value, step)
    found = read_history(tmp_path / "j", COSTS)
    assert found.training.steps.tolist() == [1, 4]
    assert len(found.validation) == 0


@pytest.mark.parametrize(("most", "expected"), [(9, range(1, 10)), (8, range(1, 10, 2)), (3, (1, 4, 7))])
def test_of_a_long_run_every_nth_loss_is_read_and_all_else(tmp_path, monkeypatch, most, expected):
    monkeypatch.setattr(history, "_MOST", most)
    found = read_history(noted(tmp_path, [(2, 4), (0, 5)]), COSTS)
    assert found.training.steps.tolist() == list(expected)
    assert found.validation.steps.tolist() == [4, 9]
    assert found.work(np.array([4, 9])).tolist() == [0.5, 5.5]


@given(
    stages=st.lists(st.tuples(st.integers(0, 2), st.integers(2, 9)), min_size=1, max_size=12), epoch=st.integers(1, 12)
)
def test_costs_that_nobody_tells_are_read_off_the_work(stages, epoch):
    with tempfile.TemporaryDirectory() as folder:
        path = noted(folder, stages, epoch=epoch)
        told, found = read_history(path, COSTS), read_history(path)
    # Beyond the last point of work, only what an earlier visit of the level tells is known.
    steps = np.arange(1, int(told._work.steps[-1]) + 1)
    assert found.work(steps).tolist() == told.work(steps).tolist()


def test_a_last_level_that_was_visited_before_costs_what_it_did_then(tmp_path):
    found = read_history(noted(tmp_path, [(2, 4), (1, 4), (2, 4)]))
    assert found.work(np.array([4, 8, 12])).tolist() == [0.5, 2.5, 3.0]


def test_by_steps_a_step_counts_the_same_on_every_level(tmp_path):
    found = read_history(noted(tmp_path, [(2, 4), (0, 5)]), COSTS).by_steps()
    assert found.work(np.array([0, 1, 4, 9])).tolist() == [0, 1, 4, 9]
    assert found.levels.tolist() == [2, 0]
