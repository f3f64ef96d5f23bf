import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from accelerator.errors import ConfigError
from accelerator.runtime.engine.vanilla_torch import VanillaTorch


def batches(count=6):
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(5, 3, generator=generator), torch.randn(5, 1, generator=generator)) for _ in range(count)]


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def bound(model=None, *, lr=0.1, clip_norm=None):
    model = model or network()
    engine = VanillaTorch("cpu")
    engine.bind(model, nn.functional.mse_loss, torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9), clip_norm)
    return engine, model


@pytest.mark.parametrize("clip_norm", [None, 0.05, 1e6])
def test_it_does_what_a_hand_written_loop_does_to_the_last_bit(clip_norm):
    engine, ours = bound(clip_norm=clip_norm)
    theirs = network()
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9)
    for inputs, targets in batches():
        loss = engine.forward_backward((inputs, targets))
        engine.optimizer_step()
        optimizer.zero_grad()
        expected = nn.functional.mse_loss(theirs(inputs), targets)
        expected.backward()
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(theirs.parameters(), clip_norm)
        optimizer.step()
        assert torch.equal(loss, expected.detach())
        assert all(torch.equal(p, q) for p, q in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_gradients_are_whole_between_the_two_halves_and_gone_after():
    engine, model = bound()
    loss = engine.forward_backward(batches()[0])
    assert loss.dim() == 0
    assert not loss.requires_grad
    assert all(p.grad is not None for p in model.parameters())
    engine.optimizer_step()
    assert all(p.grad is None for p in model.parameters())


def test_clipping_bounds_the_step_to_the_norm():
    model = nn.Linear(3, 1, bias=False)
    before = model.weight.detach().clone()
    engine = VanillaTorch("cpu")
    engine.bind(model, lambda y, t: 1e4 * (y - t).sum(), torch.optim.SGD(model.parameters(), lr=1.0), 0.5)
    engine.forward_backward(batches()[0])
    engine.optimizer_step()
    assert (model.weight - before).norm().item() == pytest.approx(0.5, rel=1e-4)


def test_binding_forgets_the_gradients_of_before():
    model = network()
    model(torch.ones(1, 3)).sum().backward()
    bound(model)
    assert all(p.grad is None for p in model.parameters())


def test_a_prediction_has_no_gradients_and_costs_one_forward():
    engine, model = bound()
    batch = batches()[0]
    with FlopCounterMode(display=False) as counter:
        prediction, targets = engine.predict(batch)
    assert not prediction.requires_grad
    assert targets is batch[1]
    assert torch.equal(prediction, model(batch[0]))
    assert counter.get_total_flops() == 2 * 5 * (3 * 4 + 4 * 1)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("name", ["tpu", "cuda:x", "", "gpu", "meta", "mps"])
def test_an_unknown_device_is_told(name):
    with pytest.raises(ConfigError, match=f"engine.device={name}: expected auto, cpu, cuda or cuda:<number>"):
        VanillaTorch(name)


def test_a_device_that_is_not_there_is_told_with_how_many_there_are(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match=r"engine.device=cuda:2: this machine has 2 CUDA device\(s\)"):
        VanillaTorch("cuda:2")
    assert VanillaTorch("cuda:1").device == torch.device("cuda:1")
    assert VanillaTorch("auto").device.type == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="has 0 CUDA"):
        VanillaTorch("cuda")
    assert VanillaTorch("auto").device.type == "cpu"


def test_threads_are_set_and_checked():
    before = torch.get_num_threads()
    try:
        VanillaTorch("cpu", threads=2)
        assert torch.get_num_threads() == 2
        VanillaTorch("cpu")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    with pytest.raises(ConfigError, match="engine.threads=0: expected at least 1"):
        VanillaTorch("cpu", threads=0)


def test_deterministic_refuses_what_has_no_such_form():
    try:
        VanillaTorch("cpu", deterministic=True)
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        VanillaTorch("cpu")
    assert not torch.are_deterministic_algorithms_enabled()
