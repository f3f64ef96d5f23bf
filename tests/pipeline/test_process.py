"""Steps as processes: their exit codes, what they say, and what ends them."""

import os
import signal
import sys

import psutil
import pytest
from forked_ranks import exit_code
from pipeline_steps import wait_until_gone

from accelerator.pipeline.process import Log, forked, spawned

CODE = "import os, sys; print('out'); print('err', file=sys.stderr); print(os.getpgid(0) == os.getpid()); sys.exit(7)"


def leave(how):
    print("said")
    raise how


@pytest.mark.parametrize(
    ("how", "code"), [(KeyboardInterrupt(), 130), (SystemExit(3), 3), (SystemExit("text"), 1), (ValueError("x"), 1)]
)
def test_a_fork_ends_as_its_action_does(tmp_path, how, code):
    pid = forked(lambda: leave(how), tmp_path / "log")
    assert exit_code(pid) == code
    assert (tmp_path / "log").read_text().startswith("said\n")


def test_what_is_spawned_writes_into_the_log_from_a_group_of_its_own(tmp_path):
    (tmp_path / "log").write_text("before\n")
    pid = spawned([sys.executable, "-S", "-c", CODE], tmp_path / "log")
    assert exit_code(pid) == 7
    assert sorted((tmp_path / "log").read_text().splitlines()) == ["True", "before", "err", "out"]


def test_what_is_spawned_ends_with_the_process_that_started_it(tmp_path):
    wait = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]

    def start():
        print(spawned(wait, tmp_path / "log"))
        return 0

    pid = forked(start, tmp_path / "said")
    assert exit_code(pid) == 0
    step = int((tmp_path / "said").read_text())
    if psutil.pid_exists(step):
        assert wait_until_gone([psutil.Process(step)])


def test_what_is_started_hears_signals_though_its_parent_holds_them_back(tmp_path):
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        pids = [
            forked(lambda: signal.pause(), tmp_path / "forked"),
            spawned([sys.executable, "-S", "-c", "import signal; signal.pause()"], tmp_path / "spawned"),
        ]
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
            assert exit_code(pid) == -signal.SIGTERM
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_a_log_gives_whole_lines_as_they_come(tmp_path):
    path = tmp_path / "log"
    path.write_text("of an earlier execution\n")
    log = Log(path)
    assert log.lines() == []
    with path.open("a") as file:
        file.write("one\ntw")
    assert log.lines() == ["one"]
    with path.open("ab") as file:
        file.write(b"o\nbroken \xff")
    assert log.lines() == ["two"]
    assert log.lines(over=True) == ["broken \ufffd"]
    assert Log(tmp_path / "none").lines(over=True) == []
