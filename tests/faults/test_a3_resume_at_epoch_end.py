"""Row A3: a run resumed exactly where a pass ends neither skips nor repeats a pass."""

import signal

import pytest
from fault_parts import read_samples
from forked_ranks import exit_code
from forked_runs import differences, ended_well, outcome, trained
from run_outcomes import At, send

from accelerator.runtime.callbacks.base import Callback

PASSES, BATCHES = 11, 3


class KillOnceSaved(Callback):
    """Kills right after the pass's checkpoint is on the disk."""

    priority = -1

    def epoch_end(self, context):
        context.checkpoints.wait()
        send(signal.SIGKILL)(context)


def last_step():
    """A signal in the step that ends a pass: its validation is still to come."""
    return At("after_backward", send(), number=BATCHES)


@pytest.mark.parametrize(
    ("fault", "code"), [(KillOnceSaved, -signal.SIGKILL), (last_step, 1)], ids=["after_the_pass", "in_its_last_step"]
)
@pytest.mark.parametrize("kills", [PASSES - 1])
def test_a3_ten_ends_of_a_pass_are_gone_on_from(tiny_config, tmp_path, fault, code, kills):
    config = tiny_config(
        imports=["fault_parts"],
        data={"_target_": "fault_parts.numbered", "samples": 20},
        callbacks={"log": {"_target_": "fault_parts.SampleLog", "path": "samples.txt"}},
        trainer={"max_epochs": PASSES},
    )
    logs = {name: tmp_path / f"{name}.txt" for name in ("whole", "parts")}
    config["callbacks"]["log"]["path"] = str(logs["whole"])
    ended_well(trained(config, tmp_path / "whole"), tmp_path / "whole")
    config["callbacks"]["log"]["path"] = str(logs["parts"])
    for _ in range(kills):
        assert exit_code(trained(config, tmp_path / "parts", fault=fault())) == code
    ended_well(trained(config, tmp_path / "parts"), tmp_path / "parts")

    done = read_samples(logs["parts"])
    assert done == read_samples(logs["whole"])
    assert list(done) == list(range(1, PASSES * BATCHES + 1))
    assert [[epoch for epoch, _ in times] for times in done.values()] == [
        [epoch] for epoch in range(PASSES) for _ in range(BATCHES)
    ]
    assert differences(outcome(tmp_path / "parts"), outcome(tmp_path / "whole")) == []
