"""A study by Optuna: trials measured in processes, none lost, none doubled, whatever happens to them."""

import json
import math
import os
import signal
import sqlite3
import threading
import time
from collections import Counter
from contextlib import closing

import optuna
import pytest

from accelerator.errors import ConfigError, Terminated
from accelerator.tuning.base import Plan, Standing, State, TrialOutcome, TrialPruned, best_of
from accelerator.tuning.choosing import make_pruner, make_sampler
from accelerator.tuning.optuna_tuner import OptunaTuner
from accelerator.tuning.search_space import SearchSpace
from accelerator.tuning.workers import AssignedTrial, Assignment, Ending, measured

LINE = SearchSpace.parse({"x": {"uniform": [-1, 1]}})


def tuner(folder, *, space=LINE, objectives=None, trials=6, storage="journal", sampler=None, pruner=None, **plan):
    options = {"workers": 1, "heartbeat": None} | plan
    made = Plan("study", space, objectives or {"loss": "min"}, trials, **options)
    return OptunaTuner(made, folder, storage, sampler or {"name": "random"}, pruner or {"name": "none"})


def square(trial):
    return trial.values["x"] ** 2


def states(study):
    return [outcome.state for outcome in study.outcomes()]


@pytest.mark.parametrize("storage", ["journal", "sqlite:///{}/study.db"])
def test_every_trial_is_measured_once_and_another_process_reads_the_study(tmp_path, storage):
    storage = storage.format(tmp_path)
    study = tuner(tmp_path, trials=12, workers=2, storage=storage)
    told = []
    study.run(square, told.append)
    assert sorted(outcome.number for outcome in told) == list(range(12))
    outcomes = tuner(tmp_path, trials=12, storage=storage).outcomes()
    assert [outcome.number for outcome in outcomes] == list(range(12))
    assert all(outcome.scores == [outcome.values["x"] ** 2] for outcome in outcomes)
    assert len({outcome.values["x"] for outcome in outcomes}) == 12
    if storage != "journal":
        with closing(sqlite3.connect(tmp_path / "study.db")) as connection:
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_study_that_goes_on_measures_what_is_left_and_no_point_twice(tmp_path):
    tuner(tmp_path, trials=5).run(square)
    again = tuner(tmp_path, trials=8)
    again.run(square)
    assert states(again) == [State.COMPLETE] * 8
    assert len({outcome.values["x"] for outcome in again.outcomes()}) == 8
    again.run(square)
    assert len(again.outcomes()) == 8


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", "gp"])
def test_a_sampler_tries_the_conditional_space_it_is_given(tmp_path, sampler):
    space = SearchSpace.parse(
        {
            "model": {"choice": {"mlp": {"width": {"log_int": [1, 64]}}, "cnn": None}},
            "hidden": {"choice": [[8], [8, 8]]},
            "lr": {"log_uniform": [1e-3, 1]},
        }
    )
    study = tuner(tmp_path, space=space, trials=14, sampler={"name": sampler})
    study.run(lambda trial: trial.values["lr"])
    outcomes = study.outcomes()
    assert [problem for outcome in outcomes for problem in space.problems(outcome.values)] == []
    assert {outcome.values["model"] for outcome in outcomes} == {"mlp", "cnn"}
    assert {tuple(outcome.values["hidden"]) for outcome in outcomes} == {(8,), (8, 8)}


def test_a_grid_measures_each_point_once_over_two_sittings(tmp_path):
    space = SearchSpace.parse(
        {"model": {"choice": {"mlp": {"depth": {"int": [1, 3]}}, "cnn": None}}, "lr": {"uniform": [0, 1]}}
    )
    grid = {"name": "grid", "points": 2}
    tuner(tmp_path, space=space, sampler=grid, trials=3).run(lambda trial: trial.values["lr"])
    study = tuner(tmp_path, space=space, sampler=grid, trials=100)
    study.run(lambda trial: trial.values["lr"])
    assert [outcome.values for outcome in study.outcomes()] == list(space.grid(2))


def test_a_trial_that_is_worse_than_the_median_is_stopped(tmp_path):
    space = SearchSpace.parse({"x": {"int": [0, 5]}})
    study = tuner(
        tmp_path,
        space=space,
        sampler={"name": "grid"},
        trials=6,
        pruner={"name": "median", "n_startup_trials": 3},
    )

    def objective(trial):
        for step in range(1, 4):
            if trial.report(trial.values["x"] + 1 / step, step):
                raise TrialPruned
        return trial.values["x"]

    study.run(objective)
    outcomes = study.outcomes()
    assert states(study) == [State.COMPLETE] * 3 + [State.PRUNED] * 3
    assert [outcome.reports for outcome in outcomes[3:]] == [{1: 4.0}, {1: 5.0}, {1: 6.0}]
    assert outcomes[0].reports == {1: 1.0, 2: 0.5, 3: 1 / 3}
    assert best_of(outcomes, {"loss": "min"}) == [outcomes[0]]


