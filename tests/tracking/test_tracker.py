import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from record_helpers import metric_rows, pairs, prepare, query, state_of, status_of, uri_of

from accelerator.runtime.journal import Journal
from accelerator.tracking import bridge, spool
from accelerator.tracking.tracker import TrackedRun, Tracker

CANARY = "CANARY-51f0c2"


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A database that four processes make at once; the tests below write into it too."""
    folder = tmp_path_factory.mktemp("fresh")
    path = folder / "mlflow.db"
    runs = []
    for number in range(4):
        journal = Journal(folder / f"run{number}" / "journal.jsonl")
        tracker = Tracker(folder / f"run{number}", journal=journal, uri=uri_of(path), experiment="together")
        tracker.start()
        journal.metric("loss", number, number)
        runs.append((journal, tracker))
    ended = [tracker.finish("FINISHED") for _, tracker in runs]
    for journal, _ in runs:
        journal.close()
    assert [run.error for run in ended] == [None] * 4
    return path


def processes_of(run_dir):
    """Ids of the uploaders that work in a run directory."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            ours = b"accelerator.tracking.uploader" in (entry / "cmdline").read_bytes()
            if ours and (entry / "cwd").resolve() == Path(run_dir).resolve():
                found.append(int(entry.name))
    return found


def wait_until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.mark.faults
def test_four_runs_start_on_a_fresh_database_and_share_one_experiment(store):
    found = query(store, "select e.name, r.status from runs r join experiments e using (experiment_id)")
    assert [row for row in found if row[0] == "together"][:4] == [("together", "FINISHED")] * 4
    assert query(store, "select count(*) from experiments where name = 'together'") == [(1,)]
    # MLflow's own experiment 0 keeps its files beside the database too, not in some run's directory.
    own = query(store, "select artifact_location from experiments where experiment_id = 0")
    assert own == [(str(store.parent / "mlartifacts" / "0"),)]
    assert [path.name for path in store.parent.glob("mlflow.db*") if path.suffix != ".lock"] == ["mlflow.db"]


def test_a_run_is_recorded_beside_the_training_and_no_secret_reaches_any_file(tmp_path, store):
    run_dir = tmp_path / "run"
    config = {"data": {"api_key": CANARY, "url": f"http://u:{CANARY}@h/"}, "model": {"width": 64}, "seed": 3}
    argv = ["accelerator", "train", "--token", CANARY, f"data.api_key={CANARY}"]
    with Journal(run_dir / "journal.jsonl") as journal:
        tracker = Tracker(run_dir, journal=journal, uri=uri_of(store), experiment="secrets", run_name="r")
        tracker.start()
        started = time.monotonic()
        params, tags = bridge.describe(config, overrides=argv[4:], argv=argv, tags={"seed": 3})
        journal.event("params", values=params)
        journal.event("tags", values=tags)
        for path in bridge.write_files(run_dir / "record", config, overrides=argv[4:]):
            journal.event("artifact", path=str(path))
        # Signals meant for the job reach the uploader too, and must not end it while the training lives.
        wait_until(lambda: (state := state_of(run_dir)) and state.run_id)
        for pid in processes_of(run_dir):
            os.kill(pid, signal.SIGTERM)
            os.kill(pid, signal.SIGINT)
        for step in range(100):
            journal.metric("loss", step, step)
        run = tracker.finish("FAILED")
        assert tracker.finish("FINISHED") is run
    assert time.monotonic() - started < 60
    assert run == TrackedRun(run.run_id, run.experiment_id, uri_of(store), uploaded=True, spooled_points=0)
    assert run.link.endswith(f"/#/experiments/{run.experiment_id}/runs/{run.run_id}?workflowType=machine_learning")
    assert run.ui_command is not None
    assert run.ui_command.endswith(f"accelerator mlflow-ui --uri {uri_of(store)}")
    assert status_of(store, run.run_id) == "FAILED"
    assert pairs(store, "params", run.run_id) == {
        "data.api_key": "***",
        "data.url": "http://***@h/",
        "model.width": "64",
        "seed": "3",
    }
    assert pairs(store, "tags", run.run_id)["seed"] == "3"
    assert metric_rows(store, run_dir) == [("loss", step, step) for step in range(100)]
    assert (store.parent / "mlartifacts" / run.run_id / "artifacts" / "config.yaml").exists()
    everywhere = [path for root in (run_dir, store.parent) for path in root.rglob("*") if path.is_file()]
    assert len(everywhere) > 8
    assert [path for path in everywhere if CANARY.encode() in path.read_bytes()] == []


