import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from accelerator.errors import ConfigError
from accelerator.runtime.data.feed import Share, rows_of
from accelerator.runtime.engine.base import Clip
from accelerator.runtime.engine.recompute import recompute_blocks
from accelerator.runtime.engine.single_gpu import SingleGPU
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
    engine.bind(
        model, nn.functional.mse_loss, torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9), Clip(clip_norm)
    )
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
    engine.bind(model, lambda y, t: 1e4 * (y - t).sum(), torch.optim.SGD(model.parameters(), lr=1.0), Clip(0.5))
    engine.forward_backward(batches()[0])
    engine.optimizer_step()
    assert (model.weight - before).norm().item() == pytest.approx(0.5, rel=1e-4)


def test_entries_are_cut_before_the_norm():
    model = nn.Linear(3, 1, bias=False)
    before = model.weight.detach().clone()
    engine = VanillaTorch("cpu")
    slope = torch.tensor([1.0, -5.0, 0.25])
    engine.bind(model, lambda y, t: (model.weight[0] * slope).sum() + 0 * y.sum(), sgd(model), Clip(value=0.5))
    engine.forward_backward(batches()[0])
    engine.optimizer_step()
    assert (before - model.weight)[0].tolist() == pytest.approx([0.5, -0.5, 0.25])
    engine.bind(model, lambda y, t: (model.weight[0] * slope).sum() + 0 * y.sum(), sgd(model), Clip(0.3, 0.5))
    engine.forward_backward(batches()[0])
    before = model.weight.detach().clone()
    engine.optimizer_step()
    assert (before - model.weight)[0].tolist() == pytest.approx([0.2, -0.2, 0.1], rel=1e-4)  # (½, -½, ¼) has norm ¾


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=1.0)


@pytest.mark.parametrize("count", [2, 3, 5, 50])
def test_the_gradient_of_the_pieces_is_that_of_the_whole_batch(count):
    engine, whole = bound()
    pieces, parts = bound()
    pieces.accumulate = count
    batch = batches()[0]
    seen = []
    parts.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    assert pieces.forward_backward(batch).item() == pytest.approx(engine.forward_backward(batch).item(), rel=1e-6)
    assert sum(seen) == 5
    assert len(seen) == min(count, 5)
    for ours, theirs in zip(parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_a_share_counts_for_its_part_of_the_whole_batch():
    """Two ranks' gradients, added up by hand: 2 of 5 rows and 3 of 5."""
    _, whole = bound()
    inputs, targets = batches()[0]
    nn.functional.mse_loss(whole(inputs), targets).backward()
    total = [torch.zeros_like(p) for p in whole.parameters()]
    for rank in range(2):
        engine, model = bound()
        rows, weight = rows_of(5, (rank, 2))
        engine.accumulate = 2
        engine.forward_backward(Share(inputs[rows], targets[rows], 5, weight))
        for sum_, p in zip(total, model.parameters(), strict=True):
            sum_ += p.grad
    for ours, theirs in zip(total, whole.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs.grad)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"precision": "64"}, "engine.precision=64: expected 32, 16 or bf16"),
        ({"compile": "fast"}, "engine.compile=fast: expected null or one of default, reduce-overhead"),
        ({"devices": 0}, "engine.devices=0: expected a number of ranks, auto, or a list of GPUs"),
        ({"devices": "all"}, "engine.devices=all: expected a number of ranks"),
        ({"devices": [0, 1]}, r"engine.devices=\[0, 1\]: this machine has \d+ CUDA device.*engine.device=cpu"),
        ({"devices": 2}, "engine.devices=2: this process is alone; `accelerator train`"),
        ({"restarts": -1}, "engine.restarts=-1: expected at least 0"),
        ({"timeout": 0}, "engine.timeout=0: expected seconds"),
    ],
)
def test_what_an_engine_cannot_do_is_told(arguments, message):
    with pytest.raises(ConfigError, match=message):
        VanillaTorch("cpu", **arguments)


def test_fewer_ranks_than_the_config_says_are_refused(monkeypatch):
    """A launcher that starts one process where two were meant trains in silence otherwise."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(ConfigError, match=r"engine.devices=2 asks for 2 rank\(s\), torchrun started 1"):
        VanillaTorch("cpu", devices=2)


def test_recomputed_blocks_forget_their_activations():
    """One saved tensor less for each activation inside: only what goes into the block is kept."""
    blocks = nn.ModuleList(nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3), nn.Tanh()) for _ in range(2))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = blocks

        def forward(self, x):
            for block in self.blocks:
                x = block(x)
            return x

    def kept(model):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (sizes.append(t), t)[1], lambda t: t):
            model(torch.ones(2, 3, requires_grad=True)).sum()
        return len(sizes)

    model, calls = Net(), []
    blocks[0][0].register_forward_hook(lambda *_: calls.append(1))
    before = kept(model)
    assert recompute_blocks(model, True) == ["blocks.0", "blocks.1"]
    assert recompute_blocks(model, ["blocks.*"]) == ["blocks.0", "blocks.1"]
    assert kept(model) < before
    calls.clear()
    model(torch.ones(2, 3)).sum().backward()
    assert len(calls) == 2  # forward, and again on the way back
    with pytest.raises(
        ConfigError, match=r"gradient_checkpointing=\['layers'\]: the model Net has no such module; it has blocks"
    ):
        recompute_blocks(model, ["layers"])


def test_single_gpu_without_a_gpu_names_the_engine_to_use(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="this machine has no CUDA device; use engine=vanilla_torch"):
        SingleGPU()


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
