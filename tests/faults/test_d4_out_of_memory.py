"""Row D4: out of memory, a batch is computed in more pieces; the step, and what is random in it, stay the same."""

import logging

import pytest
import torch
from run_outcomes import points
from torch import nn

from accelerator.errors import DeviceMemoryError
from accelerator.runtime.engine.base import Clip
from accelerator.runtime.engine.vanilla_torch import VanillaTorch
from accelerator.runtime.run import execute


class Limited(nn.Linear):
    """Has room for so many rows."""

    room = 8

    def forward(self, x):
        torch.rand(3)  # drawn before it fails
        if len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has …")
        return super().forward(x)


def bound(room, recovers=True):
    torch.manual_seed(0)
    model = Limited(3, 1)
    model.room = room
    engine = VanillaTorch("cpu")
    engine.recovers = recovers
    engine.bind(model, nn.functional.mse_loss, torch.optim.SGD(model.parameters(), lr=0.1), Clip())
    return engine, model


def batch(rows=8):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, 3, generator=generator), torch.randn(rows, 1, generator=generator)


@pytest.mark.parametrize(("room", "pieces"), [(4, 2), (3, 4), (2, 4), (1, 8)])
def test_d4_a_batch_that_does_not_fit_is_halved_until_it_does(caplog, room, pieces):
    engine, model = bound(room)
    plain, whole = bound(8)
    torch.manual_seed(5)
    with caplog.at_level(logging.WARNING):
        loss = engine.forward_backward(batch())
    assert engine.accumulate == pieces
    assert f"computed in {pieces} pieces from now on, their steps stay the same" in caplog.text
    drawn = torch.rand(1)
    torch.manual_seed(5)
    for _ in range(pieces):
        torch.rand(3)
    assert torch.equal(drawn, torch.rand(1))  # attempts that failed drew nothing
    assert loss.item() == pytest.approx(plain.forward_backward(batch()).item(), rel=1e-6)
    for ours, theirs in zip(model.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    caplog.clear()
    engine.optimizer_step()
    engine.forward_backward(batch())
    assert not caplog.text  # it is known now


def test_d4_one_sample_that_does_not_fit_is_told_with_sizes_and_remedies():
    engine, _ = bound(0)
    with pytest.raises(
        DeviceMemoryError,
        match=r"one sample of shape \(3,\) does not fit in the memory of cpu: CUDA out of memory; "
        "take a smaller model, engine.precision=bf16, engine.gradient_checkpointing=true, "
        "or allow more: memory.limit_gb",
    ):
        engine.forward_backward(batch())


def test_d4_what_was_learnt_of_the_memory_survives_a_kill():
    engine, _ = bound(2)
    engine.forward_backward(batch())
    again, _ = bound(2)
    again.load_state_dict(engine.state_dict())
    assert again.accumulate == 4


def test_d4_a_run_goes_on_with_the_same_losses(tmp_path, tiny_config, monkeypatch):
    (tmp_path / "whole").mkdir()
    (tmp_path / "short").mkdir()
    execute(tiny_config(), tmp_path / "whole")
    compute = VanillaTorch._compute

    def short(self, batch):
        if self.accumulate < 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried")
        return compute(self, batch)

    monkeypatch.setattr(VanillaTorch, "_compute", short)
    init = VanillaTorch.__init__

    def recovering(self, *args, **kwargs):
        init(self, *args, **kwargs)
        self.recovers = True

    monkeypatch.setattr(VanillaTorch, "__init__", recovering)
    execute(tiny_config(), tmp_path / "short")
    whole = dict(points(tmp_path / "whole", "train/loss"))
    assert dict(points(tmp_path / "short", "train/loss")) == pytest.approx(whole, rel=1e-5)
