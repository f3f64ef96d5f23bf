"""Row B2: a newest checkpoint that was cut short is passed over for the one before, with a warning that names both."""

import random

import pytest
import torch

from accelerator.runtime.checkpoint.checkpoint_handler import CheckpointHandler
from accelerator.runtime.checkpoint.meta_handler import sidecar

FACTS = {"epoch": 0, "level": 0, "work": 0.0, "metrics": {}, "fingerprint": "f", "versions": {}, "commit": None}
CUTS = 200


@pytest.mark.parametrize("of", ["tensors", "sidecar"])
def test_b2_the_one_before_is_used_and_the_warning_names_both(tmp_path, of):
    chance = random.Random(0)
    handler = CheckpointHandler(tmp_path)
    good, bad = (handler.save({"w": torch.full((300,), float(step)), "lr": 0.1}, step=step, **FACTS) for step in (1, 2))
    handler.wait()
    cut = bad if of == "tensors" else sidecar(bad)
    whole = cut.read_bytes()
    # The sidecar's last character is its closing bracket: any cut shows.
    for length in [0, 1, len(whole) - 1, *(chance.randrange(len(whole)) for _ in range(CUTS - 3))]:
        cut.write_bytes(whole[:length])
        with pytest.warns(RuntimeWarning) as caught:
            state, meta, path = CheckpointHandler(tmp_path).load_last()
        assert (path, meta.step, state["w"].tolist()) == (good, 1, [1.0] * 300)
        assert len(caught) == 1
        message = str(caught[0].message)
        assert message.startswith(f"falling back to {good}: {cut} is damaged: ")
    cut.write_bytes(whole)
    assert handler.load_last()[2] == bad
