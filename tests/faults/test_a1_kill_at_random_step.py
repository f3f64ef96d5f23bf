"""Row A1: a run killed with SIGKILL and resumed is the uninterrupted run, to the last bit.

Weights, optimizer, learning-rate schedule, random state, counters, callbacks and every point of the metric log.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

COMMON = ["experiment=digits", "model=mlp", "model.dropout=0.1", "loader.batch_size=64", "checkpoint.every_steps=7"]
CYCLE = ["multilevel.pre=4", "multilevel.post=4", "multilevel.coarse=8", "multilevel.k=4", "multilevel.guard=0.1"]
CASES = {
    "plain": [*COMMON, "model.hidden=[32,32]", "trainer.max_epochs=3"],
    "cascade": [*COMMON, "model.hidden=[64,64]", "multilevel=cascade", "trainer.max_epochs=3"],
    "v_cycle": [
        *COMMON,
        "model.hidden=[64,64]",
        "multilevel=v_cycle",
        *CYCLE,
        "multilevel.tau=minibatch",
        "multilevel.rematch_every=2",
        "multilevel.optimizer_state=separate",
    ],
    "w_cycle": [*COMMON, "model.hidden=[64,64]", "multilevel=w_cycle", *CYCLE, "optimizer=sgd", "multilevel.pre=0"],
    "fmg": [*COMMON, "model.hidden=[64,64]", "multilevel=fmg", *CYCLE, "multilevel.tau=wholeset"],
}


def interrupt(tmp_path, kills, case):
    script = Path(__file__).with_name("forked_runs.py")
    done = subprocess.run(
        [sys.executable, script, tmp_path, str(kills), *CASES[case]], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(("case", "kills"), [("plain", 20), ("cascade", 10), ("v_cycle", 4), ("fmg", 4)])
def test_a1_killed_and_resumed_is_bit_equal_to_uninterrupted(tmp_path, case, kills):
    found = interrupt(tmp_path, kills, case)
    assert found == {"killed": kills, "different": []}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("case", CASES)
def test_a1_a_hundred_kills(tmp_path, case):
    assert interrupt(tmp_path, 100, case)["different"] == []