def test_a_trial_that_returns_after_it_was_asked_to_stop_is_pruned_too(tmp_path):
    study = tuner(tmp_path, pruner={"name": "threshold", "upper": 0.5}, trials=2)

    def objective(trial):
        trial.report(1.0, 1)
        return 0.0

    study.run(objective)
    assert states(study) == [State.PRUNED, State.PRUNED]


@pytest.mark.parametrize(
    ("objective", "error"),
    [
        (lambda trial: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda trial: None, "the objective returned None (NoneType): expected a number, or several"),
        (lambda trial: "good", "the objective returned 'good' (str): expected a number, or several"),
        (lambda trial: [1.0, 2.0], "2 values for 1 objectives (loss)"),
        (lambda trial: math.nan, "loss is nan"),
        (lambda trial: math.inf, "loss is inf"),
        (lambda trial: os._exit(3), "its process ended with exit code 3"),
        (lambda trial: os.kill(os.getpid(), signal.SIGUSR1), "its process was killed by SIGUSR1"),
    ],
)
def test_a_trial_that_fails_is_told_and_the_others_run(tmp_path, objective, error):
    study = tuner(tmp_path, trials=3, retries=0)
    study.run(lambda trial: objective(trial) if trial.number == 1 else square(trial))
    assert states(study) == [State.COMPLETE, State.FAILED, State.COMPLETE]
    assert study.outcomes()[1].error == error


def test_a_mistake_of_the_user_is_told_from_a_fault(tmp_path):
    def objective(trial):
        raise ConfigError("no such file") if trial.number == 0 else RuntimeError("what")

    study = tuner(tmp_path, trials=2)
    study.run(objective)
    assert [(outcome.error, outcome.users) for outcome in study.outcomes()] == [
        ("no such file", True),
        ("RuntimeError: what", False),
    ]


def test_an_objective_that_forks_is_measured_once(tmp_path):
    def objective(trial):
        os.fork()
        return float(trial.number)

    study = tuner(tmp_path, trials=4)
    told = []
    study.run(objective, told.append)
    assert [(outcome.number, outcome.scores) for outcome in told] == [(n, [float(n)]) for n in range(4)]


def test_a_point_whose_process_dies_is_tried_again_as_often_as_allowed(tmp_path):
    def objective(trial):
        if trial.values["x"] > 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return 0.0

    study = tuner(tmp_path, trials=4, retries=2)
    study.run(objective)
    outcomes = study.outcomes()
    doomed = [outcome for outcome in outcomes if outcome.retry_of is None and outcome.values["x"] > 0]
    assert len([outcome for outcome in outcomes if outcome.retry_of is None]) == 4
    assert doomed
    for first in doomed:
        attempts = [outcome for outcome in outcomes if outcome.values == first.values]
        assert [outcome.state for outcome in attempts] == [State.FAILED] * 3
        assert [outcome.retry_of for outcome in attempts] == [None, attempts[0].number, attempts[1].number]
        assert "was killed by SIGKILL; the system does that when memory runs out" in first.error


def test_a_process_that_gives_no_sign_of_life_is_ended_after_two_heartbeats(tmp_path):
    def objective(trial):
        if trial.number == 0:
            os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(0.5)  # longer than two heartbeats: a process that lives is left alone
        return 1.0

    study = tuner(tmp_path, trials=1, heartbeat=0.2, retries=1)
    begin = time.monotonic()
    study.run(objective)
    assert states(study) == [State.FAILED, State.COMPLETE]
    assert "its process gave no sign of life for" in study.outcomes()[0].error
    assert time.monotonic() - begin < 5


def test_a_stopped_study_tries_what_was_under_way_again(tmp_path):
    study = tuner(tmp_path, trials=3)
    main = os.getpid()

    def objective(trial):
        if trial.number == 1:
            signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(Terminated("SIGTERM")))
            os.kill(main, signal.SIGTERM)
            time.sleep(30)
        return square(trial)

    with pytest.raises(Terminated, match="stopped by SIGTERM"):
        study.run(objective)
    assert states(study) == [State.COMPLETE, State.STOPPED, State.WAITING]
    again = tuner(tmp_path, trials=3)
    again.run(square)
    assert states(again) == [State.COMPLETE, State.STOPPED, State.COMPLETE, State.COMPLETE]
    outcomes = again.outcomes()
    assert outcomes[1].error == "stopped by SIGTERM"
    assert outcomes[2].retry_of == 1
    assert outcomes[2].values == outcomes[1].values
    assert len({outcome.values["x"] for outcome in outcomes}) == 3


