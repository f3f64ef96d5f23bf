"""One GPU: the same losses as on the CPU, within its memory, with the data where they belong. `make test-gpu`."""

import pytest
import torch
from run_outcomes import equal, last_state, points
from torch import nn

from accelerator.runtime.data.feed import InMemoryFeed
from accelerator.runtime.engine.base import Clip
from accelerator.runtime.engine.single_gpu import SingleGPU
from accelerator.runtime.run import execute
from accelerator.utilities.memory import limit_gpu_memory

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]


@pytest.fixture(autouse=True)
def settings_as_before():
    yield
    torch.set_float32_matmul_precision("highest")
    torch.cuda.set_per_process_memory_fraction(1.0)


def losses(folder, config):
    folder.mkdir()
    execute(config, folder)
    return dict(points(folder, "train/loss"))


def on_gpu(make, *, sections=None, **engine):
    return make(
        engine={"name": "single_gpu", "threads": 1, "matmul_precision": "highest", **engine},
        optimizer={"name": "Adam", "lr": 0.01, "fused": True},
        **(sections or {}),
    )


@pytest.mark.parametrize("multilevel", [{"name": "single"}, {"name": "cascade", "levels": 2, "min_width": 2}])
def test_the_gpu_gives_the_losses_of_the_cpu(tmp_path, tiny_config, multilevel):
    sections = {"multilevel": multilevel, "model": {"name": "mlp", "hidden": [8, 8]}}
    cpu = tiny_config(
        engine={"name": "vanilla_torch", "device": "cpu"}, optimizer={"name": "Adam", "lr": 0.01}, **sections
    )
    theirs = losses(tmp_path / "cpu", cpu)
    assert losses(tmp_path / "gpu", on_gpu(tiny_config, sections=sections)) == pytest.approx(theirs, rel=1e-4)


@pytest.mark.parametrize("precision", ["bf16", "16"])
def test_half_precision_trains(tmp_path, tiny_config, precision):
    whole = losses(tmp_path / "single", on_gpu(tiny_config))
    half = losses(tmp_path / "half", on_gpu(tiny_config, precision=precision))
    assert half != whole
    if precision == "bf16":
        assert half == pytest.approx(whole, rel=0.05)


@pytest.mark.filterwarnings("ignore")
def test_cuda_graphs_give_the_same_losses(tmp_path, tiny_config):
    whole = losses(tmp_path / "eager", on_gpu(tiny_config))
    assert losses(tmp_path / "graphs", on_gpu(tiny_config, compile="reduce-overhead")) == pytest.approx(whole, rel=1e-4)


def test_a_resumed_run_is_the_uninterrupted_one_to_the_last_bit(tmp_path, tiny_config):
    sections = {"model": {"name": "mlp", "hidden": [8], "dropout": 0.2}, "trainer": {"max_epochs": 4}}
    config = on_gpu(tiny_config, deterministic=True, sections={**sections, "checkpoint": {"every_steps": 1}})
    losses(tmp_path / "whole", config)
    part = tmp_path / "part"
    losses(part, {**config, "trainer": {**config["trainer"], "max_steps": 5}})
    execute(config, part, resume=part / "checkpoints")
    assert equal(last_state(part)["model"], last_state(tmp_path / "whole")["model"])


def test_memory_beyond_the_limit_is_refused_and_the_batch_halved(caplog):
    whole = torch.cuda.get_device_properties(0).total_memory
    assert limit_gpu_memory(1.0) == 1.0
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(int(1.5e9), dtype=torch.uint8, device="cuda")
    assert limit_gpu_memory(0) is None
    assert limit_gpu_memory(whole) is None
    engine = SingleGPU(memory_limit_gb=1.0)
    model = engine.prepare(nn.Sequential(nn.Linear(1000, 20000), nn.Tanh(), nn.Linear(20000, 1)))
    engine.bind(model, nn.functional.mse_loss, torch.optim.SGD(model.parameters(), lr=0.1), Clip())
    batch = torch.randn(8000, 1000, device="cuda"), torch.randn(8000, 1, device="cuda")
    loss = engine.forward_backward(batch)
    assert engine.accumulate in (2, 4, 8, 16)
    assert "out of memory" in caplog.text
    with torch.no_grad():
        rows = [
            nn.functional.mse_loss(model(x), y) for x, y in zip(batch[0].split(500), batch[1].split(500), strict=True)
        ]
    assert loss.item() == pytest.approx(torch.stack(rows).mean().item(), rel=1e-4)


def test_images_are_laid_out_by_channels():
    engine = SingleGPU()
    model = engine.prepare(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.LazyLinear(1)))
    images = torch.randn(4, 3, 8, 8, device="cuda")
    model(images)
    seen = []
    model[0].register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    engine.bind(model, nn.functional.mse_loss, torch.optim.SGD(model.parameters(), lr=0.1), Clip())
    engine.forward_backward((images, torch.zeros(4, 1, device="cuda")))
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_data_that_stay_in_main_memory_arrive_on_the_gpu_unchanged():
    x, y = torch.randn(100, 3), torch.randn(100, 1)
    feeds = [
        InMemoryFeed(x, y, 8, shuffle=True, device=torch.device("cuda")),
        InMemoryFeed(x.cuda(), y.cuda(), 8, shuffle=True),
    ]
    for ours, theirs in zip(*(feed.epoch(3) for feed in feeds), strict=True):
        assert ours[0].is_cuda
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])
