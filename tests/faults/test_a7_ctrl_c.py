"""Row A7: Ctrl-C once ends a run well, twice ends it at once. Typed at a terminal: the loader's workers get it too."""

import os
import pty
import select
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from command_runs import assert_goes_on_to, newest_step, whole_run
from forked_ranks import exit_code

WORKERS = "loader.workers=2"
CTRL_C = b"\x03"


class Terminal:
    """A process of its own at a terminal."""

    def __init__(self, *arguments):
        self.said = ""
        command = [sys.executable, str(Path(__file__).with_name("run_on_terminal.py")), *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        self.pid, self.end = pty.fork()
        if self.pid == 0:
            os.execve(sys.executable, command, environment)

    def read_until(self, word, seconds=60):
        limit = time.monotonic() + seconds
        while word is None or word not in self.said:
            assert time.monotonic() < limit, self.said
            if select.select([self.end], [], [], 0.05)[0]:
                try:
                    self.said += os.read(self.end, 4096).decode()
                except OSError:  # nobody has the terminal open any more
                    return

    def type(self, keys):
        os.write(self.end, keys)

    def exit_code(self):
        with suppress(AssertionError):
            self.read_until(None)
        code = exit_code(self.pid)
        os.close(self.end)
        return code


@pytest.mark.faults
def test_a7_once_is_graceful(tmp_path):
    folder = tmp_path / "run"
    terminal = Terminal("after_backward", 4, 0.5, folder, WORKERS)
    terminal.read_until("here")
    terminal.type(CTRL_C)
    assert terminal.exit_code() == 130, terminal.said
    assert "stopped by SIGINT; saved up to step 4; go on with" in terminal.said
    assert "Traceback" not in terminal.said
    assert newest_step(folder) == 4
    assert_goes_on_to(folder, whole_run(tmp_path / "whole"))


@pytest.mark.parametrize(
    ("place", "number", "more"),
    [
        pytest.param("after_backward", 4, [], marks=pytest.mark.faults),
        pytest.param("sample", 26, [WORKERS], marks=pytest.mark.faults),
    ],
    ids=["in_a_step", "waiting_for_a_worker"],
)
def test_a7_twice_is_at_once(tmp_path, place, number, more, record_property):
    folder = tmp_path / "run"
    terminal = Terminal(place, number, 60, folder, *more)
    terminal.read_until("here")
    time.sleep(0.3)
    terminal.type(CTRL_C)
    time.sleep(0.3)
    begin = time.monotonic()
    terminal.type(CTRL_C)
    code, seconds = terminal.exit_code(), time.monotonic() - begin
    record_property("measured", f"gone in {seconds:.1f} s")
    assert code == 130, terminal.said
    assert seconds < 2
    assert "stopped at once" in terminal.said
    assert_goes_on_to(folder, whole_run(tmp_path / "whole"))
