"""Rows C1 to C4: the server is killed, stays away, or freezes; the training does not wait, and no point is lost.

The training is this process, its uploader a real one; the server is a stand-in, and in the long form MLflow's own.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import suppress

import pytest
from command_runs import OVERRIDES, TRACKED
from fake_mlflow import FakeServer
from record_helpers import metric_rows, pairs, state_of, status_of

from accelerator.cli.app import main
from accelerator.runtime.journal import Journal, read
from accelerator.tracking.tracker import Tracker

STEPS = 1000


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    before = dict(os.environ)
    for name in ("MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def server(tmp_path):
    running = FakeServer(tmp_path)
    yield running
    with suppress(OSError):
        running.send(signal.SIGCONT)
        running.kill()


@pytest.fixture
def closed_port():
    """Where nobody listens, for as long as the test runs."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def train_through(journal, down, up, outage, pause=0.004):
    """Log 1000 points; the server goes after 300, and is back ``outage`` seconds later. Returns how long we waited."""
    blocked, back = 0.0, None
    for step in range(STEPS):
        begin = time.perf_counter()
        journal.metric("loss", 1 / (step + 1), step)
        journal.flush_if_due()
        blocked += time.perf_counter() - begin
        time.sleep(pause)
        if step == 300:
            down()
            back = threading.Timer(outage, up)
            back.start()
    back.join()
    return blocked


def wait_for_points(server, at_least):
    end = time.monotonic() + 60
    while len(server.points().get("loss", [])) < at_least:
        assert time.monotonic() < end, "no point has arrived"
        time.sleep(0.05)


def check_outage(tmp_path, server, down, up, outage, record_property):
    with Journal(tmp_path / "run" / "journal.jsonl") as journal:
        tracker = Tracker(tmp_path / "run", journal=journal, uri=server.uri)
        tracker.start()
        journal.metric("loss", 0.5, -1)
        journal.flush()
        end = time.monotonic() + 60
        while not server.file.exists() or "runs/create" not in server.file.read_text():
            assert time.monotonic() < end, (tmp_path / "run" / "tracking.log").read_text()
            time.sleep(0.05)
        wait_for_points(server, 1)
        blocked = train_through(journal, down, up, outage)
        run = tracker.finish("FINISHED", timeout=60)
    assert (run.uploaded, run.spooled_points, run.error) == (True, 0, None)
    assert server.points() == {"loss": [(-1, 0.5), *((step, 1 / (step + 1)) for step in range(STEPS))]}
    assert blocked < 1.0
    record_property("measured", f"0 of 1,000 points lost or doubled, training waited {blocked * 1e3:.0f} ms in all")


def test_c1_server_killed_and_back(tmp_path, server, record_property):
    check_outage(tmp_path, server, server.kill, server.start, 2.0, record_property)


@pytest.mark.faults
def test_c4_server_frozen(tmp_path, server, record_property):
    def freeze():
        server.send(signal.SIGSTOP)

    def thaw():
        server.send(signal.SIGCONT)

    # Longer than one attempt of the uploader's may take (3 s): it gives up, and tries again.
    check_outage(tmp_path, server, freeze, thaw, 4.0, record_property)


class RealServer:
    """MLflow's own, in a process group of its own."""

    def __init__(self, folder, port):
        self.folder, self.port = folder, port
        self.start()

    def start(self):
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db", "--workers", "1"]
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, env=environment, cwd=self.folder, stdout=log, stderr=log, start_new_session=True
            )
        end = time.monotonic() + 120
        while True:
            with suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=1) as answer:
                assert answer.status == 200
                return
            assert time.monotonic() < end, (self.folder / "server.log").read_text()
            time.sleep(0.2)

    def send(self, number):
        os.killpg(self.process.pid, number)

    def kill(self):
        self.send(signal.SIGKILL)
        self.process.wait()

    @property
    def uri(self):
        return f"http://127.0.0.1:{self.port}"


