"""Row A5: a process killed with SIGKILL while it saves never leaves a bad "last"; the newest finished save loads."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


def kill(folder, kills):
    script = Path(__file__).with_name("killed_saves.py")
    done = subprocess.run([sys.executable, script, folder, str(kills)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("kills", [10, pytest.param(200, marks=[pytest.mark.faults, pytest.mark.timeout(600)])])
def test_a5_the_newest_finished_save_loads_after_every_kill(tmp_path, kills):
    found = kill(tmp_path / "checkpoints", kills)
    assert (found["killed"], found["broken"]) == (kills, [])
    assert found["halfway"] >= kills // 10  # the kills came where they hurt
