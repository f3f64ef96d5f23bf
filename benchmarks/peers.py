"""Training steps a second beside Lightning and HF Accelerate, with the same features on.

Everybody trains the same network on the same samples with the same fused Adam, one thread, and does the same besides:
a validation and a checkpoint of everything each epoch, the loss of every step logged, a progress display.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from accelerator.cli.compose.compose import composer, plain
from accelerator.runtime.run import execute
from benchmarks.measure import interleaved
from benchmarks.step import Clock

BAR_TINY, BAR_MEDIUM = 2.0, 1.0


@dataclass(frozen=True)
class Case:
    """A network and its data.

    Attributes:
        shape: of a sample.
        batch: samples in one.
        batches: in an epoch.
        epochs: in a round.
        network: makes it.
        overrides: make it on the platform.
    """

    shape: tuple[int, ...]
    batch: int
    batches: int
    epochs: int
    network: Callable[[], nn.Module]
    overrides: tuple[str, ...]


def _mlp(*widths: int) -> nn.Module:
    layers: list[nn.Module] = []
    for width, following in pairwise(widths):
        layers += [nn.Linear(width, following), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _cnn() -> nn.Module:
    from domain.cv.model.cnn import CNN

    return CNN(input_shape=(3, 16, 16), output_shape=(10,), channels=[32, 64])


CASES = {
    "tiny: MLP 64-64-10, batch 32": Case(
        (64,), 32, 250, 6, lambda: _mlp(64, 64, 10), ("model=mlp", "model.hidden=[64]", "model.activation=relu")
    ),
    "medium: MLP 256-1024-1024-10, batch 64": Case(
        (256,),
        64,
        50,
        2,
        lambda: _mlp(256, 1024, 1024, 10),
        ("model=mlp", "model.hidden=[1024,1024]", "model.activation=relu"),
    ),
    "medium: CNN 32-64 on 3×16×16, batch 32": Case(
        (3, 16, 16), 32, 25, 2, _cnn, ("model=cnn", "model.channels=[32,64]")
    ),
}


def run(rounds: int = 9) -> str:
    """The section of the report, as Markdown."""
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    rows = []
    for name, case in CASES.items():
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rows += _rows(name, case, Path(folder), rounds)
    return "\n".join(
        [
            f"Lightning 2.6.6, Accelerate 1.15, one thread, {rounds} interleaved rounds after a warm-up; medians, and "
            "ratios of steps a second round by round (least–largest). The same network, samples and fused Adam; each "
            "with its own way to feed, log the loss of every step, show progress, validate and save everything each "
            "epoch (Lightning: CSVLogger, ModelCheckpoint, its bar; Accelerate: prepare, save_state, a file, tqdm; "
            "platform: its defaults, without MLflow).",
            "",
            f"Bars: at least {BAR_TINY:g} × the steps of either on the tiny network, never behind on medium ones.",
            "",
            "| | | µs a step | steps a second | platform ÷ this |",
            "|---|---|---|---|---|",
            *rows,
        ]
    )


def _rows(name: str, case: Case, folder: Path, rounds: int) -> list[str]:
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(case.batch * case.batches, *case.shape)).astype(np.float32)
    labels = generator.integers(0, 10, size=len(inputs))
    for part, rows in {"train": slice(None), "val": slice(0, 4 * case.batch), "test": slice(0, case.batch)}.items():
        np.savez(folder / f"{part}.npz", x=inputs[rows], y=labels[rows])
    x, y = torch.from_numpy(inputs), torch.from_numpy(labels)
    number = iter(range(10**6))
    timings = interleaved(
        {
            "platform": lambda: _platform(case, folder, folder / f"run-{next(number)}"),
            "Lightning": lambda: _lightning(case, x, y, folder / f"lightning-{next(number)}"),
            "Accelerate": lambda: _accelerate(case, x, y, folder / f"accelerate-{next(number)}"),
        },
        rounds,
    )
    steps, lines = case.batches * case.epochs, []
    for candidate in timings.rounds:
        least, median, largest = timings.ratio(candidate, "platform")
        seconds = timings.median(candidate)
        ratio = "" if candidate == "platform" else f"{median:.2f} ({least:.2f}–{largest:.2f})"
        lines.append(f"| {name} | {candidate} | {seconds / steps * 1e6:,.0f} | {steps / seconds:,.0f} | {ratio} |")
    return lines


def _platform(case: Case, data: Path, run_dir: Path) -> float:
    overrides = (
        *("data=arrays", f"data.path={{train: {data}/train.npz, val: {data}/val.npz, test: {data}/test.npz}}"),
        *("data.inputs=x", "data.targets=y", *case.overrides, "multilevel=single"),
        *("loss=cross_entropy", "transform=none", "metrics=none", "scheduler=constant", "trainer.test=false"),
        *(f"loader.batch_size={case.batch}", f"trainer.max_epochs={case.epochs}", "engine.threads=1", "tracking=none"),
    )
    with composer() as compose:
        config = plain(compose(overrides))
    run_dir.mkdir()
    clock = Clock()
    with contextlib.redirect_stdout(io.StringIO()):
        execute(config, run_dir, callbacks={"clock": clock})
    return clock.seconds


def _loaders(case: Case, x: Tensor, y: Tensor) -> tuple[Any, Any]:
    samples = TensorDataset(x, y)
    return (
        DataLoader(samples, batch_size=case.batch, shuffle=True),
        DataLoader(TensorDataset(x[: 4 * case.batch], y[: 4 * case.batch]), batch_size=4 * case.batch),
    )


def _lightning(case: Case, x: Tensor, y: Tensor, folder: Path) -> float:
    import lightning  # pyright: ignore[reportMissingImports] - of the extra `bench`
    from lightning.pytorch.callbacks import ModelCheckpoint  # pyright: ignore[reportMissingImports]
    from lightning.pytorch.loggers import CSVLogger  # pyright: ignore[reportMissingImports]

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network, self.loss = case.network(), nn.CrossEntropyLoss()

        def training_step(self, batch: Any, index: int) -> Tensor:
            loss = self.loss(self.network(batch[0]), batch[1])
            self.log("train/loss", loss)
            return loss

        def validation_step(self, batch: Any, index: int) -> None:
            self.log("val_loss", self.loss(self.network(batch[0]), batch[1]))

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), fused=True)

        def on_train_start(self) -> None:
            self.begin = time.perf_counter()

        def on_train_end(self) -> None:
            self.seconds = time.perf_counter() - self.begin

    torch.manual_seed(0)
    module = Module()
    train, val = _loaders(case, x, y)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        trainer = lightning.Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=case.epochs,
            logger=CSVLogger(folder),
            log_every_n_steps=1,
            callbacks=[ModelCheckpoint(monitor="val_loss", save_last=True)],
            num_sanity_val_steps=0,
            enable_model_summary=False,
        )
        trainer.fit(module, train, val)
    return module.seconds


def _accelerate(case: Case, x: Tensor, y: Tensor, folder: Path) -> float:
    from accelerate import Accelerator
    from tqdm import tqdm

    folder.mkdir()
    torch.manual_seed(0)
    accelerator, loss = Accelerator(cpu=True), nn.CrossEntropyLoss()
    network = case.network()
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    network, optimizer, train, val = accelerator.prepare(network, optimizer, *_loaders(case, x, y))
    begin = time.perf_counter()
    with (folder / "losses.txt").open("w") as log, contextlib.redirect_stderr(io.StringIO()):
        for epoch in range(case.epochs):
            for inputs, targets in tqdm(train):
                optimizer.zero_grad()
                value = loss(network(inputs), targets)
                accelerator.backward(value)
                optimizer.step()
                log.write(f"{value.item()}\n")
            network.eval()
            with torch.no_grad():
                for inputs, targets in val:
                    loss(network(inputs), targets).item()
            network.train()
            accelerator.save_state(str(folder / f"epoch-{epoch}"))
    return time.perf_counter() - begin
