"""Which metrics are better small, which large, and in what runs differ."""

from math import inf, nan

import pytest

from accelerator.tracking.comparison import best, better, differing, rank, side_by_side


@pytest.mark.parametrize(
    ("metric", "mode"),
    [
        ("val/loss", "min"),
        ("test/relative_l2", "min"),
        ("train/epoch_loss", "min"),
        ("test/accuracy", "max"),
        ("val/top5_accuracy", "max"),
        ("val/R2", "max"),
        ("val/unheard_of", None),
        ("lr", None),
        ("speed/steps_per_second", None),
        ("gradient/loss", None),
    ],
)
def test_a_metrics_name_tells_which_values_are_good(metric, mode):
    assert better(metric) == mode


def test_what_the_config_says_of_the_monitored_metric_holds_for_every_split_of_it():
    assert better("test/reward", "val/reward", "max") == "max"
    assert better("test/loss", "val/loss", "max") == "max"
    assert better("test/accuracy", "val/loss", "min") == "max"


def test_the_best_is_a_number():
    assert best([nan, 0.5, -inf], "min") == -inf
    assert best([nan, 0.5, 2.0], "max") == 2.0
    assert best([nan], "min") is None


def test_the_best_of_each_metric_is_marked_unless_all_are_the_same():
    runs = [{"val/loss": 0.5, "lr": 1.0}, {"val/loss": 0.25, "lr": 2.0}, {"val/loss": 0.25}, {}]
    assert side_by_side(runs, [None] * 4) == {
        "val/loss": ([0.5, 0.25, 0.25, None], [1, 2]),
        "lr": ([1.0, 2.0, None, None], []),
    }
    assert side_by_side([{"val/loss": 1.0}] * 2, [None] * 2) == {"val/loss": ([1.0, 1.0], [])}
    assert side_by_side([{"val/loss": nan}, {"val/loss": 1.0}], [None] * 2)["val/loss"][1] == [1]
    assert side_by_side(runs[:2], [None, ("val/loss", "max")])["val/loss"][1] == [0]
    # The loss of a step depends on its batch.
    assert side_by_side([{"train/loss": 1.0}, {"train/loss": 2.0}], [("val/loss", "min")] * 2)["train/loss"][1] == []


def test_what_a_run_is_judged_by_comes_first():
    names = ["work", "train/loss", "val/loss", "epoch", "test/loss"]
    assert sorted(names, key=rank) == ["test/loss", "val/loss", "train/loss", "epoch", "work"]


def test_params_that_differ_are_told_with_those_that_only_some_have():
    runs = [{"a": "1", "b": "2", "tracking.run_name": "x"}, {"a": "1", "b": "3", "tracking.run_name": "y"}, {"a": "1"}]
    assert differing(runs) == {"b": ["2", "3", None]}
    assert differing([{}, runs[0], runs[1]]) == {"b": [None, "2", "3"]}
    assert differing([{}, {}]) == {}
