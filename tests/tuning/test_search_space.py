"""The language of search spaces: what it says, what it refuses, and that points lie where it says."""

import json
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accelerator.errors import ConfigError
from accelerator.tuning.distributions import Choice, Float, Integer
from accelerator.tuning.search_space import SearchSpace

# Everything the language has, in one space.
EVERYTHING = {
    "optimizer.lr": {"log_uniform": [1e-4, 1e-1]},
    "loader.batch_size": {"log_int": [16, 256]},
    "trainer.max_epochs": {"int": [5, 20], "step": 5},
    "loss": {"beta": {"low": 0.1, "high": 10, "log": True}, "power": {"low": 1, "high": 3, "type": "int"}},
    "model": {
        "choice": {
            "mlp": {
                "model.hidden": {"choice": [[32], [64, 64]]},
                "model.dropout": {"uniform": [0, 0.5], "step": 0.1},
            },
            "cnn": None,
        }
    },
    "model.norm": {"choice": [True, None, {"name": "layer"}], "when": {"model": ["cnn"]}},
    "model.eps": {"uniform": [-1, 1], "when": {"model": {"norm": [None, {"name": "layer"}]}}},
}


def refused(written):
    with pytest.raises(ConfigError) as error:
        SearchSpace.parse(written)
    return error.value.problems


def test_each_form_is_the_distribution_it_says():
    space = SearchSpace.parse(EVERYTHING)
    assert {parameter.key: parameter.distribution for parameter in space.parameters} == {
        "optimizer.lr": Float(1e-4, 1e-1, log=True),
        "loader.batch_size": Integer(16, 256, log=True),
        "trainer.max_epochs": Integer(5, 20, step=5),
        "model": Choice(("mlp", "cnn")),
        "model.hidden": Choice(([32], [64, 64])),
        "model.dropout": Float(0.0, 0.5, step=0.1),
        "model.norm": Choice((True, None, {"name": "layer"})),
        "model.eps": Float(-1.0, 1.0),
        "loss.beta": Float(0.1, 10.0, log=True),
        "loss.power": Integer(1, 3),
    }
    assert space.described()["model.hidden"] == "one of [32], [64,64] when model=mlp"
    assert space.described()["model.eps"] == 'uniform -1 … 1 when model.norm=null|{"name":"layer"}'


@given(st.integers(0, 2**32))
def test_points_at_random_lie_in_the_space(seed):
    space = SearchSpace.parse(EVERYTHING)
    values = space.random(Random(seed))
    assert space.problems(values) == []
    assert ("model.hidden" in values) == (values["model"] == "mlp")
    assert ("model.norm" in values) == (values["model"] == "cnn")
    assert ("model.eps" in values) == (values["model"] == "cnn" and values["model.norm"] is not True)


@given(st.integers(0, 2**32))
def test_a_point_comes_back_from_a_storage_as_it_was(seed):
    space = SearchSpace.parse(EVERYTHING)
    values = space.random(Random(seed))
    stored = json.loads(json.dumps(space.encode(values)))
    assert all(value is None or isinstance(value, str | int | float | bool) for value in stored.values())
    again = space.decode(stored)
    assert again == values
    assert [type(value) for value in again.values()] == [type(value) for value in values.values()]


@given(
    st.floats(-1e6, 1e6, allow_nan=False), st.floats(1e-3, 1e6), st.booleans(), st.integers(0, 2**32), st.integers(2, 9)
)
def test_what_a_range_draws_is_in_it(low, width, log, seed, number):
    low = abs(low) + 1e-3 if log else low
    drawn = Float(low, low + width, log)
    assert drawn.contains(drawn.draw(Random(seed)))
    points = drawn.points(number)
    assert points == sorted(points)
    assert all(map(drawn.contains, points))
    assert points[0] == low


@given(st.integers(-1000, 1000), st.integers(1, 60), st.integers(1, 9), st.integers(0, 2**32))
def test_what_steps_draw_is_on_one(low, steps, step, seed):
    drawn = Integer(low, low + steps * step, step=step)
    assert drawn.contains(drawn.draw(Random(seed)))
    assert drawn.points(0) == list(range(low, low + steps * step + 1, step))
    assert not drawn.contains(low + steps * step + 1)
    tenths = Float(low / 10, (low + steps * step) / 10, step=step / 10)
    assert tenths.contains(tenths.draw(Random(seed)))
    assert [round(10 * value) for value in tenths.points(0)] == drawn.points(0)
    assert not tenths.contains(low / 10 + step / 20)


