"""Many small networks at once: `sweep.vectorize` against the same runs one by one.

Both are whole trainings of the platform: gathering batches, the default callbacks, the loss of every step in each run's
journal, a validation and a checkpoint each epoch. One thread.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from accelerator.cli.compose.compose import composer, plain
from accelerator.runtime.callbacks.base import Callback
from accelerator.runtime.run import execute
from accelerator.runtime.vectorized.together import Plan, execute_together
from benchmarks.measure import interleaved

BATCH, BATCHES, EPOCHS, N = 32, 500, 2, 64
BAR = 4.0  # times the steps a second of runs one by one, for a tiny MLP


class Clock(Callback):
    """Seconds from the first step to the end of the last, validation and saving included."""

    priority = 1000

    def stage_start(self, context: Any) -> None:
        """Start."""
        self.begin = time.perf_counter()

    def stage_end(self, context: Any) -> None:
        """Stop."""
        self.end = time.perf_counter()


def points(features: int = 32) -> dict[str, tuple[Tensor, Tensor]]:
    """A function of two of the features."""
    x = torch.randn(BATCH * BATCHES, features, generator=torch.Generator().manual_seed(0))
    y = x[:, :1].sin() + x[:, 1:2] * x[:, :1]
    return {"train": (x, y), "val": (x[:512], y[:512]), "test": (x[:32], y[:32])}


def pictures(batches: int = 20) -> dict[str, tuple[Tensor, Tensor]]:
    """The mean of each of so many batches of pictures, 16 × 16."""
    x = torch.randn(BATCH * batches, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    y = x.mean((1, 2, 3))[:, None]
    return {"train": (x, y), "val": (x[:64], y[:64]), "test": (x[:32], y[:32])}


class Convolutions(nn.Module):
    """Two convolutions and a linear layer: (B, 1, 16, 16) → (B, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(32 * 64, 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.layers(x)


def _mlp(features: int, width: int) -> list[str]:
    return [
        *("data._target_=benchmarks.vectorize.points", f"data.features={features}"),
        *("model=mlp", f"model.hidden=[{width},{width}]", "model.activation=relu"),
    ]


def run(rounds: int = 7) -> str:
    """The section of the report, as Markdown."""
    torch.set_num_threads(1)
    rates = [f"optimizer.lr={1e-4 * (number + 1):g}" for number in range(N)]
    seeds = [f"seed={number}" for number in range(N)]
    convolutions = ["data._target_=benchmarks.vectorize.pictures", "model=custom"]
    convolutions += ["model._target_=benchmarks.vectorize.Convolutions"]
    networks: dict[str, tuple[list[str], dict[str, list[str]]]] = {
        "MLP 16-32-32-1": (
            _mlp(16, 32),
            {f"{N} seeds": seeds, f"{N} learning rates": rates, "16 seeds": seeds[:16], "1 seed (control)": seeds[:1]},
        ),
        "MLP 32-64-64-1": (_mlp(32, 64), {f"{N} seeds": seeds, f"{N} learning rates": rates}),
        "convolutions, 16 × 16 pictures": (convolutions, {"16 seeds": seeds[:16]}),
    }
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folders = (Path(name) / str(number) for number in range(10**6))
        for network, (overrides, sweeps) in networks.items():
            rows += _measured(network, overrides, sweeps, folders.__next__, rounds)
    return "\n".join(
        [
            f"Batch {BATCH}, {BATCHES} batches an epoch (convolutions: 20), {EPOCHS} epochs, fused Adam, one thread, "
            f"{rounds} interleaved rounds after a warm-up; medians, and ratios round by round (least–largest). Both "
            "are whole trainings: data, callbacks, journals, validation and a checkpoint each epoch; without MLflow.",
            "",
            f"Bar: at least {BAR:g} × the steps a second of runs one by one, {N} tiny MLPs.",
            "",
            "| network | together | steps/s one by one | steps/s together | ratio |",
            "|---|---|---|---|---|",
            *rows,
        ]
    )


def _measured(
    network: str, overrides: list[str], sweeps: dict[str, list[str]], folder: Callable[[], Path], rounds: int
) -> list[str]:
    candidates = {"alone": lambda: _seconds(overrides, ["seed=0"], folder(), together=False)}
    for name, jobs in sweeps.items():
        candidates[name] = lambda jobs=jobs: _seconds(overrides, jobs, folder(), together=True)
    timings = interleaved(candidates, rounds)
    rows = []
    for name in sweeps:
        least, ratio, largest = timings.ratio("alone", name)
        rows.append(
            f"| {network} | {name} | {1 / timings.median('alone'):,.0f} | {1 / timings.median(name):,.0f} | "
            f"{ratio:.2f} ({least:.2f}–{largest:.2f}) |"
        )
    return rows


def _seconds(overrides: list[str], jobs: list[str], folder: Path, *, together: bool) -> float:
    """Seconds for a step of one network."""
    common = [
        *("imports=[benchmarks.vectorize]", "data=custom", *overrides, "multilevel=single", "optimizer=adam"),
        *("scheduler=constant", "transform=none", "metrics=none", "trainer.test=false", "tracking=none"),
        *(f"loader.batch_size={BATCH}", f"trainer.max_epochs={EPOCHS}", "engine.threads=1"),
        *("callbacks.progress=null", "callbacks.pictures=null"),
    ]
    plans, clocks = [], []
    with composer() as compose:
        values = plain(compose(common))
    for number, job in enumerate(jobs):
        key, value = job.split("=")
        own = {**values, "seed": int(value)} if key == "seed" else values
        if key == "optimizer.lr":
            own = {**values, "optimizer": {**values["optimizer"], "lr": float(value)}}
        clocks.append(Clock())
        plans.append(Plan(own, folder / str(number), callbacks={"clock": clocks[-1]}))
        plans[-1].run_dir.mkdir(parents=True)
    with contextlib.redirect_stdout(io.StringIO()):
        if together:
            results = execute_together(plans)
        else:
            results = [execute(plan.config, plan.run_dir, callbacks=plan.callbacks) for plan in plans]
    steps = 0
    for result in results:
        if isinstance(result, Exception):
            raise result
        steps += result.steps
    return (max(clock.end for clock in clocks) - min(clock.begin for clock in clocks)) / steps
