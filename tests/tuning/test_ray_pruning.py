"""Ray's schedulers under the names and arguments of Optuna's pruners; no cluster is started."""

import math
from dataclasses import dataclass

import pytest
from ray.tune.schedulers import AsyncHyperBandScheduler, MedianStoppingRule

from accelerator.errors import ConfigError
from accelerator.tuning.base import State, TrialOutcome
from accelerator.tuning.ray_pruning import make_scheduler, remember, split_pruner

LOSS = {"loss": "min"}


@dataclass(eq=False)
class Stand:
    trial_id: str


def decision(scheduler, name, *reports):
    """What a scheduler says of a new trial's last report."""
    trial, said = Stand(name), None
    scheduler.on_trial_add(None, trial)
    for step, value in reports:
        said = scheduler.on_trial_result(None, trial, {"step": step, "value": value})
    return said


def rungs(scheduler):
    """The steps at which trials are compared, by bracket."""
    return [[step for step, _ in reversed(bracket._rungs)] for bracket in scheduler._brackets]


@pytest.mark.parametrize(
    ("section", "first"),
    [
        ({"name": "asha"}, [[1, 4, 16]]),
        ({"name": "asha", "min_resource": 2, "reduction_factor": 3}, [[2, 6, 18]]),
        ({"name": "asha", "min_resource": "auto", "min_early_stopping_rate": 2, "reduction_factor": 2}, [[4, 8, 16]]),
        ({"name": "hyperband", "max_resource": 9}, [[1, 3, 9], [3, 9], [9]]),
        ({"name": "hyperband", "min_resource": 2, "max_resource": 17, "reduction_factor": 2}, [[2, 4, 8], [4, 8, 16]]),
        ({"name": "hyperband"}, [[1, 3, 9], [3, 9, 27], [9, 27, 81], [27, 81, 243]]),
    ],
)
def test_rungs_stand_where_optunas_arguments_put_them(section, first):
    scheduler = make_scheduler(section, "min")
    assert isinstance(scheduler, AsyncHyperBandScheduler)
    assert [steps[:3] for steps in rungs(scheduler)][: len(first)] == first


def test_asha_stops_the_worse_of_a_rung_and_ends_no_trial_for_its_length():
    scheduler = make_scheduler({"name": "asha"}, "min")
    assert decision(scheduler, "a", (1, 1.0), (4, 0.5)) == "CONTINUE"
    assert decision(scheduler, "b", (1, 2.0)) == "STOP"
    assert decision(scheduler, "c", (1, 0.5), (4, 0.4), (10**6, 0.3), (10**9, 0.2)) == "CONTINUE"
    upwards = make_scheduler({"name": "asha"}, "max")
    assert decision(upwards, "a", (1, 1.0)) == "CONTINUE"
    assert decision(upwards, "b", (1, 0.5)) == "STOP"
    assert decision(upwards, "c", (1, 2.0)) == "CONTINUE"


def test_the_median_waits_for_as_many_trials_as_optunas_and_pauses_none():
    scheduler = make_scheduler({"name": "median", "n_startup_trials": 2, "n_warmup_steps": 2}, "min")
    assert isinstance(scheduler, MedianStoppingRule)
    assert decision(scheduler, "a", (1, 1.0), (2, 1.0), (3, 1.0)) == "CONTINUE"
    assert decision(scheduler, "b", (1, 2.0), (2, 2.0), (3, 2.0)) == "CONTINUE"  # one other: not enough
    assert decision(scheduler, "c", (1, 9.0)) == "CONTINUE"  # warming up
    assert decision(scheduler, "d", (1, 9.0), (2, 9.0)) == "STOP"
    assert decision(scheduler, "e", (1, 9.0), (2, 1.1)) == "CONTINUE"
    assert make_scheduler({"name": "median"}, "min")._min_samples_required == 5  # Optuna's default


def test_a_study_that_goes_on_judges_new_trials_beside_those_before():
    outcomes = [TrialOutcome(number, {}, State.COMPLETE, [0.1], reports={1: 0.2, 4: 0.1}) for number in range(3)]
    outcomes.append(TrialOutcome(3, {}, State.FAILED, reports={1: math.nan}))
    scheduler = make_scheduler({"name": "asha"}, "min")
    remember(scheduler, outcomes)
    assert decision(scheduler, "worse", (1, 0.3)) == "STOP"
    assert decision(scheduler, "better", (1, 0.1)) == "CONTINUE"
    assert decision(make_scheduler({"name": "asha"}, "min"), "alone", (1, 0.3)) == "CONTINUE"


@pytest.mark.parametrize(
    ("section", "rays", "optunas"),
    [
        ({"name": "asha", "min_resource": 2}, {"name": "asha", "min_resource": 2}, {"name": "none"}),
        (None, {"name": "median"}, {"name": "none"}),
        ({}, {"name": "median"}, {"name": "none"}),
        ({"name": "none"}, None, {"name": "none"}),
        ({"name": "threshold", "upper": 1.0}, None, {"name": "threshold", "upper": 1.0}),
    ],
)
def test_a_pruner_is_rays_where_ray_has_it_and_optunas_otherwise(section, rays, optunas):
    assert split_pruner(section, LOSS) == (rays, optunas)


def test_several_objectives_have_no_pruner():
    assert split_pruner(None, {"a": "min", "b": "max"}) == (None, {"name": "none"})
    with pytest.raises(ConfigError, match="tune.pruner.name=asha: with several objectives"):
        split_pruner({"name": "asha"}, {"a": "min", "b": "max"})


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ({"name": "ash"}, "tune.pruner.name=ash: there is none of that name — did you mean 'asha'?"),
        (
            {"name": "asha", "min_resources": 2},
            "tune.pruner.min_resources: 'asha' has no such argument on Ray — did you mean 'min_resource'?",
        ),
        (
            {"name": "asha", "bootstrap_count": 2},
            "tune.pruner.bootstrap_count: 'asha' has no such argument on Ray — choose from: min_early_stopping_rate, "
            "min_resource, reduction_factor",
        ),
        (
            {"name": "asha", "reduction_factor": 1},
            "tune.pruner.reduction_factor=1: expected a whole number, at least 2",
        ),
        (
            {"name": "median", "n_warmup_steps": -1},
            "tune.pruner.n_warmup_steps=-1: expected a whole number, at least 0",
        ),
        ({"name": "median", "n_startup_trials": "5"}, "tune.pruner.n_startup_trials=5: expected a whole number, at"),
    ],
)
def test_a_mistake_in_a_pruner_is_told_before_ray_is_started(section, problem):
    with pytest.raises(ConfigError) as error:
        split_pruner(section, LOSS)
    assert str(error.value).startswith(problem)
