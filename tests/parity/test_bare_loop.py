"""The platform's loop is the bare loop: the same losses, to the last bit."""

import json

import pytest
import torch
from torch import nn

from accelerator.cli.compose.compose import composer, plain
from accelerator.runtime.data.feed import InMemoryFeed
from accelerator.runtime.run import execute
from accelerator.utilities.base_registry import registry
from accelerator.utilities.seed import seed_everything

STEPS = 50


def platform_losses(tmp_path, overrides):
    with composer() as compose:
        config = plain(compose([*overrides, "tracking=none", "engine.threads=1", f"trainer.max_steps={STEPS}"]))
    execute(config, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    return [line["value"] for line in lines if line.get("key") == "train/loss"]


def bare_losses(model, loss, optimizer, scheduler, seed, batch_size=32):
    """What one would write by hand, given the same batches."""
    digits = registry("data").get("digits")()
    feed = InMemoryFeed(*digits["train"], batch_size, seed=seed, shuffle=True)
    losses, epoch = [], 0
    while len(losses) < STEPS:
        for inputs, targets in feed.epoch(epoch):
            optimizer.zero_grad()
            value = loss(model(inputs), targets)
            value.backward()
            optimizer.step()
            losses.append(value.item())
            if len(losses) == STEPS:
                return losses
        epoch += 1
        scheduler.step()
        model.eval()  # validation: no gradients, no randomness
        model.train()
    return losses


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("overrides", "make_optimizer", "make_scheduler"),
    [
        (
            ["optimizer=sgd", "optimizer.lr=0.05", "scheduler=constant", "model.dropout=0.0"],
            lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, fused=True),
            lambda o: torch.optim.lr_scheduler.ConstantLR(o, factor=1.0, total_iters=0),
        ),
        (
            ["optimizer=adam", "scheduler=cosine", "model.dropout=0.2"],
            lambda p: torch.optim.Adam(p, lr=1e-3, fused=True),
            lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=20),
        ),
    ],
)
def test_platform_and_bare_loop_give_bit_equal_losses(tmp_path, seed, overrides, make_optimizer, make_scheduler):
    dropout = next(o for o in overrides if o.startswith("model.dropout")).split("=")[1]
    ours = platform_losses(
        tmp_path,
        ["experiment=digits", "model=mlp", "model.hidden=[32,32]", f"seed={seed}", *overrides],
    )

    seed_everything(seed)
    torch.set_num_threads(1)
    model = registry("model").get("mlp")(
        input_shape=(1, 8, 8), output_shape=(10,), hidden=[32, 32], dropout=float(dropout)
    )
    optimizer = make_optimizer(model.parameters())
    theirs = bare_losses(model, nn.CrossEntropyLoss(), optimizer, make_scheduler(optimizer), seed)

    assert len(ours) == STEPS
    assert ours == theirs
