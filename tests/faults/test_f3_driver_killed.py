"""Row F3: the process that drives a study is killed: what is done is not done again, and the budget is kept."""

import os
import random
import signal
import time

import fault_parts
import pytest
from filelock import FileLock
from forked_ranks import exit_code
from forked_runs import said_in, start
from study_runs import told_in, tune

from accelerator.cli.tune.study import warm_up
from accelerator.runtime.run_directory import is_locked, is_owned
from accelerator.tuning.base import Plan
from accelerator.tuning.optuna_tuner import OptunaTuner
from accelerator.tuning.search_space import SearchSpace

TRIALS = 6


def started(folder, monkeypatch):
    """A study with two workers whose trials take a quarter of a second."""
    monkeypatch.setattr(fault_parts, "FAULTS", {})
    monkeypatch.setattr(fault_parts, "come_to", lambda place: time.sleep(0.04) if place == "step_end" else None)
    monkeypatch.setattr("accelerator.tuning.pictures.draw", lambda *_: [])
    warm_up()
    return start(lambda: tune(folder, f"tune.trials={TRIALS}", "tune.workers=2"), said_in(folder))


def done_in(folder):
    return {path.parent.name: path.read_bytes() for path in folder.glob("*/result.json")}


def wait_until(true, what, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.01)


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGKILL,
        *(pytest.param(number, marks=pytest.mark.faults) for number in (signal.SIGTERM, signal.SIGINT)),
    ],
)
def test_f3_what_is_done_is_not_done_again(tmp_path, monkeypatch, record_property, number):
    folder = tmp_path / "study"
    pid = started(folder, monkeypatch)
    wait_until(lambda: len(done_in(folder)) >= 2, said_in(folder).read_text)
    begin = time.monotonic()
    os.kill(pid, number)
    code = exit_code(pid)
    assert code == {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[number]
    trials = [path for path in folder.iterdir() if path.name.isdigit()]
    wait_until(lambda: not any(map(is_owned, trials)), "its workers are there still")
    record_property("measured", f"{signal.Signals(number).name}: all gone after {time.monotonic() - begin:.1f} s")
    before = done_in(folder)
    assert 2 <= len(before) < TRIALS
    if number != signal.SIGKILL:
        assert f"go on with: accelerator tune resume={folder}" in said_in(folder).read_text()
    assert tune(folder, f"tune.trials={TRIALS}", "tune.workers=2") == 0
    assert {name: content for name, content in done_in(folder).items() if name in before} == before
    assert_whole(folder)


def assert_whole(folder):
    """Each point was measured to its end, once."""
    trials = told_in(folder)["trials"]
    complete = [trial["values"]["optimizer.lr"] for trial in trials if trial["state"] == "complete"]
    assert len(complete) == len(set(complete)) == TRIALS
    assert {trial["state"] for trial in trials} <= {"complete", "stopped"}
    assert len([trial for trial in trials if trial["retry_of"] is None]) == TRIALS


def test_f3_a_worker_that_reports_nothing_ends_too(tmp_path, record_property):
    lock = tmp_path / "lock"

    def objective(trial):
        with FileLock(lock):
            time.sleep(300)
        return 0.0

    def drive():
        plan = Plan("study", SearchSpace.parse({"x": {"uniform": [0, 1]}}), {"loss": "min"}, 1)
        OptunaTuner(plan, tmp_path / "study").run(objective)

    pid = start(drive, tmp_path / "said")
    wait_until(lambda: is_locked(lock), (tmp_path / "said").read_text)
    os.kill(pid, signal.SIGKILL)
    begin = time.monotonic()
    exit_code(pid)
    wait_until(lambda: not is_locked(lock), "its worker is there still", seconds=10)
    record_property("measured", f"a worker that reports nothing: gone after {time.monotonic() - begin:.1f} s")


@pytest.mark.faults
@pytest.mark.parametrize("kills", [10])
def test_f3_killed_at_any_moment(tmp_path, monkeypatch, kills):
    chance = random.Random(0)
    for number in range(kills):
        folder = tmp_path / f"study-{number}"
        pid = started(folder, monkeypatch)
        time.sleep(chance.uniform(0.5, 2.5))
        os.kill(pid, signal.SIGKILL)
        exit_code(pid)
        pid = started(folder, monkeypatch)
        assert exit_code(pid) == 0, said_in(folder).read_text()
        assert_whole(folder)