def test_a_report_that_nobody_hears_lets_the_training_go_on_to_its_signal():
    def gone(_):
        raise BrokenPipeError

    trial = AssignedTrial(Assignment(0, {}), gone, lambda: True)
    assert (trial.report(1.0, 1), trial.should_stop) == (False, False)


def test_how_to_go_on_with_a_stopped_trial_is_not_told_by_the_trial():
    def stopped(trial):
        error = Terminated("SIGTERM")
        error.args = (f"{error}; saved up to step 3; go on with: accelerator train resume=studies/k/11",)
        raise error

    ending = measured(stopped, AssignedTrial(Assignment(0, {}), print, input))
    assert ending == Ending(State.STOPPED, error="stopped by SIGTERM")


def test_failed_trials_of_an_earlier_part_take_nothing_of_the_budget_and_are_tried_again(tmp_path):
    def broken(trial):
        raise RuntimeError("boom")

    tuner(tmp_path, trials=3).run(broken)
    mended = tuner(tmp_path, trials=4)
    assert mended.standing() == Standing(done=0, stopped=[], failed=[0, 1, 2])
    assert mended.standing().said(mended.plan) == (
        "study study: 0 trials are done; going on to 4; 3 failed before and are tried again"
    )
    mended.run(square)
    assert states(mended) == [State.FAILED] * 3 + [State.COMPLETE] * 4
    outcomes = mended.outcomes()
    assert [outcome.retry_of for outcome in outcomes[3:]] == [0, 1, 2, None]
    assert [outcome.values for outcome in outcomes[3:6]] == [outcome.values for outcome in outcomes[:3]]
    mended.run(square)
    assert len(mended.outcomes()) == 7
    assert mended.standing().said(mended.plan) == "study study: 4 trials are done, and 4 asked for"


def test_no_more_failed_trials_are_tried_again_than_the_plan_asks_for(tmp_path):
    tuner(tmp_path, trials=6).run(lambda trial: 1 / (trial.number > 3))
    less = tuner(tmp_path, trials=3)
    assert less.standing() == Standing(done=2, stopped=[], failed=[0])
    less.run(square)
    assert Counter(states(less)) == {State.COMPLETE: 3, State.FAILED: 4}


def test_the_limit_of_attempts_at_a_point_whose_process_dies_is_that_of_one_sitting(tmp_path):
    study = tuner(tmp_path, trials=1, retries=1)
    for attempts in (2, 4):
        study.run(lambda trial: os._exit(3))
        assert states(study) == [State.FAILED] * attempts
    assert [outcome.retry_of for outcome in study.outcomes()] == [None, 0, 1, 2]


def test_what_is_done_is_counted_by_points():
    plan = Plan("study", LINE, {"loss": "min"}, trials=9)
    kinds = [
        *((State.COMPLETE, None), (State.PRUNED, None), (State.FAILED, None), (State.STOPPED, None)),
        *((State.COMPLETE, 2), (State.WAITING, 3), (State.FAILED, None), (State.RUNNING, None)),
    ]
    outcomes = [TrialOutcome(number, {}, state, retry_of=of) for number, (state, of) in enumerate(kinds)]
    assert Standing.of(outcomes, plan) == Standing(done=3, stopped=[3, 7], failed=[6])
    assert Standing.of(outcomes, plan).said(plan) == (
        "study study: 3 trials are done; going on to 9; 2 stopped before and are tried again; "
        "1 failed before and is tried again"
    )


def test_what_else_the_trials_have_alike_is_a_part_of_the_study(tmp_path):
    tuner(tmp_path / "old", trials=1).run(square)
    tuner(tmp_path / "old", trials=1, alike={"train function": "a:f"})  # an older study does not tell
    tuner(tmp_path / "new", trials=1, alike={"train function": "a:f"}).run(square)
    with pytest.raises(ConfigError, match="\n  train function was a:f, is now a:g\n"):
        tuner(tmp_path / "new", trials=1, alike={"train function": "a:g"})


def test_no_trial_begins_after_the_time_is_up(tmp_path):
    study = tuner(tmp_path, trials=50, timeout=0.3)
    study.run(lambda trial: time.sleep(0.1) or 1.0)
    assert 1 <= len(study.outcomes()) <= 4
    assert set(states(study)) == {State.COMPLETE}