@pytest.mark.parametrize("low", [1, 7])
def test_every_order_of_magnitude_of_a_logarithmic_range_is_as_likely(low):
    """Below the geometric mean lies half of what is drawn: 4 standard deviations of 2000 draws are 9 %."""
    for drawn in (Float(low, low * 10_000, log=True), Integer(low, low * 10_000, log=True)):
        random = Random(3)
        below = sum(drawn.draw(random) < low * 100 for _ in range(2000)) / 2000
        assert abs(below - 0.5) < 0.045


def test_a_grid_has_each_combination_that_applies_once():
    space = SearchSpace.parse(
        {
            "model": {"choice": {"mlp": {"depth": {"int": [1, 3]}}, "cnn": None}},
            "lr": {"log_uniform": [0.01, 1]},
        }
    )
    points = list(space.grid(3))
    assert [point["lr"] for point in points[:3]] == pytest.approx([0.01, 0.1, 1.0])
    assert len(points) == (3 + 1) * 3
    assert len({json.dumps(point, sort_keys=True) for point in points}) == len(points)
    assert all(space.problems(point) == [] for point in points)


def test_a_key_may_have_a_range_for_each_option():
    space = SearchSpace.parse(
        {
            "optimizer": {
                "choice": {
                    "sgd": {"optimizer.lr": {"log_uniform": [0.01, 1]}},
                    "adam": {"optimizer.lr": {"log_uniform": [0.0001, 0.01]}},
                }
            }
        }
    )
    assert list(space.described()) == ["optimizer", "optimizer.lr (optimizer=sgd)", "optimizer.lr (optimizer=adam)"]
    assert space.encode({"optimizer": "adam", "optimizer.lr": 0.001}) == {
        "optimizer": "adam",
        "optimizer.lr (optimizer=adam)": 0.001,
    }
    assert space.problems({"optimizer": "adam", "optimizer.lr": 0.5}) == [
        "optimizer.lr=0.5 is not in log_uniform 0.0001 … 0.01"
    ]
    assert space.problems({"optimizer": "rms"}) == ["optimizer=rms is not in one of sgd, adam"]


def test_what_is_typed_takes_the_place_of_what_a_file_says():
    file = {"optimizer.lr": {"log_uniform": [1e-4, 1e-1]}, "model": {"choice": ["mlp", "cnn"]}}
    typed = {"optimizer": {"lr": {"uniform": [0, 1]}}, "model": {"hidden": {"choice": [1, 2]}}}
    merged = {**file, "optimizer": typed["optimizer"], "model": {**file["model"], **typed["model"]}}
    assert SearchSpace.parse(merged).described() == {
        "model": "one of mlp, cnn",
        "optimizer.lr": "uniform 0 … 1",
        "model.hidden": "one of 1, 2",
    }


