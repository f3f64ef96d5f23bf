"""What Ray asks a study for and tells it, without a cluster: this test is Ray."""

import json
import math
from dataclasses import asdict
from types import SimpleNamespace

import pytest
from ray.tune.search import Searcher

from accelerator.errors import ConfigError
from accelerator.tuning.base import Plan, State, StudyError
from accelerator.tuning.optuna_tuner import OptunaTuner
from accelerator.tuning.ray_pruning import make_scheduler
from accelerator.tuning.ray_search import Sitting, StudySearch
from accelerator.tuning.ray_tuner import RayTuner
from accelerator.tuning.ray_watch import Judge, death
from accelerator.tuning.search_space import SearchSpace
from accelerator.tuning.workers import Ending

LINE = SearchSpace.parse({"x": {"uniform": [-1, 1]}})
EVERYTHING = SearchSpace.parse(
    {
        "uniform": {"uniform": [-1, 1]},
        "log": {"log_uniform": [1e-4, 1e-1]},
        "step": {"uniform": [0, 0.5], "step": 0.1},
        "int": {"int": [1, 3]},
        "log_int": {"log_int": [16, 256]},
        "step_int": {"int": [5, 20], "step": 5},
        "hidden": {"choice": [[8], [8, 8], None, {"a": 1}]},
        "model": {"choice": {"mlp": {"mlp.width": {"log_int": [1, 64]}}, "cnn": None}},
        "cnn.depth": {"int": [1, 4], "when": {"model": ["cnn"]}},
    }
)


def plan(space=LINE, trials=6, objectives=None, **options):
    return Plan("study", space, objectives or {"loss": "min"}, trials, **{"heartbeat": None} | options)


class Sitter:
    """A sitting, and Ray's side of it.

    Attributes:
        told: the trials that have ended.
    """

    def __init__(self, folder, *, sampler="random", pruner=None, asked=(), **options):
        self.tuner = RayTuner(plan(**options), folder, sampler={"name": sampler}, pruner=pruner or {"name": "none"})
        self.told, self.began = [], []
        self.tuner._recover()
        self.sitting = Sitting(self.tuner, self.told.append, self.began.append, list(asked))
        self.search = StudySearch(self.sitting)

    def end(self, trial_id, ending, seconds=0.25, usable=True):
        text = json.dumps({"ending": asdict(ending), "seconds": seconds, "usable": usable})
        self.search.on_trial_complete(trial_id, {"ending": text})

    def complete(self, objective):
        """Measure one trial after the other, until there is nothing left."""
        number = 0
        while (config := self.search.suggest(f"ray-{number}")) != Searcher.FINISHED:
            self.end(f"ray-{number}", Ending(State.COMPLETE, [objective(config["values"])]))
            number += 1


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_both_backends_propose_the_same_points(tmp_path, sampler):
    def objective(values):
        return values["uniform"] ** 2 + values["log"]

    by_optuna = OptunaTuner(plan(EVERYTHING, 14), tmp_path / "optuna", "journal", {"name": sampler}, {"name": "none"})
    by_optuna.run(lambda trial: objective(trial.values))
    by_ray = Sitter(tmp_path / "ray", space=EVERYTHING, trials=14, sampler=sampler)
    by_ray.complete(objective)
    expected, found = by_optuna.outcomes(), by_ray.tuner.outcomes()
    assert [outcome.values for outcome in found] == [outcome.values for outcome in expected]
    assert [outcome.scores for outcome in found] == [outcome.scores for outcome in expected]
    assert [problem for outcome in found for problem in EVERYTHING.problems(outcome.values)] == []
    assert [outcome.seconds for outcome in found] == [0.25] * 14
    assert by_ray.told == found
    assert by_ray.began == list(range(14))


def test_a_study_goes_on_with_the_other_backend(tmp_path):
    Sitter(tmp_path, trials=3).complete(lambda values: values["x"] ** 2)
    by_optuna = OptunaTuner(plan(trials=5), tmp_path, "journal", {"name": "random"}, {"name": "none"})
    by_optuna.run(lambda trial: trial.values["x"] ** 2)
    third = Sitter(tmp_path, trials=8)
    third.complete(lambda values: values["x"] ** 2)
    outcomes = third.tuner.outcomes()
    assert [outcome.state for outcome in outcomes] == [State.COMPLETE] * 8
    assert len({outcome.values["x"] for outcome in outcomes}) == 8


