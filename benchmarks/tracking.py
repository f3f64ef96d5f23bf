"""The record: what a metric point costs the training, what an outage or a kill costs the record, how fast it starts."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import torch

from accelerator.runtime.journal import Journal, read
from accelerator.tracking import bridge, spool
from accelerator.tracking.tracker import TrackedRun, Tracker
from benchmarks.measure import interleaved

POINTS, WORKERS, OUTAGE, KILLS, KEYS = 10_000, 16, 15.0, 5, 500
BAR_POINT, BAR_LOST_SECONDS, BAR_BRIDGE = 5.0, 1.0, 0.150  # µs a point, s, s

# Logs a point each millisecond as a training does, and tells each, with its time, through a pipe.
KILLED = """
import os, pathlib, sys, time
from accelerator.runtime.journal import Journal
from accelerator.tracking.tracker import Tracker
run_dir = pathlib.Path(sys.argv[1])
journal = Journal(run_dir / "journal.jsonl")
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


def run(rounds: int = 9) -> str:
    """The section of the report, as Markdown."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with _server(folder) as server:
            points = _points(folder, server, rounds)
            outage = _outage(folder, server)
        rows = [*points, outage, _kills(folder), _workers(folder), _bridge(folder, rounds), _import()]
    return "\n".join(
        [
            f"Points: {POINTS:,} of a step each, as a training logs them (`Journal.metric`, `flush_if_due`), with the "
            f"uploader at work beside; {rounds} interleaved rounds after a warm-up, median (least–largest). The server "
            "is `mlflow server` on SQLite, one worker. *Arrived* is the time from the first point until the last was "
            "in the store and the run closed.",
            "",
            "| | measured | bar |",
            "|---|---|---|",
            *rows,
        ]
    )


def _points(folder: Path, server: Server, rounds: int) -> list[str]:
    numbers = iter(range(10**6))
    arrived: dict[str, list[float]] = {}

    def candidate(name: str, uri: str | None) -> Callable[[], float]:
        def measure() -> float:
            seconds, whole = _logged(folder / f"points-{next(numbers)}", uri)
            arrived.setdefault(name, []).append(whole)
            return seconds

        return measure

    stores = {"the journal alone": None, "SQLite": f"sqlite:///{folder}/points.db", "a server": server.uri}
    timings = interleaved({name: candidate(name, uri) for name, uri in stores.items()}, rounds)
    rows = []
    for name, uri in stores.items():
        costs = [seconds / POINTS * 1e6 for seconds in timings.rounds[name]]
        whole = f"; arrived within {statistics.median(arrived[name]):.1f} s" if uri else ""
        bar = f"≤ {BAR_POINT:g} µs" if uri else ""
        cost = f"{statistics.median(costs):.2f} µs ({min(costs):.2f}–{max(costs):.2f})"
        rows.append(f"| a point, {name} | {cost}{whole} | {bar} |")
    return rows


def _logged(run_dir: Path, uri: str | None) -> tuple[float, float]:
    """Seconds the training thread spent on the points, and until all had arrived."""
    with Journal(run_dir / "journal.jsonl") as journal:
        tracker = None if uri is None else Tracker(run_dir, journal=journal, uri=uri, experiment="points")
        if tracker is not None:
            tracker.start()
            _wait_for(lambda: (spool.load(run_dir / spool.STATE, spool.State) or spool.State()).run_id)
        loss = torch.tensor(0.25)
        begin = time.perf_counter()
        for step in range(POINTS):
            journal.metric("train/loss", loss, step)
            journal.flush_if_due()
        journal.flush()
        seconds = time.perf_counter() - begin
        if tracker is not None:
            _whole(tracker.finish("FINISHED"))
        return seconds, time.perf_counter() - begin


def _outage(folder: Path, server: Server) -> str:
    """A server that is killed while a run logs, and is back later."""
    run_dir, blocked = folder / "outage", 0.0
    with Journal(run_dir / "journal.jsonl") as journal:
        tracker = Tracker(run_dir, journal=journal, uri=server.uri, experiment="outage", patience=60.0)
        tracker.start()
        _wait_for(lambda: (spool.load(run_dir / spool.STATE, spool.State) or spool.State()).run_id)
        back: threading.Timer | None = None
        for step in range(1000):
            begin = time.perf_counter()
            journal.metric("loss", step, step)
            journal.flush_if_due()
            blocked += time.perf_counter() - begin
            time.sleep(1.2 * OUTAGE / 1000)
            if step == 100:
                server.kill()
                back = threading.Timer(OUTAGE, server.start)
                back.start()
        assert back is not None
        back.join()
        done = _whole(tracker.finish("FINISHED", timeout=120))
    stored = _stored(server.database, done.run_id)
    lost, doubled = 1000 - len(set(stored)), len(stored) - len(set(stored))
    return (
        f"| server killed, back {OUTAGE:g} s later: of 1,000 points | {lost} lost, {doubled} doubled, training waited "
        f"{blocked * 1e3:.0f} ms in all | 0 lost |"
    )


def _kills(folder: Path) -> str:
    """Training and uploader killed together; what the journal holds is what can still be sent."""
    seconds = []
    for number in range(KILLS):
        run_dir = folder / f"killed-{number}"
        command = [sys.executable, "-c", KILLED, str(run_dir), f"sqlite:///{folder}/points.db"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            _wait_for(lambda folder=run_dir: (folder / "journal.jsonl").exists())
            time.sleep(1.0 + 0.07 * number)
            assert process.stdout is not None
            os.kill(int(process.stdout.readline()), signal.SIGKILL)
            process.kill()
            at = float(process.stdout.read().split()[-1])
        last = [line["time"] for line, _ in read(run_dir / "journal.jsonl") if line and "key" in line][-1]
        seconds.append(max(0.0, at - last / 1000))
    return (
        f"| SIGKILL at 1,000 points a second, {KILLS} times: points lost | the last {statistics.median(seconds):.2f} s "
        f"(at most {max(seconds):.2f}) | ≤ {BAR_LOST_SECONDS:g} s |"
    )


def _workers(folder: Path) -> str:
    """Runs that all start at once on a database that is not there yet."""
    begin = time.perf_counter()
    runs = []
    for number in range(WORKERS):
        run_dir = folder / "workers" / str(number)
        journal = Journal(run_dir / "journal.jsonl")
        tracker = Tracker(run_dir, journal=journal, uri=f"sqlite:///{folder}/fresh.db", experiment="workers")
        tracker.start()
        journal.metric("loss", number, number)
        runs.append((journal, tracker))
    good = 0
    for journal, tracker in runs:
        good += tracker.finish("FINISHED", timeout=300).uploaded
        journal.close()
    seconds = time.perf_counter() - begin
    return f"| {WORKERS} runs start on a fresh database | {good} of {WORKERS}, in {seconds:.1f} s | {WORKERS} |"


def _bridge(folder: Path, rounds: int) -> str:
    """A config of 500 keys, to params, tags and files."""
    config = {
        f"section{i}": {f"key{j}": {"value": i * j, "name": f"n{j}"} for j in range(KEYS // 20)} for i in range(10)
    }

    def measure() -> float:
        begin = time.perf_counter()
        bridge.describe(config, unresolved=config, argv=["accelerator", "train"])
        bridge.write_files(folder / "bridge", config, unresolved=config)
        return time.perf_counter() - begin

    params, _ = bridge.to_params(config)
    seconds = interleaved({"bridge": measure}, rounds).rounds["bridge"]
    return (
        f"| a config of {len(params)} keys, described and written | {statistics.median(seconds) * 1e3:.0f} ms "
        f"({min(seconds) * 1e3:.0f}–{max(seconds) * 1e3:.0f}) | ≤ {BAR_BRIDGE * 1e3:.0f} ms |"
    )


def _import() -> str:
    code = (
        "import sys, time; a = time.perf_counter(); import accelerator.tracking.tracker, accelerator.tracking.bridge; "
    )
    code += "print(time.perf_counter() - a, 'mlflow' in sys.modules)"
    seconds, imported = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    told = f"{float(seconds) * 1e3:.0f} ms, {'with' if imported == 'True' else 'without'} MLflow"
    return f"| `import accelerator.tracking`, all the training needs of it | {told} | without |"


class Server:
    """MLflow's own server on a database of its own, in a process group that can be killed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.database = folder, folder / "server.db"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.uri = f"http://127.0.0.1:{free.getsockname()[1]}"
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--workers", "1"]
        command += ["--port", self.uri.rpartition(":")[2], "--backend-store-uri", f"sqlite:///{self.database}"]
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        _wait_for(self._answers)

    def kill(self) -> None:
        """Kill it with all its workers."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=1) as answer:
                return answer.status == 200
        except OSError:
            return False


@contextmanager
def _server(folder: Path) -> Iterator[Server]:
    server = Server(folder)
    try:
        yield server
    finally:
        server.kill()


def _whole(run: TrackedRun) -> TrackedRun:
    assert run.uploaded, run.error
    return run


def _stored(database: Path, run_id: str | None) -> list[int]:
    with closing(sqlite3.connect(database)) as connection:
        found = connection.execute("select step from metrics where run_uuid = ? and key = 'loss'", [run_id]).fetchall()
    return [step for (step,) in found]


def _wait_for(condition: Callable[[], object], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
