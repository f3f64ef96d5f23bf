"""What gives trials up in a study by Ray: Ray Tune's schedulers, under the names and arguments of Optuna's pruners.

A pruner that Ray has no counterpart of (percentile, threshold, wilcoxon) is Optuna's own: the study is Optuna's either
way. Ray is told to stop a trial, never to pause one: a paused trial would begin again from the start.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from accelerator.errors import ConfigError, did_you_mean
from accelerator.tuning.base import TrialOutcome
from accelerator.tuning.choosing import make_pruner

if TYPE_CHECKING:
    from ray.tune.schedulers import TrialScheduler

VALUE, STEP = "value", "step"  # of a report, as Ray is told
FOREVER = 2**40  # steps: Ray ends no trial for its length
BRACKETS = 4  # of Hyperband where the longest training is not known

# Arguments by pruner: Optuna's name, its default there.
ARGUMENTS: Mapping[str, Mapping[str, Any]] = {
    "asha": {"min_resource": 1, "reduction_factor": 4, "min_early_stopping_rate": 0},
    "hyperband": {"min_resource": 1, "max_resource": "auto", "reduction_factor": 3},
    "median": {"n_startup_trials": 5, "n_warmup_steps": 0},
}


def split_pruner(
    section: Mapping[str, Any] | None, objectives: Mapping[str, str]
) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Which of the two gives trials up, Ray's scheduler or Optuna's pruner.

    Args:
        section: ``name`` and arguments of Optuna's class; without any, the median's for one objective, else none.
        objectives: of the study.

    Returns:
        The section for `make_scheduler`, if it is Ray's, and that for Optuna's pruner.

    Raises:
        ConfigError: there is none of that name, it takes no such argument, or there are several objectives.
    """
    section = dict(section or {"name": "none" if len(objectives) > 1 else "median"})
    make_pruner({"name": section.get("name")} if section.get("name") in ARGUMENTS else section, objectives)
    if section.get("name") not in ARGUMENTS:
        return None, section
    make_scheduler(section, "min", check=True)
    return section, {"name": "none"}


def make_scheduler(section: Mapping[str, Any], mode: str, *, check: bool = False) -> TrialScheduler | None:
    """Ray's scheduler for a pruner.

    Args:
        section: ``name`` and arguments of Optuna's class of that name.
        mode: ``min`` or ``max``.
        check: only whether there is one; Ray is not imported.

    Raises:
        ConfigError: it takes no such argument, or none of that value.
    """
    name = section["name"]
    known = ARGUMENTS[name]
    given = {key: value for key, value in section.items() if key != "name"}
    problems = [
        f"tune.pruner.{key}: '{name}' has no such argument on Ray{did_you_mean(key, known)}"
        for key in given
        if key not in known
    ]
    values = {**known, **{key: value for key, value in given.items() if key in known and value != "auto"}}
    for key, value in values.items():
        least = {"reduction_factor": 2, "min_resource": 1, "max_resource": 1, "n_startup_trials": 1}.get(key, 0)
        if value != "auto" and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            problems.append(f"tune.pruner.{key}={value}: expected a whole number, at least {least}")
    if problems:
        raise ConfigError(problems)
    return None if check else _built(name, values, mode)


def _built(name: str, values: Mapping[str, Any], mode: str) -> TrialScheduler:
    from ray.tune.schedulers import ASHAScheduler, MedianStoppingRule

    common: dict[str, Any] = {"time_attr": STEP, "metric": VALUE, "mode": mode}
    if name == "median":
        return MedianStoppingRule(
            **common,
            grace_period=values["n_warmup_steps"],
            min_samples_required=values["n_startup_trials"],
            min_time_slice=math.inf,  # pyright: ignore[reportArgumentType] - a trial with too few others goes on
        )
    first, factor = values["min_resource"], values["reduction_factor"]
    rungs: dict[str, Any] = {"reduction_factor": factor, "max_t": FOREVER, "stop_last_trials": False}
    if name == "asha":
        return ASHAScheduler(**common, **rungs, grace_period=first * factor ** values["min_early_stopping_rate"])
    longest = values["max_resource"]
    if longest == "auto":
        return ASHAScheduler(**common, **rungs, grace_period=first, brackets=BRACKETS)
    brackets = 1 + max(0, round(math.floor(math.log(longest / first, factor) + 1e-9)))
    return ASHAScheduler(**common, **rungs | {"max_t": max(longest, first)}, grace_period=first, brackets=brackets)


@dataclass(eq=False)
class _Before:
    """A trial of an earlier part of the study, as a scheduler sees it."""

    trial_id: str


def remember(scheduler: TrialScheduler, outcomes: Sequence[TrialOutcome]) -> None:
    """Tell a scheduler what the trials of an earlier part of the study reported: new ones are judged beside them."""
    for outcome in outcomes:
        trial: Any = _Before(f"before-{outcome.number}")
        reports = [(step, value) for step, value in outcome.reports.items() if math.isfinite(value)]
        if reports:
            scheduler.on_trial_add(None, trial)  # pyright: ignore[reportArgumentType]
        for step, value in reports:
            scheduler.on_trial_result(None, trial, {STEP: step, VALUE: value})  # pyright: ignore[reportArgumentType]
