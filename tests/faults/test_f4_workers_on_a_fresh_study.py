"""Row F4: four workers on a fresh study: every trial is there, once."""

import pytest

from accelerator.tuning.base import Plan, State
from accelerator.tuning.optuna_tuner import OptunaTuner
from accelerator.tuning.search_space import SearchSpace

SPACE = SearchSpace.parse(
    {"x": {"uniform": [-1, 1]}, "kind": {"choice": {"a": {"y": {"log_int": [1, 64]}}, "b": None}}}
)


def run(folder, storage, trials):
    folder.mkdir()
    plan = Plan("study", SPACE, {"loss": "min"}, trials, workers=4)
    study = OptunaTuner(plan, folder, storage.format(folder), {"name": "tpe"}, {"name": "none"})
    measured = folder / "measured"

    def objective(trial):
        with measured.open("a") as file:
            file.write(f"{trial.number}\n")
        return trial.values["x"] ** 2

    study.run(objective)
    outcomes = study.outcomes()
    assert [outcome.state for outcome in outcomes] == [State.COMPLETE] * trials
    assert sorted(map(int, measured.read_text().split())) == list(range(trials))
    assert all(outcome.scores == [outcome.values["x"] ** 2] for outcome in outcomes)


def test_f4_100_of_100_trials(tmp_path):
    run(tmp_path / "study", "journal", 100)


@pytest.mark.faults
@pytest.mark.parametrize("runs", [10])
@pytest.mark.parametrize("storage", ["journal", "sqlite:///{}/study.db"])
def test_f4_again_and_again(tmp_path, storage, runs):
    for number in range(runs):
        run(tmp_path / str(number), storage, 100)
