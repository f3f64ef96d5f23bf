"""Row B6: a folder that cannot be written to is told before the first step."""

import ctypes
import os
from pathlib import Path

import pytest
from command_runs import run_with, said_in
from forked_ranks import exit_code
from forked_runs import start

NEW_MOUNTS, NEW_USERS = 0x00020000, 0x10000000
READ_ONLY, REMOUNT, BIND = 1, 32, 4096
REFUSED = 77


def make_read_only(folder):
    """For this process alone, by a mount of its own: root ignores permission bits."""
    user, group = os.getuid(), os.getgid()
    system, name = ctypes.CDLL(None, use_errno=True), os.fsencode(folder)
    if system.unshare(NEW_USERS | NEW_MOUNTS):
        os._exit(REFUSED)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    for flags in (BIND, BIND | REMOUNT | READ_ONLY):
        if system.mount(name, name, None, flags, None):
            os._exit(REFUSED)


@pytest.mark.parametrize(("run", "told"), [("run", "cannot make"), (".", "cannot write")], ids=["new", "existing"])
def test_b6_told_before_the_first_step(tmp_path, run, told):
    folder, began = tmp_path / "locked", tmp_path / "began"
    folder.mkdir()
    if exit_code(start(lambda: make_read_only(folder), tmp_path / "probe.said")) == REFUSED:
        pytest.skip("this machine allows no mount namespaces")
    ended = run_with({"after_backward": (1, began.touch)}, folder / run, before=lambda: make_read_only(folder))
    assert ended.code == 3, ended.said
    assert f"{told} the run directory {folder / run}: Read-only file system; set hydra.run.dir" in ended.said
    assert "Traceback" not in ended.said
    assert not began.exists()
    assert {path.name for path in folder.iterdir()} <= {said_in(folder / run).name}