@pytest.mark.faults
@pytest.mark.parametrize("fault", ["killed", "frozen"])
def test_c1_the_real_server_killed_or_frozen_for_15_seconds(tmp_path, fault, record_property):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = RealServer(tmp_path, port)
    try:
        with Journal(tmp_path / "run" / "journal.jsonl") as journal:
            tracker = Tracker(tmp_path / "run", journal=journal, uri=server.uri, patience=60.0)
            tracker.start()
            time.sleep(5)
            down = server.kill if fault == "killed" else lambda: server.send(signal.SIGSTOP)
            up = server.start if fault == "killed" else lambda: server.send(signal.SIGCONT)
            blocked = train_through(journal, down, up, 15.0, pause=0.02)
            run = tracker.finish("FINISHED", timeout=120)
        assert (run.uploaded, run.error) == (True, None)
        assert metric_rows(tmp_path / "mlflow.db", tmp_path / "run") == [
            ("loss", step, 1 / (step + 1)) for step in range(STEPS)
        ]
        assert status_of(tmp_path / "mlflow.db", run.run_id) == "FINISHED"
        assert blocked < 1.0
        record_property("measured", f"MLflow's own server {fault} for 15 s: training waited {blocked * 1e3:.0f} ms")
    finally:
        with suppress(OSError):
            server.send(signal.SIGCONT)
            server.kill()


def test_c2_what_has_not_arrived_is_told_and_the_training_ends_well(
    tmp_path, monkeypatch, closed_port, capfd, record_property
):
    monkeypatch.chdir(tmp_path)
    uri, run_dir = f"http://127.0.0.1:{closed_port}", tmp_path / "outputs" / "run"
    more = [f"tracking.uri={uri}", "tracking.timeout=3", f"hydra.run.dir={run_dir}"]
    assert main(["train", *OVERRIDES, *TRACKED, *more]) == 0
    said = capfd.readouterr().err
    assert f"record: {uri} does not answer (connection refused); the run goes on; its record is kept" in said
    points = sum("key" in line for line, _ in read(run_dir / "journal.jsonl"))
    assert points > 6
    assert f"record: {points} points spooled in {run_dir / 'journal.jsonl'} (" in said
    assert "send them later with: accelerator tracking sync outputs/run" in said
    record_property("measured", f"exit code 0, {points} of {points} points spooled")


def test_c3_a_server_that_never_comes_back_costs_the_wait_and_the_replay_is_idempotent(
    tmp_path, monkeypatch, closed_port, capfd
):
    monkeypatch.chdir(tmp_path)
    run_dir, store = tmp_path / "outputs" / "run", tmp_path / "later.db"
    uri = f"http://127.0.0.1:{closed_port}"
    with Journal(run_dir / "journal.jsonl") as journal:
        tracker = Tracker(run_dir, journal=journal, uri=uri, patience=0.0)
        tracker.start()
        journal.event("params", values={"lr": 0.1})
        for step in range(300):
            journal.metric("loss", step, step)
        run = tracker.finish("FINISHED", timeout=60)
    assert (run.run_id, run.link, run.uploaded, run.spooled_points) == (None, None, False, 300)
    assert run.error == f"{uri} does not answer (connection refused)"
    assert sum("key" in line for line, _ in read(run_dir / "journal.jsonl")) == 300

    assert main(["tracking", "sync"]) == 1
    assert capfd.readouterr().out == f"waiting  outputs/run  300 points left; {run.error}\n"
    for sent in ("300 points sent; ", ""):
        assert main(["tracking", "sync", "outputs", "--uri", f"sqlite:///{store}"]) == 0
        run_id = state_of(run_dir).run_id
        assert capfd.readouterr().out == f"arrived  outputs/run  {sent}run {run_id} is FINISHED\n"
        assert metric_rows(store, run_dir) == [("loss", step, step) for step in range(300)]
        assert pairs(store, "params", run_id) == {"lr": "0.1"}
        assert status_of(store, run_id) == "FINISHED"
    assert main(["tracking", "status"]) == 0
    assert capfd.readouterr().out == "nothing is left to send: 1 run looked at\n"
