"""Row C6: training and uploader are both killed: at most a second is lost, and the next start marks the run."""

import os
import signal
import subprocess
import sys
import time

import pytest
from record_helpers import metric_rows, prepare, state_of, status_of, uri_of

from accelerator.runtime.journal import Journal, read
from accelerator.runtime.run_directory import owned
from accelerator.tracking import backlog, lifeline, spool, uploader
from accelerator.tracking.tracker import Tracker

# Logs a point each millisecond and tells the newest through a pipe, as a training calls the journal.
TRAINING = """
import os, pathlib, sys, time
from accelerator.runtime.journal import Journal
from accelerator.runtime.run_directory import owned
from accelerator.tracking.tracker import Tracker
run_dir = pathlib.Path(sys.argv[1])
with owned(run_dir), Journal(run_dir / "journal.jsonl") as journal:
    if len(sys.argv) > 2:
        tracker = Tracker(run_dir, journal=journal, uri=sys.argv[2])
        tracker.start()
        print(tracker._process.pid, flush=True)
    step = 0
    while True:
        journal.metric("loss", step, step)
        journal.flush_if_due()
        os.write(1, b"%d %f\\n" % (step, time.time()))
        step += 1
        time.sleep(0.001)
"""


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    before = dict(os.environ)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.setattr(uploader, "POLL", 0.01)
    yield
    os.environ.clear()
    os.environ.update(before)


def start(run_dir, *store):
    command = [sys.executable, "-c", TRAINING, run_dir, *store]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def kept_and_lost(process, run_dir):
    """The steps that are in the journal, how many more the training had logged, and in how many seconds."""
    told, at = process.stdout.read().split()[-2:]
    lines = [line for line, _ in read(run_dir / "journal.jsonl") if "key" in line]
    kept = [line["step"] for line in lines]
    assert kept == list(range(len(kept)))
    return kept, int(told) + 1 - len(kept), float(at) - lines[-1]["time"] / 1000


def wait_until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_c6_at_most_a_second_of_points_is_lost(tmp_path, record_property):
    with start(tmp_path) as training:
        wait_until(lambda: (tmp_path / "journal.jsonl").exists())
        time.sleep(1.0)
        training.kill()
        kept, lost, seconds = kept_and_lost(training, tmp_path)
    record_property("measured", f"the last {seconds:.2f} s lost, {lost} of {len(kept) + lost} points")
    assert seconds < 1.0


class AtWork(lifeline.Lifeline):
    """A training that goes on until it is killed together with its uploader."""

    def __init__(self):
        self.parent, self.cut = os.getpid(), False

    def ended(self, wait=0.0):
        return False


def killed_run(run_dir, store, points=50):
    """A run as it is left when training and uploader are killed: half has arrived, and MLflow says RUNNING."""
    journal = prepare(run_dir, store)
    for step in range(points // 2):
        journal.metric("loss", step, step)
    journal.flush()
    settings = spool.load(run_dir / spool.SETTINGS, spool.Settings)
    working = uploader.Uploader(run_dir, settings, settings.uri, AtWork())
    working.run = working._connect(search=False)
    working._drain(working.run)
    for step in range(points // 2, points):
        journal.metric("loss", step, step)
    journal.close()
    with (run_dir / "journal.jsonl").open("ab") as file:
        file.write(b'{"key":"loss","val')  # what was being written
    return working.run.run_id


def test_c6_the_next_start_marks_the_orphan_and_sends_what_it_had_left(tmp_path, monkeypatch):
    store, runs = tmp_path / "mlflow.db", tmp_path / "outputs" / "2026-11-20"
    orphan = killed_run(runs / "1", store)
    assert status_of(store, orphan) == "RUNNING"
    assert backlog.look(runs / "1").condition == "orphan"
    at_work = prepare(runs / "2", store)  # another that lives: its training has locked its folder
    started = []
    monkeypatch.setattr(uploader, "_upload_beside", lambda found: started.extend(found))
    with owned(runs / "2"):
        journal = prepare(runs / "3", store)
        settings = spool.load(runs / "3" / spool.SETTINGS, spool.Settings)
        journal.event("status", value="FINISHED")
        journal.close()
        assert uploader.Uploader(runs / "3", settings, settings.uri, AtWork()).upload() == uploader.DONE
        assert started == [runs / "1"]
        assert backlog.look(runs / "2").condition == "running"
    at_work.close()

    assert uploader.main(["--briefly", str(runs / "1")]) == uploader.DONE
    signal.alarm(0)
    assert status_of(store, orphan) == "KILLED"
    assert metric_rows(store, runs / "1") == [("loss", step, step) for step in range(50)]
    assert backlog.look(runs / "1").condition == "sent"
    assert backlog.left_behind(runs / "3", uri_of(store)) == [runs / "2"]


@pytest.mark.faults
def test_c6_whole_processes(tmp_path, record_property):
    """The same with a real training, a real uploader, and a real next start."""
    store, runs = tmp_path / "mlflow.db", tmp_path / "outputs"
    with start(runs / "1", uri_of(store)) as training:
        child = int(training.stdout.readline())
        wait_until(lambda: (state := state_of(runs / "1")) and state.run_id)
        time.sleep(1.0)
        os.kill(child, signal.SIGKILL)
        training.kill()
        kept, lost, seconds = kept_and_lost(training, runs / "1")
    run_id = state_of(runs / "1").run_id
    assert status_of(store, run_id) == "RUNNING"
    with Journal(runs / "2" / "journal.jsonl") as journal:
        tracker = Tracker(runs / "2", journal=journal, uri=uri_of(store))
        tracker.start()
        wait_until(lambda: status_of(store, run_id) == "KILLED")
        assert tracker.finish("FINISHED").uploaded
    assert metric_rows(store, runs / "1") == [("loss", step, step) for step in kept]
    assert seconds < 1.0
    record_property("measured", f"whole processes: the last {seconds:.2f} s lost, {lost} points; the orphan was marked")