def test_the_pareto_front_of_two_objectives(tmp_path):
    space = SearchSpace.parse({"x": {"int": [0, 2]}, "y": {"int": [0, 1]}})
    objectives = {"loss": "min", "accuracy": "max"}
    study = tuner(tmp_path, space=space, objectives=objectives, trials=6, sampler={"name": "grid"})
    study.run(lambda trial: [trial.values["x"] + trial.values["y"], trial.values["x"]])
    front = best_of(study.outcomes(), objectives)
    assert [outcome.values for outcome in front] == [{"x": x, "y": 0} for x in range(3)]
    assert {trial.number for trial in study.study.best_trials} == {outcome.number for outcome in front}


def test_another_space_or_aim_is_told_and_the_study_is_left_as_it_was(tmp_path):
    tuner(tmp_path, trials=2).run(square)
    before = (tmp_path / "study.journal").read_bytes()
    other = SearchSpace.parse({"x": {"uniform": [-1, 2]}, "y": {"choice": [1, 2]}})
    with pytest.raises(ConfigError) as error:
        tuner(tmp_path, space=other, objectives={"loss": "max"})
    assert str(error.value).splitlines() == [
        "the study 'study' is another one, and its trials do not compare with new ones:",
        "  x was uniform -1 … 1, is now uniform -1 … 2",
        "  y was not there, is now one of 1, 2",
        "  loss was min, is now max",
        "leave that as it was, or give the new study a name of its own with tune.name=<name>; nothing was changed",
    ]
    assert (tmp_path / "study.journal").read_bytes() == before


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ({"name": "tpee"}, "tune.sampler.name=tpee: there is none of that name — did you mean 'tpe'?"),
        (
            {},
            "tune.sampler.name is missing: say which — choose from: cmaes, gp, grid, nsgaii, nsgaiii, qmc, random, tpe",
        ),
        ({"name": "tpe", "n_startup": 3}, "tune.sampler.n_startup: 'tpe' has no such argument — did you mean"),
        ({"name": "grid", "points": 0}, "tune.sampler.points=0: expected how many numbers stand for a range"),
        ({"name": "grid", "size": 3}, "tune.sampler.size: a grid has no such argument; it has points"),
    ],
)
def test_a_sampler_that_is_none_is_told(section, problem):
    with pytest.raises(ConfigError) as error:
        make_sampler(section, 0)
    assert str(error.value).startswith(problem)


@pytest.mark.parametrize(
    ("section", "kind"),
    [
        (None, optuna.pruners.MedianPruner),
        ({"name": "asha", "min_resource": 2}, optuna.pruners.SuccessiveHalvingPruner),
        ({"name": "hyperband", "max_resource": 9}, optuna.pruners.HyperbandPruner),
        ({"name": "none"}, optuna.pruners.NopPruner),
    ],
)
def test_a_pruner_by_name(section, kind):
    assert type(make_pruner(section, {"loss": "min"})) is kind
    if section is None:
        assert type(make_pruner(None, {"a": "min", "b": "max"})) is optuna.pruners.NopPruner


def test_several_objectives_are_not_pruned():
    with pytest.raises(
        ConfigError, match=r"tune.pruner.name=asha: with several objectives \(a, b\) no trial is stopped"
    ):
        make_pruner({"name": "asha"}, {"a": "min", "b": "max"})


def test_one_seed_is_one_study_and_another_is_another(tmp_path):
    def points(name, seed):
        study = tuner(tmp_path / name, trials=4, seed=seed)
        study.run(square)
        return [outcome.values for outcome in study.outcomes()]

    assert points("a", 1) == points("b", 1)
    assert points("c", 2) != points("a", 1)


def test_a_torn_end_of_the_journal_is_cut_and_the_study_goes_on(tmp_path):
    tuner(tmp_path, trials=2).run(square)
    with (tmp_path / "study.journal").open("ab") as file:
        file.write(b'{"op_code":5,"trial_')
    study = tuner(tmp_path, trials=4)
    study.run(square)
    assert states(study) == [State.COMPLETE] * 4
    assert all(json.loads(line) for line in (tmp_path / "study.journal").read_text().splitlines())


def test_a_study_runs_beside_other_threads(tmp_path):
    """Signals are the main thread's; a study in another one is stopped by whoever runs it."""
    study = tuner(tmp_path, trials=3, workers=2)
    thread = threading.Thread(target=study.run, args=(square,))
    thread.start()
    thread.join(60)
    assert Counter(states(study)) == {State.COMPLETE: 3}
