"""Row A10: what a server leaves that is gone, or hangs, is noticed by process number and start time, and reclaimed."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from stand_in_servers import edit_state, free_port, kill_all, session, stand_in, stop_all, store_in, wait_until

from accelerator.tracking import server, server_process

LIMIT = 5.0  # seconds until the next is on its way


@pytest.fixture
def store(tmp_path, monkeypatch):
    stand_in(monkeypatch)
    monkeypatch.setattr(server, "FIRST_PORT", free_port())
    location = store_in(tmp_path)
    yield location
    stop_all(location.uri)


@pytest.fixture
def reclaimed(store, record_property, monkeypatch):
    """A function that gives the server in the place of the other, which was out of the way in time."""

    def start():
        def launch(*values, **options):
            seconds.append(time.monotonic() - begin)
            return server_process.launch(*values, **options)

        seconds, begin = [], time.monotonic()
        monkeypatch.setattr(server, "launch", launch)
        found, new = server.start(store)
        assert new
        assert server.live_server(store.uri) == found.url
        record_property("measured", f"reclaimed in {seconds[0]:.1f} s")
        assert seconds[0] < LIMIT
        return found

    return start


def test_a10_all_of_it_was_killed(store, reclaimed):
    before, _ = server.start(store)
    kill_all(before.pid)
    assert server.files_of(store.uri).state.exists()
    assert server.live_server(store.uri) is None
    found = reclaimed()
    assert (found.pid != before.pid, found.port) == (True, before.port)


def test_a10_its_number_is_another_process_by_now(store, reclaimed):
    before, _ = server.start(store)
    kill_all(before.pid)
    with subprocess.Popen([sys.executable, "-c", "input()", "mlflow"], stdin=subprocess.PIPE) as other:
        edit_state(store.uri, pid=other.pid)
        assert server.find(store.uri) is None
        assert reclaimed().pid != other.pid
        assert server.stop(store.uri) is not None
        assert other.poll() is None
        other.communicate(b"\n")
    assert other.returncode == 0


def test_a10_its_leader_was_killed_and_a_child_has_the_port(store, reclaimed):
    before, _ = server.start(store)
    os.kill(before.pid, signal.SIGKILL)
    wait_until(lambda: server.live_server(store.uri) is None)  # a process that is killed takes a moment to be gone
    (child,) = wait_until(lambda: [pid for pid in session(before.pid) if pid != before.pid])
    found = reclaimed()
    assert found.port == before.port
    assert session(before.pid) == []
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


@pytest.mark.faults
def test_a10_it_is_frozen(store, reclaimed, monkeypatch):
    before, _ = server.start(store)
    for pid in session(before.pid):
        os.kill(pid, signal.SIGSTOP)
    monkeypatch.setattr(server, "age", lambda found: 61.0)  # it has had its time to come up
    assert reclaimed().pid != before.pid
    assert session(before.pid) == []


def test_a10_who_started_it_was_killed_meanwhile(store, monkeypatch):
    """The lock is free with the process that held it, and its server, which is coming up, is used."""
    stand_in(monkeypatch, delay=1.5)
    server.ensure_in_background(store.uri)
    before = wait_until(lambda: server.find(store.uri))
    starter = server._background[-1]
    starter.kill()
    starter.wait()
    assert server.live_server(store.uri) is None
    told = []
    found, new = server.start(store, progress=told.append)
    assert (found, new) == (before, False)
    assert told == sorted(told)
    assert told


def test_a10_a_lock_that_nobody_holds(store, reclaimed):
    files = server.files_of(store.uri)
    files.lock.write_text("12345")
    files.state.write_text('{"uri": "half a fi')
    reclaimed()
