"""Row D3: a gradient that overflows in half precision costs its step, and nothing else."""

import pytest
import torch
from run_outcomes import At, last_state

from accelerator.runtime.callbacks.base import Callback
from accelerator.runtime.run import execute


class Steps(Callback):
    """(skipped, lr, weights) after each step."""

    priority = 5

    def __init__(self):
        self.seen = []

    def step_end(self, context):
        weights = torch.cat([p.detach().flatten() for p in context.model.parameters()])
        self.seen.append((context.state.skipped, context.optimizer.param_groups[0]["lr"], weights))


def half(tiny_config, **sections):
    return tiny_config(
        # Gradients so small that no loss scale overflows by itself.
        loss={"name": "huber", "delta": 0.05},
        scheduler={"name": "StepLR", "step_size": 1, "gamma": 0.5, "interval": "step"},
        engine={"name": "vanilla_torch", "device": "cpu", "precision": "16", "threads": 1},
        **sections,
    )


def scaled_overflow(context):
    """As the scaler sees it: in the gradients before they are unscaled."""
    context.engine._scaler._found_inf_per_device(context.optimizer)[torch.device("cpu")].fill_(1.0)


@pytest.mark.parametrize("at", [1, 4])
def test_d3_an_overflow_leaves_out_its_step_and_the_learning_rate_waits(tmp_path, tiny_config, at):
    steps = Steps()
    execute(
        half(tiny_config), tmp_path, callbacks={"steps": steps, "at": At("after_backward", scaled_overflow, number=at)}
    )
    assert [skipped for skipped, _, _ in steps.seen] == [0] * (at - 1) + [1] * (7 - at)
    stepped = [number - (number >= at) for number in range(1, 7)]
    assert [lr for _, lr, _ in steps.seen] == pytest.approx([0.05 * 0.5**done for done in stepped])
    if at > 1:
        assert torch.equal(steps.seen[at - 1][2], steps.seen[at - 2][2])
    assert not torch.equal(steps.seen[at][2], steps.seen[at - 1][2])
    assert all(weights.isfinite().all() for _, _, weights in steps.seen)  # also when there is no momentum yet
    state = last_state(tmp_path)
    assert state["state"]["skipped"] == 1
    assert state["engine"]["scaler"]["scale"] == 2.0**15  # halved once


def test_d3_the_scale_and_the_wait_survive_a_kill(tmp_path, tiny_config):
    config = half(tiny_config, checkpoint={"every_steps": 1})
    for name in ("whole", "part"):
        (tmp_path / name).mkdir()
    execute(config, tmp_path / "whole", callbacks={"at": At("after_backward", scaled_overflow, number=2)})

    class Killed(Exception):  # noqa: N818
        pass

    def die(context):
        raise Killed

    with pytest.raises(Killed):
        execute(
            config,
            tmp_path / "part",
            callbacks={
                "at": At("after_backward", scaled_overflow, number=2),
                "die": At("after_backward", die, number=5),
            },
        )
    execute(config, tmp_path / "part", resume=tmp_path / "part" / "checkpoints")
    ours, theirs = last_state(tmp_path / "part"), last_state(tmp_path / "whole")
    assert ours["engine"] == theirs["engine"]
    assert ours["state"] == theirs["state"]
    assert ours["scheduler"] == theirs["scheduler"]
    assert all(torch.equal(ours["model"][name], theirs["model"][name]) for name in theirs["model"])
