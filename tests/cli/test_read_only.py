"""A cache on a read-only file system; row B6, of run directories, is in tests/faults."""

import os
import subprocess
import sys

import pytest

SMALL = ["data.train=32", "data.val=8", "data.test=8", "data.grid=8", "model=mlp", "engine.threads=1", "tracking=none"]


def train_on_read_only(folder, *arguments):
    """Train with ``folder`` mounted read-only, in a mount namespace of its own: root ignores permissions."""
    script = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
    command = [sys.executable, "-m", "accelerator", "train", *SMALL, *arguments]
    return subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, folder, *command],
        cwd=folder.parent,
        env={**os.environ, "XDG_CACHE_HOME": str(folder.parent / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def locked(tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir()
    probe = subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("this machine allows no mount namespaces")
    return folder


@pytest.mark.slow
def test_a_cache_that_cannot_be_written_only_costs_time(locked):
    done = train_on_read_only(locked, f"data.cache_dir={locked}", "trainer.max_epochs=1")
    assert done.returncode == 0, done.stderr
    assert "test/loss" in done.stdout
