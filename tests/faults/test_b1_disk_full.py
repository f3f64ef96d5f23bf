"""Row B1: a full disk leaves the earlier checkpoints, no leftovers, and a text with path, need and free bytes."""

import errno
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from accelerator.errors import CheckpointError
from accelerator.runtime.checkpoint import operation
from accelerator.runtime.checkpoint.checkpoint_handler import CheckpointHandler

FACTS = {"epoch": 0, "level": 0, "work": 0.0, "metrics": {}, "fingerprint": "f", "versions": {}, "commit": None}
NUMBERS = 2_000_000  # 8 MB


def save(handler, step):
    handler.save({"w": torch.full((NUMBERS,), float(step))}, step=step, **FACTS)


def check(folder):
    """Fill a file system of 20 MB by a third checkpoint of 8 MB, then make room."""
    ballast = folder.with_name("ballast")
    ballast.write_bytes(bytes(1_000_000))
    handler = CheckpointHandler(folder)
    save(handler, 1)
    save(handler, 2)
    handler.wait()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    save(handler, 3)
    with pytest.raises(CheckpointError) as caught:
        handler.wait()
    told = re.fullmatch(
        rf"could not write {re.escape(str(folder))}/step-00000003\.safetensors \(([\d,]+) bytes\): "
        r"No space left on device; ([\d,]+) bytes free there",
        str(caught.value),
    )
    assert told, str(caught.value)
    need, free = (int(number.replace(",", "")) for number in told.groups())
    assert need > 4 * NUMBERS > free > 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert handler.load_last()[1].step == 2
    ballast.unlink()
    shutil.rmtree(folder)
    save(handler, 4)
    assert handler.load_last()[1].step == 4


def test_b1_a_file_system_that_is_full_leaves_the_earlier_checkpoints_and_says_how_much_is_needed(tmp_path):
    mount = 'mount -t tmpfs -o size=20m none "$1"'
    wanted = ["unshare", "-rm", "sh", "-c"]
    allowed = shutil.which("unshare") and subprocess.run([*wanted, mount, "sh", tmp_path], capture_output=True)
    if not allowed or allowed.returncode:
        pytest.skip(f"no file system of our own here: {allowed.stderr.decode().strip() if allowed else 'no unshare'}")
    done = subprocess.run(
        [*wanted, f'{mount} && exec "$2" "$3" "$1"', "sh", tmp_path, sys.executable, __file__],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("moment", ["open", "write", "fsync", "rename", "fsync of the folder", "sidecar"])
def test_b1_no_space_at_any_moment_leaves_the_earlier_checkpoints_and_no_leftovers(tmp_path, monkeypatch, moment):
    handler = CheckpointHandler(tmp_path)
    for step in (1, 2):
        handler.save({"w": torch.full((400_000,), float(step))}, step=step, **FACTS)
    handler.wait()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*args, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    class Full(io.FileIO):
        def write(self, data):
            if self.tell() or moment == "sidecar":
                full()
            return super().write(data)

    real = type(tmp_path).open

    def small(self, mode="r", **options):
        wanted = mode == "wb" and (moment == "write" or ".json" in self.name)
        return Full(self, "w") if wanted else real(self, mode, **options)

    if moment in ("write", "sidecar"):
        monkeypatch.setattr(type(tmp_path), "open", small)
    elif moment == "open":
        monkeypatch.setattr(type(tmp_path), "open", full)
    elif moment == "rename":
        monkeypatch.setattr(type(tmp_path), "replace", full)
    else:
        monkeypatch.setattr(*((os, "fsync") if moment == "fsync" else (operation, "_sync_directory")), full)
    handler.save({"w": torch.full((400_000,), 3.0)}, step=3, **FACTS)
    with pytest.raises(CheckpointError, match=r"could not write .* bytes\): No space left"):
        handler.wait()
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert handler.load_last()[1].step == 2


if __name__ == "__main__":
    check(Path(sys.argv[1]) / "checkpoints")
