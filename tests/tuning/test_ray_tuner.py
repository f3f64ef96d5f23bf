"""Studies by Ray Tune on a cluster of their own; each takes the seconds in which Ray starts and ends."""

import json
import os
import re
import signal
import time
from contextlib import contextmanager

import psutil
import pytest
from ray_studies import run, start, tuner

from accelerator.tuning.base import State, best_of
from accelerator.tuning.optuna_tuner import OptunaTuner

pytestmark = pytest.mark.slow


def outcomes(name, folder):
    """Of a study that has run, read without Ray."""
    plan = tuner(name, folder)[0].plan
    return OptunaTuner(plan, folder).outcomes()


def states(name, folder):
    return [str(outcome.state) for outcome in outcomes(name, folder)]


@contextmanager
def started(name, folder, **environment):
    process = start(name, folder, **environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def wait_for(*files, seconds=60.0):
    until = time.monotonic() + seconds
    while not all(file.exists() for file in files):
        assert time.monotonic() < until, f"{files} did not appear"
        time.sleep(0.05)


def processes_of(folder):
    """What of Ray names a study's folder, or was started for it."""
    found = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        try:
            if str(folder) in " ".join(process.info["cmdline"] or []):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_tpe_finds_the_lowest_region_of_a_parabola(tmp_path):
    printed = run("parabola", tmp_path)
    found = outcomes("parabola", tmp_path)
    assert [outcome.state for outcome in found] == [State.COMPLETE] * 24
    assert len(re.findall(r"^\d+ complete$", printed, re.MULTILINE)) == 24
    (best,) = best_of(found, {"loss": "min"})
    assert best.values["y"] == 0.5
    assert abs(best.values["x"] - 0.25) < 0.25
    assert best.scores == [(best.values["x"] - 0.25) ** 2]


def test_asha_stops_what_is_worse_at_its_rung_and_what_stops_saves(tmp_path):
    run("reporting", tmp_path)
    found = outcomes("reporting", tmp_path)
    assert [outcome.values["x"] for outcome in found] == list(range(8))
    assert [outcome.state for outcome in found] == [State.COMPLETE] + [State.PRUNED] * 7
    # The first to come is alone at each rung; whoever comes after it is worse at the first one already.
    assert [max(outcome.reports) for outcome in found] == [8] + [1] * 7
    assert found[3].reports == {1: 4.0}
    assert sorted(path.name for path in tmp_path.glob("saved-*")) == [f"saved-{number}" for number in range(1, 8)]


def test_trials_that_raise_die_or_hang_fail_alone(tmp_path):
    run("troubled", tmp_path)
    found = outcomes("troubled", tmp_path)
    assert len(found) == 8  # 6 points, and the two whose process died once more
    assert found[1].error == "ValueError: no"
    died = {outcome.number: outcome.error for outcome in found if outcome.state is State.FAILED and outcome.number != 1}
    assert sorted(error[:29] for error in died.values()) == [
        "its process died: it was kill",
        "its process gave no sign of l",
    ]
    again = {outcome.retry_of: outcome for outcome in found if outcome.retry_of is not None}
    assert set(again) == set(died)
    assert all(again[number].values == found[number].values for number in again)
    assert [outcome.state for outcome in found].count(State.COMPLETE) == 5
    assert all(outcome.scores == [outcome.values["x"] ** 2] for outcome in found if outcome.state is State.COMPLETE)
    assert (tmp_path / "0" / "output.txt").read_text() == "this is trial 0\n"
    assert "ValueError: no" in (tmp_path / "1" / "output.txt").read_text()


@pytest.mark.parametrize(("number", "group"), [(signal.SIGTERM, True), (signal.SIGINT, False)])
def test_a_signal_has_trials_save_and_the_study_goes_on_afterwards(tmp_path, number, group):
    with started("slow", tmp_path) as process:
        wait_for(tmp_path / "began-0", tmp_path / "began-1")
        time.sleep(0.5)
        begin = time.monotonic()
        os.killpg(process.pid, number) if group else process.send_signal(number)
        printed, _ = process.communicate(timeout=60)
        assert time.monotonic() - begin < 10
    assert process.returncode == 0, printed
    assert f"stopped by {number.name}" in printed
    assert (tmp_path / "saved-0").exists()
    assert (tmp_path / "saved-1").exists()
    found = outcomes("slow", tmp_path)
    assert [(outcome.state, outcome.error) for outcome in found[:2]] == [
        (State.STOPPED, f"stopped by {number.name}")
    ] * 2
    assert states("slow", tmp_path)[2:] == ["waiting", "waiting"]


def test_a_study_uses_a_cluster_that_is_there_and_leaves_it_running(tmp_path):
    with started("head", tmp_path) as head:
        address, token = head.stdout.readline().split()
        given = {"RAY_ADDRESS": address, "RAY_AUTH_MODE": "token"}
        run("parabola", tmp_path, **given, RAY_AUTH_TOKEN=token)
        assert states("parabola", tmp_path) == ["complete"] * 24
        assert head.poll() is None
        (tmp_path / "other").mkdir()
        with started("parabola", tmp_path / "other", **given, RAY_AUTH_TOKEN="0" * 64) as refused:
            printed, _ = refused.communicate(timeout=60)
        assert f"ConfigError: ray.address={address}: no connection to a Ray cluster: Failed to connect" in printed
        head.stdin.close()
        assert head.wait(30) == 0
    assert processes_of(tmp_path) == []


def test_the_cluster_of_a_study_listens_at_home_only_and_is_gone_afterwards(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    run("listening", tmp_path, HOME=str(home))  # which says itself that no process is left
    said = json.loads((tmp_path / "listening.json").read_text())
    assert said["listens"] == ["127.0.0.1"]
    assert said["processes"] > 4
    assert said["place"] == os.getcwd()
    assert list(home.iterdir()) == []
    assert processes_of(tmp_path) == []
