"""Row F2: a trial whose process is killed has failed within two heartbeats, and is tried again as often as allowed."""

import os
import signal
import time
from pathlib import Path

import fault_parts
import pytest
from study_runs import seconds_since, told_in, trials_in, tune

HEARTBEAT = 0.5  # seconds


def dies(moments, number, times):
    """Come to its end, so many times in all, by a signal of that number."""

    def action():
        if moments.exists() and len(moments.read_text().split()) >= times:
            return
        with moments.open("a") as file:
            file.write(f"{time.time()}\n")
        os.kill(os.getpid(), number)

    return action


def run(folder, monkeypatch, number, times, *more):
    moments = folder / "moments"
    monkeypatch.setattr(fault_parts, "FAULTS", {"step_end": (4, dies(moments, number, times))})
    monkeypatch.setattr("accelerator.tuning.pictures.draw", lambda *_: [])
    code = tune(folder / "study", "tune.trials=3", f"tune.heartbeat={HEARTBEAT}", *more)
    return code, [float(moment) for moment in moments.read_text().split()]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("storage", ["journal", pytest.param("sqlite:///{}/study.db", marks=pytest.mark.faults)])
def test_f2_it_fails_within_two_heartbeats_and_is_tried_again(tmp_path, monkeypatch, record_property, number, storage):
    storage = storage.format(tmp_path)
    code, (moment,) = run(tmp_path, monkeypatch, number, 1, f"tune.storage={storage}")
    assert code == 0
    trials = told_in(tmp_path / "study")["trials"]
    assert [trial["state"] for trial in trials] == ["failed", "complete", "complete", "complete"]
    assert [trial["retry_of"] for trial in trials] == [None, 0, None, None]
    assert trials[1]["values"] == trials[0]["values"]
    took = seconds_since(moment, trials_in(tmp_path / "study", storage)[0])
    record_property("measured", f"{signal.Signals(number).name} noticed after {took / HEARTBEAT:.1f} heartbeats")
    assert took < (2.5 if number == signal.SIGSTOP else 2) * HEARTBEAT + 2  # for a machine that is busy


@pytest.mark.faults
def test_f2_it_is_given_up_after_as_many_attempts_as_allowed(tmp_path, monkeypatch, capfd):
    code, moments = run(tmp_path, monkeypatch, signal.SIGKILL, 3, "tune.retries=2")
    assert (code, len(moments)) == (0, 3)
    trials = told_in(tmp_path / "study")["trials"]
    assert [(trial["state"], trial["retry_of"]) for trial in trials] == [
        *(("failed", None), ("failed", 0), ("failed", 1)),
        *(("complete", None), ("complete", None)),
    ]
    assert "its process was killed by SIGKILL" in capfd.readouterr().out


@pytest.mark.faults
def test_f2_its_record_says_failed(tmp_path, monkeypatch):
    from mlflow.tracking import MlflowClient

    monkeypatch.chdir(tmp_path)
    tracked = ["tracking.enabled=true", f"tracking.uri=sqlite:///{tmp_path}/mlflow.db", "tracking.experiment=faults"]
    code, _ = run(tmp_path, monkeypatch, signal.SIGKILL, 1, *tracked, "tune.trials=1")
    assert code == 0
    runs = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").search_runs(["1"])
    states = {run.data.tags.get("trial"): run.info.status for run in runs}
    assert states == {None: "FINISHED", "0": "FAILED", "1": "FINISHED"}
    (dead,) = [run for run in runs if run.data.tags.get("trial") == "0"]
    assert dead.data.tags["error"].startswith("its process was killed by SIGKILL")
    assert Path(dead.data.tags["run_dir"]) == tmp_path / "study/0"
