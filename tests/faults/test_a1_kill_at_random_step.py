"""Row A1: a run killed with SIGKILL and resumed is the uninterrupted run, to the last bit.

Weights, optimizer, learning-rate schedule, random state, counters, callbacks and every point of the metric log.
"""

import pytest
from forked_runs import composed, differing

COMMON = [
    *("experiment=digits", "model=mlp", "model.dropout=0.1", "loader.batch_size=64", "checkpoint.every_steps=7"),
    *("callbacks.pictures=null", "callbacks.progress=null", "trainer.max_epochs=3"),
]
CYCLE = ["multilevel.pre=4", "multilevel.post=4", "multilevel.coarse=8", "multilevel.k=4", "multilevel.guard=0.1"]
CASES = {
    "plain": [*COMMON, "model.hidden=[32,32]"],
    "cascade": [*COMMON, "model.hidden=[64,64]", "multilevel=cascade"],
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


@pytest.mark.parametrize(("case", "kills"), [("plain", 20), ("v_cycle", 2)])
def test_a1_killed_and_resumed_is_bit_equal_to_uninterrupted(tmp_path, case, kills):
    assert differing(composed(CASES[case]), tmp_path, kills) == {}


@pytest.mark.faults
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kills", [100])
@pytest.mark.parametrize("case", CASES)
def test_a1_a_hundred_kills(tmp_path, case, kills):
    assert differing(composed(CASES[case]), tmp_path, kills) == {}
