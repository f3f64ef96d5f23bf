"""Row B4: what a save leaves at any moment of its work is the checkpoint before or the new one, never a part of it."""

import os
import warnings
from pathlib import Path

import pytest
import torch

from accelerator.runtime.checkpoint.checkpoint_handler import CheckpointHandler
from accelerator.runtime.checkpoint.meta_handler import sidecar
from accelerator.runtime.checkpoint.operation import remove_temporary

LOSSES = {1: 0.1, 2: 0.9, 3: 0.5, 4: 0.6}


class Killed(BaseException):
    """Nothing catches it, so nothing is tidied up: the disk is as a SIGKILL leaves it."""


def save(handler, step):
    handler.save(
        {"w": torch.full((30_000,), float(step))},
        **{"step": step, "epoch": 0, "level": 0, "work": 0.0, "metrics": {"val/loss": LOSSES[step]}},
        **{"fingerprint": "f", "versions": {}},
    )
    handler.wait()


@pytest.fixture
def count_operations(monkeypatch):
    """A function: from now on count what is done to the disk, and be killed before the n-th time; gives the list."""

    def start(limit):
        done = []

        def counted(name, real):
            def call(*args, **options):
                if len(done) == limit:
                    raise Killed
                of = "" if name == "fsync" else " sidecar" if ".json" in args[0].name else " tensors"
                done.append(name + of)
                return real(*args, **options)

            return call

        monkeypatch.setattr(os, "fsync", counted("fsync", os.fsync))
        for name in ("open", "replace", "unlink"):
            monkeypatch.setattr(Path, name, counted(name, getattr(Path, name)))
        return done

    return start


def test_b4_killed_at_any_moment_last_and_best_are_whole(tmp_path, monkeypatch, count_operations):
    moments, lasts = 0, []
    while True:
        folder = tmp_path / str(moments)
        handler = CheckpointHandler(folder)
        for step in (1, 2, 3):
            save(handler, step)
        done = count_operations(moments)
        try:
            save(handler, 4)
        except Killed:
            finished = False
        else:
            finished = True
        monkeypatch.undo()
        remove_temporary(folder)
        after = CheckpointHandler(folder)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            state, meta, _ = after.load_last()
        lasts.append(meta.step)
        assert state["w"].unique().tolist() == [meta.step]
        assert after.load(after.best())[1].step == 1
        found = [int(path.stem.removeprefix("step-")) for path in after.paths()]
        # Nothing goes before the new one counts, and then only what is not among the newest two and the best.
        assert found in ([1, 2, 3], [1, 2, 3, 4], [1, 3, 4])
        # The next save tidies up.
        save(after, 4)
        assert all(sidecar(path).exists() for path in folder.glob("*.safetensors"))
        assert not list(folder.glob(".*"))
        if finished:
            break
        moments += 1
    # The sidecar comes last, and goes first.
    write = ("open {0}", "fsync", "replace {0}", "fsync")
    assert done == [call.format(of) for of in ("tensors", "sidecar") for call in write] + [
        "unlink sidecar",
        "unlink tensors",
    ]
    assert lasts == [3] * 7 + [4] * (len(done) - 6)
