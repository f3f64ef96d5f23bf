"""Row B5: a TMPDIR on another file system makes no difference: the temporary file stands beside its target."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from test_a5_kill_during_save import kill

SHM = Path("/dev/shm")


@pytest.mark.parametrize("kills", [5, pytest.param(100, marks=[pytest.mark.faults, pytest.mark.timeout(600)])])
def test_b5_nothing_is_bad_after_kills_and_nothing_was_written_elsewhere(tmp_path, monkeypatch, kills):
    if not SHM.is_dir() or SHM.stat().st_dev == tmp_path.stat().st_dev or not os.access(SHM, os.W_OK):
        pytest.skip("/dev/shm is no other file system here")
    with TemporaryDirectory(dir=SHM) as elsewhere:
        monkeypatch.setenv("TMPDIR", elsewhere)
        found = kill(tmp_path / "checkpoints", kills)
        assert (found["killed"], found["broken"]) == (kills, [])
        # torch may leave an empty folder of caches there; no checkpoint, whole or half.
        assert not [path for path in Path(elsewhere).rglob("*") if path.is_file()]
