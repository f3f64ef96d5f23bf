"""A trial in a worker of Ray, step by step; no cluster is started."""

import os
import sys
import threading
from pathlib import Path

import pytest

from accelerator.errors import ConfigError, Terminated
from accelerator.tuning import ray_worker
from accelerator.tuning.base import State, TrialPruned
from accelerator.tuning.ray_worker import Ended, Measurement, Shipped, alive_file


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ray_worker, "said_in", lambda file: None)  # it would be the tests' own output
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def measurement(objective, place, *, values=None, number=0, heartbeat=None):
    made = Measurement.__new__(Measurement)  # its constructor is Ray's business
    shipped = Shipped.of(objective, place, heartbeat)
    made.setup({"number": number, "values": values or {"x": 0.5}}, shipped=shipped)
    return made


def three_reports(trial):
    for step in range(1, 4):
        if trial.report(trial.values["x"] / step, step):
            Path(f"saved-{trial.number}").touch()
            return step
    return trial.values["x"]


def ended(result):
    assert result["done"] is True
    return Ended.of(result["ending"])


def test_each_step_goes_to_the_next_report_and_the_last_says_how_it_ended(place):
    made = measurement(three_reports, place, number=7)
    assert [made.step() for _ in range(3)] == [{"value": 0.5 / step, "step": step, "number": 7} for step in range(1, 4)]
    last = made.step()
    assert last["number"] == 7
    assert ended(last).ending.state is State.COMPLETE
    assert ended(last).ending.scores == [0.5]
    assert ended(last).usable
    assert 0 < ended(last).seconds < 5


def test_the_next_trial_has_the_same_process(place):
    made = measurement(lambda trial: trial.values["x"], place)
    made.step()
    assert made.reset_config({"number": 1, "values": {"x": 3}})
    assert ended(made.step()).ending.scores == [3.0]


@pytest.mark.parametrize(
    ("reason", "state", "error"), [("", State.PRUNED, None), ("SIGTERM", State.STOPPED, "stopped by SIGTERM")]
)
def test_a_trial_that_is_asked_to_stop_hears_of_it_from_its_report_and_saves(place, reason, state, error):
    made = measurement(three_reports, place)
    made.step()
    made.ask_to_stop(reason)
    ending = ended(made.step()).ending
    assert (ending.state, ending.error) == (state, error)
    assert (place / "saved-0").exists()


def test_a_trial_that_ended_before_it_heard_of_a_signal_has_ended(place):
    made = measurement(lambda trial: 2.0, place)
    made.ask_to_stop("SIGTERM")
    assert ended(made.step()).ending.state is State.COMPLETE


def raises(error, *arguments):
    def objective(trial):
        raise error(*arguments)

    return objective


@pytest.mark.parametrize(
    ("error", "state", "told", "users"),
    [
        ((ValueError, "no"), State.FAILED, "ValueError: no", False),
        ((ConfigError, "no such file"), State.FAILED, "no such file", True),
        ((TrialPruned,), State.PRUNED, None, False),
        ((Terminated, "SIGTERM"), State.STOPPED, "stopped by SIGTERM", False),
        ((KeyboardInterrupt,), State.FAILED, "KeyboardInterrupt: ", False),
    ],
)
def test_what_an_objective_raises_is_told(place, error, state, told, users):
    ending = ended(measurement(raises(*error), place).step()).ending
    assert (ending.state, ending.error, ending.users) == (state, told, users)


def test_a_trial_that_is_given_up_is_ended_before_its_process(place):
    made = measurement(three_reports, place)
    made.step()
    made.cleanup()
    assert (place / "saved-0").exists()


def test_a_trial_gives_signs_of_life_until_it_ends(place):
    seen = threading.Event()
    file = alive_file(place, 0)
    file.parent.mkdir()

    def objective(trial):
        while not file.exists():
            pass
        return 1.0

    made = measurement(objective, place, heartbeat=0.01)
    assert ended(made.step()).ending.state is State.COMPLETE
    file.unlink()
    seen.wait(0.05)
    assert not file.exists()


def test_a_worker_works_where_the_study_does_and_finds_its_modules(place, monkeypatch):
    (place / "modules").mkdir()
    (place / "modules" / "mine_alone.py").write_text("def loss(trial):\n    return 0.25\n")
    monkeypatch.syspath_prepend(str(place / "modules"))
    monkeypatch.setenv("MY_DATA", "here")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    import mine_alone

    shipped = Shipped.of(mine_alone.loss, place, None)
    # The other process, which Ray has put somewhere else.
    del sys.modules["mine_alone"]
    sys.path.remove(str(place / "modules"))
    monkeypatch.delenv("MY_DATA")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.chdir("/")
    assert shipped.unpacked()(None) == 0.25
    assert os.getcwd() == str(place)
    assert os.environ["MY_DATA"] == "here"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"


def test_an_objective_that_cannot_be_sent_is_told(place):
    lock = threading.Lock()
    with pytest.raises(ConfigError) as error:
        Shipped.of(lambda trial: lock.acquire(), place, None)
    assert str(error.value).startswith(
        "the objective cannot be sent to Ray's workers: TypeError: cannot pickle '_thread.lock' object; make what "
        "cannot be pickled (locks, open files, connections, iterators) inside the function"
    )


def test_a_machine_that_does_not_see_the_studys_folder_is_told(place):
    shipped = Shipped.of(three_reports, place / "elsewhere", None)
    made = Measurement.__new__(Measurement)
    made.setup({"number": 0, "values": {}}, shipped=shipped)
    said = ended(made.step())
    assert not said.usable
    assert said.ending.error == (
        f"FileNotFoundError: {place}/elsewhere is not there: the machines of a cluster have to share it"
    )
