"""Row B3: one flipped bit anywhere in a checkpoint is found by its SHA-256."""

import random

import pytest
import torch

from accelerator.errors import CheckpointError
from accelerator.runtime.checkpoint.checkpoint_handler import CheckpointHandler

FACTS = {"epoch": 0, "level": 0, "work": 0.0, "metrics": {}, "fingerprint": "f", "versions": {}, "commit": None}


@pytest.mark.parametrize("flips", [50, pytest.param(500, marks=pytest.mark.faults)])
def test_b3_every_flip_is_caught(tmp_path, flips):
    chance = random.Random(0)
    handler = CheckpointHandler(tmp_path)
    path = handler.save({"w": torch.randn(5000), "step": 3}, step=1, **FACTS)
    handler.wait()
    whole = path.read_bytes()
    caught = 0
    for bit in chance.sample(range(8 * len(whole)), flips):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match=rf"{path} is damaged: .* expected {len(whole):,} bytes"):
            handler.load(path)
        caught += 1
    assert caught == flips
    path.write_bytes(whole)
    handler.load(path)
