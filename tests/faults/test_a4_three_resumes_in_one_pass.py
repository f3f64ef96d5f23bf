"""Row A4: however often a pass is interrupted, every sample is trained on exactly once in it."""

import signal

import pytest
from fault_parts import read_samples
from forked_ranks import exit_code
from forked_runs import ended_well, trained
from run_outcomes import At, send

SAMPLES, BATCHES = 45, 12  # of 4, the last of 1


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("every_steps", [1, 2])
def test_a4_every_sample_counts_exactly_once(tiny_config, tmp_path, workers, every_steps):
    log = tmp_path / "samples.txt"
    config = tiny_config(
        imports=["fault_parts"],
        data={"_target_": "fault_parts.numbered", "samples": SAMPLES},
        callbacks={"log": {"_target_": "fault_parts.SampleLog", "path": str(log)}},
        loader={"workers": workers, "batch_size": 4},
        checkpoint={"every_steps": every_steps},
        trainer={"max_epochs": 2},
    )
    for steps in (3, 5, 4):  # done by each process before it dies
        kill = At("step_end", send(signal.SIGKILL), number=steps)
        assert exit_code(trained(config, tmp_path / "run", kill=kill)) == -signal.SIGKILL
    ended_well(trained(config, tmp_path / "run"), tmp_path / "run")

    done = read_samples(log)
    assert list(done) == list(range(1, 2 * BATCHES + 1))
    # What was not saved is done again, with the same samples.
    assert all(times == times[:1] * len(times) for times in done.values())
    for epoch in range(2):
        counted = [number for times in done.values() for number in times[-1][1] if times[-1][0] == epoch]
        assert sorted(counted) == list(range(SAMPLES))
        assert counted != sorted(counted)
