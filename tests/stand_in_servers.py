"""Servers for tests: one that stands in for MLflow's, and what the operating system knows of any."""

import json
import os
import socket
import time
from contextlib import contextmanager
from pathlib import Path

import psutil

from accelerator.tracking import server
from accelerator.tracking.locations import locate

STAND_IN = Path(__file__).with_name("stand_in")


def stand_in(monkeypatch, **asked):
    """From here on `python -m mlflow server` is the stand-in, in this process's children."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(STAND_IN), *filter(None, [os.environ.get("PYTHONPATH")])]))
    monkeypatch.setenv("STAND_IN", json.dumps(asked))


def store_in(folder):
    """The location of a store that is there: an empty file is a SQLite database without tables."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mlflow.db").touch()
    return locate(f"sqlite:///{folder}/mlflow.db")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def taken_port():
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield holder.getsockname()[1]


def session(pid):
    """The processes that live in a session."""
    found = []
    for process in psutil.process_iter(["status"]):
        try:
            if os.getsid(process.pid) == pid and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except ProcessLookupError:
            pass
    return sorted(found)


def wait_until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
    return value


def kill_all(pid):
    for member in session(pid):
        os.kill(member, 9)
    wait_until(lambda: not session(pid))


def edit_state(uri, **changes):
    state = server.files_of(uri).state
    state.write_text(json.dumps(json.loads(state.read_text()) | changes))


def stop_all(uri):
    """End the store's server; first let those come up that are on their way."""
    for starter in server._background:
        starter.wait(60)
    server.stop(uri)