def test_conditions_come_after_what_they_name_in_whatever_order_they_stand():
    space = SearchSpace.parse(
        {
            "c": {"uniform": [0, 1], "when": {"b": 2}},
            "b": {"choice": [1, 2], "when": {"a": True}},
            "a": {"choice": [True, False]},
        }
    )
    assert [parameter.key for parameter in space.parameters] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ({"lr": {"log_unifrom": [1, 2]}}, "lr: there is no distribution 'log_unifrom' — did you mean 'log_uniform' or"),
        ({"lr": {"uniform": [2, 1]}}, "lr: the range 2 … 1 is empty; write the smaller number first"),
        ({"lr": {"uniform": [1, 1]}}, "lr: 1 … 1 holds one value; set it outright: lr=1"),
        ({"lr": {"log_uniform": [0, 1]}}, "lr: a logarithmic range begins above 0, and this one at 0"),
        ({"lr": {"log_int": [-1, 5]}}, "lr: a logarithmic range begins above 0, and this one at -1"),
        ({"lr": {"uniform": [0, 1], "step": 0.3}}, "lr: step=0.3 does not divide 0 … 1; the last step would be at 0.9"),
        ({"lr": {"uniform": [0, 1], "step": 3}}, "lr: step=3 does not divide 0 … 1; it is longer than the range"),
        ({"lr": {"uniform": [0, 1], "step": 0}}, "lr: step=0 must be above 0"),
        ({"lr": {"log_uniform": [1, 2], "step": 1}}, "lr: a logarithmic range has no steps; leave step=1 out"),
        ({"lr": {"uniform": [0, 1], "stp": 0.5}}, "lr.stp: 'uniform' has no such part — did you mean 'step'?"),
        ({"lr": {"uniform": [0, 1], "int": [0, 1]}}, "lr holds 2 distributions, uniform and int: leave one"),
        ({"lr": {"uniform": 3}}, "lr.uniform=3: expected [low, high]"),
        ({"lr": {"uniform": [0, "a"]}}, "lr: high=a is no number"),
        ({"lr": {"uniform": [0, float("inf")]}}, "lr: high=inf is no number"),
        ({"lr": {"int": [0, 1.5]}}, "lr: high=1.5 is no integer"),
        ({"lr": {"low": 1}}, "lr.high is missing: a range has low and high"),
        (
            {"lr": {"low": 0, "high": 1, "type": "flaot"}},
            "lr.type=flaot: expected float or int — did you mean 'float'?",
        ),
        ({"lr": {"low": 0, "high": 1, "log": 1}}, "lr.log=1: expected true or false"),
        ({"lr": {"choice": 3}}, "lr.choice=3: expected a list of options, such as choice: [3, …]"),
        ({"lr": {"choice": []}}, "lr.choice: there is no option"),
        ({"lr": {"choice": [1]}}, "lr.choice: '1' is the only option"),
        ({"lr": {"choice": [1, True]}}, "lr.choice: two options are alike, 1 and True"),
        ({"lr": {"choice": [[1], "[1]"]}}, "lr.choice: two options are alike, '[1]' and '[1]'"),
        ({"lr": 0.1}, "lr=0.1: expected a distribution, such as tune.space.lr={choice:[0.1,…]}"),
        ({"lr": {"uniform": [0, 1], "when": "mlp"}}, "lr.when=mlp: expected keys and options"),
        ({"lr": {"choice": {"a": 3, "b": None}}}, "lr.choice.a=3: expected what is tried with this option, or nothing"),
    ],
)
def test_each_mistake_is_told(written, problem):
    (told,) = refused(written)
    assert told.startswith(f"tune.space.{problem}")


def test_all_mistakes_are_told_at_once():
    problems = refused({"a": {"uniform": [1, 0]}, "b": {"choice": []}, "c": {"when": {"a": 1}, "int": [1, 2]}})
    assert [problem.split(":")[0] for problem in problems] == ["tune.space.a", "tune.space.b.choice"]


@pytest.mark.parametrize(
    ("when", "problem"),
    [
        ({"modl": "mlp"}, "when.modl: 'modl' is not in the space — did you mean 'model'?"),
        ({"model": "mpl"}, "when.model: 'mpl' is no option of model — did you mean 'mlp'?"),
        ({"width": 3}, "when.width: 'width' is no choice — choose from: model"),
        ({"lr": 3}, "when.lr: a key cannot depend on itself"),
    ],
)
def test_a_condition_names_a_choice_and_its_options(when, problem):
    space = {"model": {"choice": ["mlp", "cnn"]}, "width": {"int": [1, 3]}}
    (told,) = refused({**space, "lr": {"uniform": [0, 1], "when": when}})
    assert told == f"tune.space.lr.{problem}"


def test_conditions_in_a_circle_are_told():
    (told,) = refused({"a": {"choice": [1, 2], "when": {"b": 1}}, "b": {"choice": [1, 2], "when": {"a": 1}}})
    assert told == "tune.space: conditions go in a circle: a → b → a"


def test_a_key_that_stands_twice_is_told_unless_the_conditions_exclude_one_another():
    either = {"choice": {"a": {"lr": {"uniform": [0, 1]}}, "b": {"lr": {"uniform": [1, 2]}}}}
    assert len(SearchSpace.parse({"model": either}).parameters) == 3
    (told,) = refused({"model": either, "lr": {"uniform": [2, 3]}})[:1]
    assert told.startswith("tune.space.lr stands twice, and both can apply at once: uniform 0 … 1 when model=a; ")


def test_an_empty_space_says_what_to_type():
    (told,) = refused({})
    assert told.startswith("tune.space is empty: say what to try, such as 'tune.space.optimizer.lr={log_uniform:")
