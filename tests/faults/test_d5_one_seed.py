"""Row D5: two runs of one seed are equal to the last bit, checkpoint and metric log; of another seed, they are not."""

import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from forked_runs import composed, differences, ended_well, outcome, said_in, start, trained, warm_up

from accelerator.cli.app import main
from accelerator.runtime.run import execute

SMALL = [
    *("experiment=digits", "model=mlp", "model.hidden=[64,64]", "model.dropout=0.1", "loader.batch_size=64"),
    *("callbacks.pictures=null", "callbacks.progress=null", "trainer.max_epochs=2"),
]
CYCLE = ["multilevel=v_cycle", "multilevel.pre=4", "multilevel.post=4", "multilevel.coarse=8", "multilevel.k=4"]


def seeded_elsewhere(config, folder, number):
    """A fork that finds the global generators in another state."""

    def run():
        random.seed(number)
        np.random.seed(number)
        torch.manual_seed(number)
        execute(config, folder)

    warm_up(config)
    folder.mkdir()
    return start(run, said_in(folder))


def assert_equal_twice(config, tmp_path):
    first, second, other = (tmp_path / name for name in ("first", "second", "other"))
    for number, folder in enumerate((first, second)):
        ended_well(seeded_elsewhere(config, folder, number), folder)
    ended_well(trained({**config, "seed": config["seed"] + 1}, other), other)
    assert differences(outcome(first), outcome(second)) == []
    assert any(d.startswith("/state/model") or "/network" in d for d in differences(outcome(first), outcome(other)))


@pytest.mark.parametrize("workers", [0, 2])
def test_d5_with_dropout_noise_and_workers(tiny_config, tmp_path, workers):
    config = tiny_config(
        imports=["fault_parts"],
        data={"_target_": "fault_parts.shaken"},
        model={"name": "mlp", "hidden": [4], "dropout": 0.2},
        transform={"input": {"noise": {"name": "noise", "std": 0.3}}},
        loader={"workers": workers},
    )
    assert_equal_twice(config, tmp_path)


@pytest.mark.parametrize("method", [["multilevel=cascade"], CYCLE], ids=["cascade", "v_cycle"])
def test_d5_multilevel(tmp_path, method):
    assert_equal_twice(composed([*SMALL, *method]), tmp_path)


@pytest.mark.faults
def test_d5_in_another_process_whose_sets_have_another_order(tmp_path):
    # A fork has its parent's hashes; a process of its own has others.
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    arguments = ["train", *SMALL, *CYCLE, "tracking=none", "engine.threads=1"]
    warm_up(composed([*SMALL, *CYCLE]))
    ended_well(start(lambda: main([*arguments, f"hydra.run.dir={ours}"]), said_in(ours)), ours)
    command = [sys.executable, "-m", "accelerator", *arguments, f"hydra.run.dir={theirs}"]
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert differences(outcome(ours), outcome(theirs)) == []
