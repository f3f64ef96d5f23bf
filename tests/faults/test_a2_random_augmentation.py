"""Row A2: killed and resumed is bit-equal with random augmentation too, in the process and in loader workers.

Samples are shaken by the generators of Python, NumPy and torch, batches by a random transform, the network by dropout.
"""

import pytest
from forked_runs import differing

NOISE = {"input": {"noise": {"name": "noise", "std": 0.3}}}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=[pytest.mark.faults, pytest.mark.timeout(600)])])
def test_a2_augmented_runs_go_on_to_the_last_bit(tiny_config, tmp_path, kills, workers):
    config = tiny_config(
        imports=["fault_parts"],
        data={"_target_": "fault_parts.shaken"},
        model={"name": "mlp", "hidden": [4], "dropout": 0.2},
        transform=NOISE,
        loader={"workers": workers},
        checkpoint={"every_steps": 2},
        trainer={"max_epochs": 4},
    )
    assert differing(config, tmp_path, kills) == {}