def test_ray_waits_while_trials_run_that_may_be_tried_again(tmp_path):
    sitter = Sitter(tmp_path, trials=2, retries=1)
    first, second = sitter.search.suggest("a"), sitter.search.suggest("b")
    assert (first["number"], second["number"]) == (0, 1)
    assert sitter.search.suggest("c") is None
    sitter.end("a", Ending(State.COMPLETE, [1.0]))
    assert sitter.search.suggest("c") is None
    sitter.search.on_trial_complete("b", error=True)
    again = sitter.search.suggest("c")
    assert (again["number"], again["values"]) == (2, second["values"])
    sitter.search.on_trial_complete("c", error=True)
    assert sitter.search.suggest("d") == Searcher.FINISHED
    assert [(one.state, one.retry_of, one.error) for one in sitter.tuner.outcomes()] == [
        (State.COMPLETE, None, None),
        (State.FAILED, None, "its process died"),
        (State.FAILED, 1, "its process died"),
    ]


def test_what_is_no_fault_of_the_process_is_not_tried_again(tmp_path):
    sitter = Sitter(tmp_path, trials=3, retries=2)
    for name, ending in [
        ("a", Ending(State.FAILED, error="ValueError: no")),
        ("b", Ending(State.COMPLETE, [math.nan])),
        ("c", Ending(State.FAILED, error="no such file", users=True)),
    ]:
        sitter.search.suggest(name)
        sitter.end(name, ending)
    assert sitter.search.suggest("d") == Searcher.FINISHED
    assert [(one.state, one.error, one.users) for one in sitter.told] == [
        (State.FAILED, "ValueError: no", False),
        (State.FAILED, "loss is nan", False),
        (State.FAILED, "no such file", True),
    ]


def test_a_driver_that_was_killed_leaves_a_study_with_its_budget(tmp_path):
    before = Sitter(tmp_path, trials=4)
    before.search.suggest("a")
    before.end("a", Ending(State.COMPLETE, [1.0]))
    lost = before.search.suggest("b")
    after = Sitter(tmp_path, trials=4)
    after.complete(lambda values: values["x"])
    outcomes = after.tuner.outcomes()
    assert [outcome.state for outcome in outcomes] == [State.COMPLETE, State.STOPPED] + [State.COMPLETE] * 3
    assert (outcomes[2].retry_of, outcomes[2].values) == (1, lost["values"])
    assert len({outcome.values["x"] for outcome in outcomes}) == 4


def test_a_signal_ends_the_study_and_what_ran_is_tried_again(tmp_path):
    sitter = Sitter(tmp_path, trials=4)
    sitter.search.suggest("a")
    sitter.search.suggest("b")
    sitter.sitting.asked.append("SIGTERM")
    assert sitter.search.suggest("c") == Searcher.FINISHED
    sitter.search.on_trial_complete("a", error=True)  # it was killed when its time to save was up
    sitter.sitting.close()
    assert [(one.state, one.error) for one in sitter.told] == [(State.STOPPED, "stopped by SIGTERM")] * 2
    again = Sitter(tmp_path, trials=4)
    again.complete(lambda values: values["x"])
    assert [one.retry_of for one in again.tuner.outcomes()] == [None, None, 0, 1, None, None]


def test_no_trial_begins_after_the_time_is_up(tmp_path):
    sitter = Sitter(tmp_path, timeout=1000.0)
    sitter.search.suggest("a")
    sitter.sitting.until = 0.0
    assert sitter.search.suggest("b") == Searcher.FINISHED
    sitter.end("a", Ending(State.COMPLETE, [1.0]))
    assert [one.state for one in sitter.tuner.outcomes()] == [State.COMPLETE]


