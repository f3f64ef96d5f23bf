import random

import numpy as np
import pytest
import torch

from accelerator.runtime.checkpoint.operation import decode, encode
from accelerator.utilities.seed import rng_state, seed_everything, set_rng_state


def draw():
    return (
        [random.random(), random.gauss(0, 1)],
        np.random.rand(3).tolist() + np.random.randn(1).tolist(),
        torch.rand(3).tolist(),
    )


@pytest.mark.parametrize("seed", [0, 1, 2**32 + 5, -3])
def test_one_seed_one_sequence_in_all_generators(seed):
    seed_everything(seed)
    first = draw()
    assert not any(a == b for a, b in zip(first, draw(), strict=True))
    seed_everything(seed)
    assert draw() == first


def test_each_generator_is_seeded():
    seed_everything(0)
    first = draw()
    seed_everything(1)
    assert not any(a == b for a, b in zip(first, draw(), strict=True))


@pytest.mark.parametrize("drawn_before", [0, 1, 700])
def test_a_state_comes_back_through_a_checkpoint(tmp_path, drawn_before):
    seed_everything(3)
    for _ in range(drawn_before):
        draw()
    random.gauss(0, 1)  # Python and NumPy keep the second of a pair of normals
    np.random.randn()
    (tmp_path / "x").write_bytes(encode(rng_state()))
    expected = [draw() for _ in range(3)]
    seed_everything(99)
    set_rng_state(decode(tmp_path / "x"))
    assert [draw() for _ in range(3)] == expected
