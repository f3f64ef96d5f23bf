import math
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from accelerator.errors import ConfigError
from accelerator.multilevel.schedule import (
    Plateau,
    Smoothing,
    Stage,
    cascade,
    cascade_by_epochs,
    cycles,
    default_fractions,
    full_multigrid,
    single,
    steps_of,
)

SHRINKING = tuple(0.4**level for level in range(8))


def test_single_spends_all_on_the_finest_level():
    assert list(single(7)) == [Stage(0, 7.0)]


def test_cascade_runs_coarsest_first_with_fractions_in_the_order_run():
    assert list(cascade(200, SHRINKING[:3], (0.1, 0.3, 0.6))) == [Stage(2, 20.0), Stage(1, 60.0), Stage(0, 120.0)]


def test_a_cascade_of_one_level_is_plain_training():
    assert list(cascade(5.0, SHRINKING[:1])) == list(single(5.0))


@given(st.floats(1e-3, 1e6), st.integers(1, 8))
def test_default_stages_spend_the_budget_from_the_coarsest_level_to_the_finest(budget, levels):
    stages = list(cascade(budget, SHRINKING[:levels]))
    assert math.isclose(sum(stage.work for stage in stages), budget)
    assert [stage.level for stage in stages] == list(reversed(range(levels)))
    shares = default_fractions(SHRINKING[:levels])
    assert math.isclose(sum(shares), 1)
    assert shares[-1] == (0.5 if levels > 1 else 1)
    coarse = shares[:-1]
    assert all(math.isclose(b / a, math.sqrt(1 / 0.4)) for a, b in pairwise(coarse))


@given(
    st.floats(20, 1e4), st.lists(st.floats(0.1, 1), min_size=1, max_size=5), st.lists(st.floats(0.01, 1), max_size=4)
)
def test_whole_steps_spend_the_budget_to_half_a_step_of_the_last_stage(budget, shares, costs):
    costs = [1.0, *costs][: len(shares)]
    shares = shares[: len(costs)]
    stages = list(cascade(budget, costs, [share / sum(shares) for share in shares]))
    steps = steps_of(stages, costs)
    spent = sum(count * costs[stage.level] for count, stage in zip(steps, stages, strict=True))
    assert min(steps) >= 1
    if min(stage.work / costs[stage.level] for stage in stages) > 2:
        assert abs(spent - budget) <= 0.5 * costs[stages[-1].level] + 1e-6 * budget


COSTS = (1.0, 0.5, 0.2, 0.1)


@pytest.mark.parametrize(
    ("shape", "levels", "visits"),
    [
        ("v", 2, "0 1 0"),
        ("w", 2, "0 1 0"),
        ("f", 2, "0 1 0"),
        ("v", 3, "0 1 2 1 0"),
        ("w", 3, "0 1 2 1 2 1 0"),
        ("f", 3, "0 1 2 1 2 1 0"),
        ("v", 4, "0 1 2 3 2 1 0"),
        ("w", 4, "0 1 2 3 2 3 2 1 2 3 2 3 2 1 0"),
        ("f", 4, "0 1 2 3 2 3 2 1 2 3 2 1 0"),
    ],
)
def test_cycles_visit_the_levels_as_in_the_textbook(shape, levels, visits):
    smoothing = Smoothing(2, 3, 5)
    wanted = [int(level) for level in visits.split()]
    stages = list(cycles(100, COSTS[:levels], shape, smoothing))
    first = stages[: len(wanted)]
    assert [stage.level for stage in first] == wanted
    assert [stage.cycle for stage in first] == [False] + [True] * (len(wanted) - 1)
    for before, stage in zip([None, *first], first, strict=False):
        down = before is None or stage.level > before.level
        assert stage.steps == (5 if stage.level == levels - 1 else 2 if down else 3)
        assert stage.work == pytest.approx(stage.steps * COSTS[stage.level])
    number = len([stage for stage in stages if stage.level == levels - 1]) // wanted.count(levels - 1)
    assert [stage.level for stage in stages][: number * len(wanted)] == wanted * number


def test_full_multigrid_is_nested_iteration_with_cycles():
    stages = list(full_multigrid(200, COSTS[:3], Smoothing(1, 1, 2), (0.1, 0.2, 0.7)))
    order = [stage.level for stage in stages]
    middle, finest = order.index(1), order.index(0)
    assert order[:middle] == [2]
    assert order[middle:finest][:6] == [1, 2, 1, 1, 2, 1]
    assert order[finest:][:10] == [0, 1, 2, 1, 0] * 2
    entered_by_prolongation = [stage.level for stage in stages if not stage.cycle]
    assert set(entered_by_prolongation[1 : order[:finest].count(2)]) == {1}
    for level, share in ((2, 20), (1, 40), (0, 140)):
        part = stages[:middle] if level == 2 else stages[middle:finest] if level == 1 else stages[finest:]
        spent = sum(stage.work + stage.overhead for stage in part)
        assert share - COSTS[level] < spent <= share + 1e-9
    short = list(full_multigrid(30, COSTS[:3], Smoothing(1, 1, 2), (0.1, 0.4, 0.5)))
    assert [stage.level for stage in short if stage.cycle or stage.level == 2][:5] == [2, 2, 1, 2, 1]