def test_an_error_of_the_caller_is_no_trials_and_ends_the_study(tmp_path):
    sitter = Sitter(tmp_path)

    def broken(outcome):
        raise BrokenPipeError("nobody reads")

    sitter.sitting.told = broken
    sitter.search.suggest("a")
    sitter.end("a", Ending(State.COMPLETE, [1.0]))
    assert sitter.tuner.outcomes()[0].state is State.COMPLETE
    assert sitter.search.suggest("b") == Searcher.FINISHED
    assert isinstance(sitter.sitting.raised, BrokenPipeError)


def test_workers_that_cannot_call_the_objective_end_the_study(tmp_path):
    sitter = Sitter(tmp_path)
    sitter.search.suggest("a")
    sitter.end("a", Ending(State.FAILED, error="ModuleNotFoundError: No module named 'mine'"), usable=False)
    assert sitter.search.suggest("b") == Searcher.FINISHED
    assert isinstance(sitter.sitting.raised, StudyError)
    assert str(sitter.sitting.raised) == (
        "the objective cannot be called in Ray's workers: ModuleNotFoundError: No module named 'mine'"
    )


class Actor:
    """Stands for a trial's worker; remembers how often it was asked to stop."""

    def __init__(self):
        self.asked = 0
        self.ask_to_stop = SimpleNamespace(remote=self._ask)

    def _ask(self):
        self.asked += 1


def judged(sitter, judge, trial_id, *reports):
    """How often a trial that reports is asked to stop; it is never ended by Ray."""
    actor = Actor()
    trial = SimpleNamespace(trial_id=trial_id, temporary_state=SimpleNamespace(ray_actor=actor))
    sitter.search.suggest(trial_id)
    judge.on_trial_add(None, trial)
    for step, value in reports:
        assert judge.on_trial_result(None, trial, {"value": value, "step": step, "number": 0}) == "CONTINUE"
    return actor.asked


def test_a_trial_that_is_not_worth_it_is_asked_to_stop_once_and_what_it_reports_is_kept(tmp_path):
    sitter = Sitter(tmp_path)
    judge = Judge(sitter.sitting, make_scheduler({"name": "asha"}, "min"))
    assert judged(sitter, judge, "a", (1, 1.0), (2, 0.9)) == 0
    assert judged(sitter, judge, "b", (1, 2.0), (2, 3.0)) == 1
    assert judged(sitter, judge, "c", (1, math.nan)) == 1
    assert judged(sitter, judge, "d", (1, math.inf)) == 1
    assert judged(sitter, judge, "e", (1, -math.inf)) == 0
    sitter.end("b", Ending(State.PRUNED))
    outcome = sitter.tuner.outcomes()[1]
    assert (outcome.state, outcome.scores, outcome.reports) == (State.PRUNED, [2.0], {1: 2.0})


def test_a_pruner_that_ray_has_not_is_asked(tmp_path):
    sitter = Sitter(tmp_path, pruner={"name": "threshold", "upper": 0.5})
    judge = Judge(sitter.sitting, None)
    assert judged(sitter, judge, "a", (1, 0.4)) == 0
    assert judged(sitter, judge, "b", (1, 0.6)) == 1


def test_another_space_is_told(tmp_path):
    Sitter(tmp_path, trials=1).complete(lambda values: values["x"])
    with pytest.raises(ConfigError, match="x was uniform -1 … 1, is now uniform -1 … 2"):
        Sitter(tmp_path, space=SearchSpace.parse({"x": {"uniform": [-1, 2]}}))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "Failure # 1\nThe actor died unexpectedly before finishing this task.\n\tpid: 7042\nThe actor is dead "
            "because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker "
            "unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the "
            "process was killed by "
            "the OOM killer due to high memory usage, (2) …",
            "its process died: it was killed (the system does that when memory runs out), or it ended by itself",
        ),
        (
            "Failure # 1\nTask was killed due to the node running low on memory.\nMemory on the node was 60GB / 61GB",
            "its process was ended by Ray because memory ran out",
        ),
        ("Failure # 1\nray::step()\nRuntimeError: what", "Ray could not run it: RuntimeError: what"),
        ("", "Ray could not run it: it does not say why"),
    ],
)
def test_why_a_process_is_gone_in_a_sentence(text, told):
    assert death(text) == told
