"""One training step: the platform with everything on, a hand-written loop, and the tutorial's loop.

A tiny MLP 64-64-10, batch 32, one thread: nearly all of a step is overhead, which is what is measured.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from accelerator.cli.compose.compose import composer, plain
from accelerator.cli.record import About, Record
from accelerator.runtime.callbacks.base import Callback
from accelerator.runtime.data.feed import InMemoryFeed
from accelerator.runtime.run import execute
from benchmarks.measure import interleaved

BATCH, BATCHES, EPOCHS = 32, 500, 8
STEPS = BATCHES * EPOCHS
BAR_HAND, BAR_TUTORIAL = 1.08, 1.3


class Clock(Callback):
    """Seconds from the first step to the end of the last, validation and saving included."""

    priority = 1000

    def stage_start(self, context: Any) -> None:
        """Start."""
        self.begin = time.perf_counter()

    def stage_end(self, context: Any) -> None:
        """Stop; called first on the way out."""
        self.seconds = time.perf_counter() - self.begin


def run(rounds: int = 15) -> str:
    """The section of the report, as Markdown."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        return _report(Path(name), rounds)


def _report(folder: Path, rounds: int) -> str:
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(BATCH * BATCHES, 64)).astype(np.float32)
    labels = generator.integers(0, 10, size=len(inputs))
    parts = {"train": slice(None), "val": slice(0, BATCH), "test": slice(0, BATCH)}
    for part, rows in parts.items():
        np.savez(folder / f"{part}.npz", x=inputs[rows], y=labels[rows])
    x, y = torch.from_numpy(inputs), torch.from_numpy(labels)
    runs = iter(range(10**6))

    def platform(*overrides: str) -> float:
        return _platform(folder, folder / f"run-{next(runs)}", overrides)

    timings = interleaved(
        {
            "platform, everything on": platform,
            "platform, no MLflow": lambda: platform("tracking=none"),
            "hand-written loop": lambda: _hand_written(x, y),
            "tutorial loop": lambda: _tutorial(x, y),
        },
        rounds,
    )
    rows = []
    for candidate in timings.rounds:
        hand, tutorial = timings.ratio(candidate, "hand-written loop"), timings.ratio("tutorial loop", candidate)
        rows.append(
            f"| {candidate} | {timings.median(candidate) / STEPS * 1e6:.1f} | "
            f"{STEPS / timings.median(candidate):,.0f} | {hand[1]:.3f} ({hand[0]:.3f}–{hand[2]:.3f}) | "
            f"{tutorial[1]:.2f} ({tutorial[0]:.2f}–{tutorial[2]:.2f}) |"
        )
    return "\n".join(
        [
            f"MLP 64-64-10, batch {BATCH}, {STEPS:,} steps a round in {EPOCHS} epochs, one thread, {rounds} "
            "interleaved rounds after a warm-up; medians, and ratios round by round (least–largest).",
            "",
            "*Everything on*: progress, the five default callbacks, the loss of every step in the journal and on its "
            "way to MLflow on SQLite, a validation and a checkpoint each epoch (all of it inside the time). "
            "*Hand-written*: the same batches and the same fused Adam, `zero_grad`, `backward`, `step`, nothing else. "
            "*Tutorial*: `DataLoader(TensorDataset(...), shuffle=True)` and `Adam` as constructed by default.",
            "",
            f"Bars: at most {BAR_HAND} × the hand-written loop, at least {BAR_TUTORIAL} × faster than the tutorial's.",
            "",
            "| | µs a step | steps a second | time ÷ hand-written | speed ÷ tutorial |",
            "|---|---|---|---|---|",
            *rows,
        ]
    )


def _platform(data: Path, run_dir: Path, overrides: tuple[str, ...]) -> float:
    overrides = (
        *("data=arrays", f"data.path={{train: {data}/train.npz, val: {data}/val.npz, test: {data}/test.npz}}"),
        *("data.inputs=x", "data.targets=y", "model=mlp", "model.hidden=[64]", "model.activation=relu"),
        *("loss=cross_entropy", "transform=none", "metrics=none", "scheduler=constant", "trainer.test=false"),
        *(f"loader.batch_size={BATCH}", f"trainer.max_epochs={EPOCHS}", "engine.threads=1"),
        *(f"tracking.uri=sqlite:///{data}/mlflow.db", *overrides),
    )
    with composer() as compose:
        config = compose(overrides)
    values = plain(config)
    run_dir.mkdir()
    clock = Clock()
    record = Record(values, About("train", values, overrides), run_dir)
    with contextlib.redirect_stdout(io.StringIO()):
        execute(values, run_dir, callbacks={"clock": clock, "record": record})
    return clock.seconds


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def _hand_written(x: torch.Tensor, y: torch.Tensor) -> float:
    model, loss = _model(), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    feed = InMemoryFeed(x, y, BATCH, shuffle=True)
    begin = time.perf_counter()
    for epoch in range(EPOCHS):
        for inputs, targets in feed.epoch(epoch):
            optimizer.zero_grad()
            loss(model(inputs), targets).backward()
            optimizer.step()
    return time.perf_counter() - begin


def _tutorial(x: torch.Tensor, y: torch.Tensor) -> float:
    model, loss = _model(), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters())
    loader = DataLoader(TensorDataset(x, y), batch_size=BATCH, shuffle=True)
    begin = time.perf_counter()
    for _ in range(EPOCHS):
        for inputs, targets in loader:
            optimizer.zero_grad()
            loss(model(inputs), targets).backward()
            optimizer.step()
    return time.perf_counter() - begin