def test_the_cost_of_tau_and_of_the_guard_is_counted():
    """Tau: a gradient of the finer and one of the coarser level a batch; the guard: two forward passes."""
    smoothing = Smoothing(1, 1, 2, tau_batches=6, guard_losses=6)
    one = list(cycles(100, (1.0, 0.5, 0.2), "v", smoothing))[:5]
    assert [stage.overhead for stage in one] == pytest.approx(
        [0, 6 * (1 + 0.5), 6 * (0.5 + 0.2), 2 * 3 * 0.5 / 3, 2 * 3 * 1 / 3]
    )


@given(
    st.floats(60, 1e4),
    st.integers(2, 4),
    st.sampled_from(["v", "w", "f", "fmg"]),
    st.builds(Smoothing, st.integers(0, 3), st.integers(1, 3), st.integers(1, 5), st.integers(0, 2), st.integers(0, 2)),
)
def test_cycles_never_overspend_and_what_is_left_goes_to_the_finest_level(budget, levels, shape, smoothing):
    costs = COSTS[:levels]
    try:
        if shape == "fmg":
            stages = list(full_multigrid(budget, costs, smoothing))
        else:
            stages = list(cycles(budget, costs, shape, smoothing))
    except ConfigError:  # not enough for one cycle
        assume(False)
    planned = sum(stage.work + stage.overhead for stage in stages)
    assert planned <= budget * (1 + 1e-6)
    steps = steps_of(stages, costs)
    spent = sum(n * costs[stage.level] + stage.overhead for n, stage in zip(steps, stages, strict=True))
    assert spent <= budget * (1 + 1e-6) + 0.5 * len([stage for stage in stages if stage.steps is None])
    assert stages[-1].level == 0
    if shape != "fmg":
        assert budget - planned < 1 + 1e-6 * budget


def test_a_warm_up_comes_first_and_is_part_of_the_budget():
    stages = list(cascade(100, COSTS[:3], (0.25, 0.25, 0.5), warmup=20))
    assert stages == [Stage(0, 20), Stage(2, 20.0), Stage(1, 20.0), Stage(0, 40.0)]
    assert sum(stage.work for stage in cascade(100, COSTS[:1], warmup=20)) == 100
    with pytest.raises(ConfigError, match="a warm-up of 100 work units leaves nothing of a budget of 100"):
        list(cascade(100, COSTS[:3], warmup=100))


def test_epochs_on_each_coarse_level_and_what_is_left_on_the_finest():
    stages = list(cascade_by_epochs(100, COSTS[:3], 10, level_epochs=(2, 1.55), warmup=5))
    assert stages == [Stage(0, 5), Stage(2, 4.0, 20), Stage(1, 8.0, 16), Stage(0, 83.0)]
    assert steps_of(stages, COSTS[:3]) == [5, 20, 16, 83]
    for epochs, message in [
        ((1,), "give one number for each of the 2 coarse levels"),
        ((1, 0), "each must be above 0"),
        ((100, 100), r"spend 700 work units of a budget of 100: nothing is left for the finest level"),
    ]:
        with pytest.raises(ConfigError, match=message):
            list(cascade_by_epochs(100, COSTS[:3], 10, level_epochs=epochs))


def test_a_plateau_is_reached_after_patience_values_without_a_relative_improvement():
    plateau = Plateau(patience=2, min_delta=0.1)
    assert [plateau.reached(value) for value in (10.0, 9.5, 8.9, 8.5, 8.2)] == [False, False, False, False, True]
    plateau.start()
    assert [plateau.reached(value) for value in (-1.0, -1.2, -1.25)] == [False, False, False]  # losses below zero too
    other = Plateau(2, 0.1)
    other.load_state_dict(plateau.state_dict())
    assert other.reached(-1.25)


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
        (lambda: list(cascade(-1.0, COSTS[:2])), "budget=-1.0"),
        (lambda: list(cascade(1.0, ())), "costs="),
        (lambda: list(cascade(1.0, COSTS[:3], (0.5, 0.5))), "has 2 entries for 3 levels"),
        (lambda: list(cascade(1.0, COSTS[:2], (0.5, 0.6))), "add up to 1.1"),
        (lambda: list(cascade(1.0, COSTS[:2], (1.5, -0.5))), "must be positive"),
        (lambda: list(cycles(10, [1.0])), "a v-cycle needs at least 2 levels, the hierarchy has 1"),
        (lambda: list(cycles(5, [1.0, 0.5])), "one V-cycle costs 12 work units, the budget is 5: fewer pre, post"),
        (
            lambda: list(full_multigrid(20, [1.0, 0.5])),
            "one V-cycle from level 0 costs 12 work units, its share .* is 10",
        ),
        (lambda: Smoothing(pre=-1), "pre=-1: a number of steps cannot be negative"),
        (lambda: Smoothing(coarse=0), "coarse=0: without steps on the coarsest level"),
        (lambda: Smoothing(0, 0), "pre=0 and post=0: without steps on the finest level a cycle passes no data"),
        (lambda: Plateau(0), "patience=0: expected at least 1 validation"),
        (lambda: Plateau(1, 1.0), r"min_delta=1.0: a relative improvement, in \[0, 1\)"),
        (lambda: steps_of([Stage(2, 1.0)], [1.0, 0.5]), "a stage is on level 2, but the hierarchy has 2 levels"),
        (lambda: steps_of([Stage(0, 1.0)], [0.0]), "must be a positive number, not 0.0"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused_with_the_value(call, message):
    with pytest.raises(ConfigError, match=message):
        call()