def test_a_run_whose_training_is_killed_keeps_what_was_flushed_and_is_killed(tmp_path, store):
    script = (
        "import os, pathlib, signal, sys, time\n"
        "from accelerator.runtime.journal import Journal\n"
        "from accelerator.tracking.tracker import Tracker\n"
        "run_dir = pathlib.Path(sys.argv[1])\n"
        "journal = Journal(run_dir / 'journal.jsonl')\n"
        "tracker = Tracker(run_dir, journal=journal, uri=sys.argv[2])\n"
        "tracker.start()\n"
        "for step in range(500): journal.metric('loss', step, step)\n"
        "journal.flush()\n"
        "if os.fork() == 0:\n"  # a data worker that outlives its parent holds none of the uploader's pipe
        "    print(os.getpid(), flush=True)\n"
        "    time.sleep(120)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, tmp_path, uri_of(store)], stdout=subprocess.PIPE) as process:
        worker = int(process.stdout.readline())
        try:
            assert process.wait() == -signal.SIGKILL
            wait_until(lambda: (state := state_of(tmp_path)) and state.closed)
            wait_until(lambda: not processes_of(tmp_path))
        finally:
            os.kill(worker, signal.SIGKILL)
    assert state_of(tmp_path).closed == "KILLED"
    assert status_of(store, state_of(tmp_path).run_id) == "KILLED"
    assert metric_rows(store, tmp_path) == [("loss", step, step) for step in range(500)]


def test_an_uploader_that_hangs_is_stopped_within_the_bound(tmp_path, store):
    with Journal(tmp_path / "journal.jsonl") as journal:
        tracker = Tracker(tmp_path, journal=journal, uri=uri_of(store))
        tracker.start()
        journal.metric("loss", 1, 1)
        wait_until(lambda: processes_of(tmp_path))
        os.kill(processes_of(tmp_path)[0], signal.SIGSTOP)
        began = time.monotonic()
        run = tracker.finish("FINISHED", timeout=0.3)
        assert 0.3 <= time.monotonic() - began < 5
    assert (run.uploaded, run.spooled_points) == (False, 1)
    assert run.error == "the uploader was not done within 0.3 s"
    assert processes_of(tmp_path) == []


@pytest.mark.slow
def test_an_uploader_that_something_killed_is_followed_by_another_at_the_end(tmp_path, store):
    with Journal(tmp_path / "journal.jsonl") as journal:
        tracker = Tracker(tmp_path, journal=journal, uri=uri_of(store))
        tracker.start()
        journal.metric("loss", 1, 1)
        journal.flush()
        wait_until(lambda: (state := state_of(tmp_path)) and state.offset > 0)
        for pid in processes_of(tmp_path):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: tracker._process.poll() is not None)
        journal.metric("loss", 2, 2)
        run = tracker.finish("FINISHED")
    assert (run.uploaded, run.spooled_points, run.error) == (True, 0, None)
    assert metric_rows(store, tmp_path) == [("loss", 1, 1), ("loss", 2, 2)]
    assert status_of(store, run.run_id) == "FINISHED"
    started = query(
        store, "select count(*) from tags where key = 'accelerator.key' and value = ?", tracker.settings.key
    )
    assert started == [(1,)]


def test_the_training_process_imports_no_mlflow_for_its_record():
    code = (
        "import sys, accelerator.tracking, accelerator.tracking.tracker, accelerator.tracking.bridge\n"
        "from accelerator.tracking import preflight, backlog, sync\n"
        "assert not {'mlflow', 'sqlalchemy', 'requests', 'psutil', 'torch'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_uploader_that_cannot_be_started_is_told_and_training_goes_on(tmp_path, store, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    with Journal(tmp_path / "run" / "journal.jsonl") as journal:
        tracker = Tracker(tmp_path / "run", journal=journal, uri=uri_of(store))
        tracker.start()
        journal.metric("loss", 1, 1)
        run = tracker.finish("FINISHED")
    assert (run.run_id, run.uploaded, run.spooled_points) == (None, False, 1)
    assert run.error.startswith("the uploader did not start: ")
    assert "no-python" in run.error


def test_an_uploader_does_not_outlive_the_training_for_long_whatever_it_hangs_in(tmp_path):
    prepare(tmp_path, "unused", uri="http://127.0.0.1:9", patience=1e9).close()
    script = (
        "import pathlib, sys, os\n"
        "from accelerator.tracking import lifeline, uploader\n"
        "lifeline.OUTLIVES = 1\n"
        "uploader.upload(pathlib.Path(sys.argv[1]), parent=os.getppid())\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    process.stdin.close()
    assert process.wait(30) == -signal.SIGALRM


def test_credentials_in_the_uri_are_not_written_down(tmp_path):
    with Journal(tmp_path / "journal.jsonl") as journal:
        tracker = Tracker(tmp_path, journal=journal, uri=f"http://bob:{CANARY}@127.0.0.1:9", patience=0.0)
        tracker.start()
        run = tracker.finish("KILLED", timeout=30)
    assert run.uri == "http://127.0.0.1:9"
    assert CANARY not in repr(run)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {spool.SETTINGS, spool.LOG} <= {path.name for path in files}
    assert [path for path in files if CANARY.encode() in path.read_bytes()] == []


def test_a_resumed_directory_keeps_the_name_its_run_is_found_by(tmp_path, monkeypatch):
    prepare(tmp_path, tmp_path / "mlflow.db").close()
    first = spool.load(tmp_path / spool.SETTINGS, spool.Settings)
    monkeypatch.setenv("MLFLOW_RUN_ID", "f" * 32)
    prepare(tmp_path, tmp_path / "mlflow.db").close()
    second = spool.load(tmp_path / spool.SETTINGS, spool.Settings)
    assert (second.key, second.started) == (first.key, first.started)
    assert (first.resumed, second.resumed) == (False, True)
    assert (first.adopt, second.adopt) == (None, "f" * 32)
