import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accelerator.errors import ConfigError
from accelerator.multilevel.schedule import Stage, cascade, default_fractions, single, steps_of


def test_single_spends_all_on_the_finest_level():
    assert list(single(7)) == [Stage(0, 7.0)]


def test_cascade_runs_coarsest_first_with_fractions_in_the_order_run():
    assert list(cascade(200, 3, (0.1, 0.3, 0.6))) == [Stage(2, 20.0), Stage(1, 60.0), Stage(0, 120.0)]


def test_a_cascade_of_one_level_is_plain_training():
    assert list(cascade(5.0, 1)) == list(single(5.0))


@given(st.floats(1e-3, 1e6), st.integers(1, 8))
def test_default_stages_spend_the_budget_from_the_coarsest_level_to_the_finest(budget, levels):
    stages = list(cascade(budget, levels))
    assert math.isclose(sum(stage.work for stage in stages), budget)
    assert [stage.level for stage in stages] == list(reversed(range(levels)))
    assert math.isclose(sum(default_fractions(levels)), 1)


@given(
    st.floats(20, 1e4), st.lists(st.floats(0.1, 1), min_size=1, max_size=5), st.lists(st.floats(0.01, 1), max_size=4)
)
def test_whole_steps_spend_the_budget_to_half_a_step_of_the_last_stage(budget, shares, costs):
    costs = [1.0, *costs][: len(shares)]
    shares = shares[: len(costs)]
    stages = list(cascade(budget, len(costs), [share / sum(shares) for share in shares]))
    steps = steps_of(stages, costs)
    spent = sum(count * costs[stage.level] for count, stage in zip(steps, stages, strict=True))
    assert min(steps) >= 1
    if min(stage.work / costs[stage.level] for stage in stages) > 2:
        assert abs(spent - budget) <= 0.5 * costs[stages[-1].level] + 1e-6 * budget


def test_what_rounding_leaves_over_goes_to_the_next_stage():
    assert steps_of([Stage(1, 1.4), Stage(0, 1.1)], costs=[1.0, 1.0]) == [1, 2]  # 0.4 left over + 1.1 = 1.5 → 2
    assert steps_of([Stage(1, 1.6), Stage(0, 1.1)], costs=[1.0, 1.0]) == [2, 1]  # 0.4 overspent: 0.7 → 1


def test_a_stage_too_short_for_one_step_takes_one():
    assert steps_of([Stage(0, 0.01)], costs=[1.0]) == [1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: list(single(0)), "budget=0"),
        (lambda: list(single(math.nan)), "budget=nan"),
        (lambda: list(cascade(-1.0, 2)), "budget=-1.0"),
        (lambda: list(cascade(1.0, 0)), "levels=0"),
        (lambda: list(cascade(1.0, 3, (0.5, 0.5))), "has 2 entries for 3 levels"),
        (lambda: list(cascade(1.0, 2, (0.5, 0.6))), "add up to 1.1"),
        (lambda: list(cascade(1.0, 2, (1.5, -0.5))), "must be positive"),
        (lambda: steps_of([Stage(2, 1.0)], [1.0, 0.5]), "a stage is on level 2, but the hierarchy has 2 levels"),
        (lambda: steps_of([Stage(0, 1.0)], [0.0]), "must be a positive number, not 0.0"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused_with_the_value(call, message):
    with pytest.raises(ConfigError, match=message):
        call()
