"""One uploader for many runs."""

import os
import time

import pytest
from record_helpers import pairs, prepare, query, state_of, status_of, uri_of

from accelerator.tracking import spool
from accelerator.tracking.fleet import Fleet, FleetTracker, arrived, say_dead


def fleet_for(folder, store):
    return Fleet(folder, uri_of(store))


def tracked(run_dir, store, fleet, status, **options):
    """A run that announces itself, writes, and ends."""
    journal = prepare(run_dir, store)
    tracker = FleetTracker(run_dir, fleet=fleet, journal=journal, uri=uri_of(store), **options)
    tracker.start()
    journal.event("params", values={"model.width": 64})
    journal.metric("loss", 0.5, 1)
    result = tracker.finish(status)
    journal.close()
    assert result.uploaded
    return run_dir


def test_every_run_that_announces_itself_arrives_also_from_a_fork(tmp_path):
    store = tmp_path / "mlflow.db"
    parent = tracked(tmp_path / "parent", store, fleet := fleet_for(tmp_path, store), "FINISHED")
    if (pid := os.fork()) == 0:
        try:
            for number in range(3):
                status = "FAILED" if number == 1 else "FINISHED"
                tracked(tmp_path / f"{number}", store, fleet, status, parent=parent, run_name=f"trial {number}")
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    runs = [tmp_path / f"{number}" for number in range(3)]
    assert fleet.finish([parent, *runs]) == []
    assert all(map(arrived, runs))
    ids = [state_of(run).run_id for run in runs]
    assert [status_of(store, run_id) for run_id in ids] == ["FINISHED", "FAILED", "FINISHED"]
    for run_id in ids:
        assert pairs(store, "params", run_id) == {"model.width": "64"}
        assert pairs(store, "tags", run_id)["mlflow.parentRunId"] == state_of(parent).run_id
    names = query(store, "select name from runs where run_uuid in (?, ?, ?) order by name", *ids)
    assert [name for (name,) in names] == ["trial 0", "trial 1", "trial 2"]


@pytest.mark.parametrize(("stopped", "status", "state"), [(False, "FAILED", "failed"), (True, "KILLED", "stopped")])
def test_a_run_whose_process_died_is_closed_in_its_stead(tmp_path, stopped, status, state):
    store = tmp_path / "mlflow.db"
    fleet = fleet_for(tmp_path, store)
    run_dir = tmp_path / "run"
    journal = prepare(run_dir, store)
    FleetTracker(run_dir, fleet=fleet, journal=journal, uri=uri_of(store)).start()
    journal.close()
    assert not arrived(run_dir)
    say_dead(run_dir, run_dir / "journal.jsonl", "killed by SIGKILL", stopped=stopped)
    assert fleet.finish([run_dir]) == []
    run_id = state_of(run_dir).run_id
    assert status_of(store, run_id) == status
    assert pairs(store, "tags", run_id)["error"] == "killed by SIGKILL"
    assert pairs(store, "tags", run_id)["trial.state"] == state


def test_what_cannot_arrive_is_told_and_waits_in_the_journal(tmp_path):
    """Nobody listens on the discard port."""
    fleet = Fleet(tmp_path, "http://127.0.0.1:9")
    run_dir = tmp_path / "run"
    journal = prepare(run_dir, tmp_path / "mlflow.db")
    tracker = FleetTracker(run_dir, fleet=fleet, journal=journal, uri="http://127.0.0.1:9", patience=0.0)
    tracker.start()
    tracker.finish("FINISHED")
    journal.close()
    begin = time.monotonic()
    assert fleet.finish([run_dir, tmp_path / "no run"], stalled=20) == [run_dir]
    assert time.monotonic() - begin < 20
    settings = spool.load(run_dir / spool.SETTINGS, spool.Settings)
    assert spool.unsent(run_dir / settings.journal, state_of(run_dir)).status == "FINISHED"
