"""Saving a checkpoint: what the training loop waits for, and what it feels while the file is written."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from accelerator.cli.compose.compose import composer, plain
from accelerator.runtime.callbacks.base import Callback
from accelerator.runtime.checkpoint.checkpoint_handler import CheckpointHandler
from accelerator.runtime.run import execute
from accelerator.runtime.run_directory import CHECKPOINTS
from benchmarks.measure import interleaved

SIZES = {"100 MB": (100_000_000, 9), "1 GB": (1_000_000_000, 3)}  # bytes, rounds
TENSORS = 48
BAR_BLOCKED, BAR_STEP = 0.30, 1.1
FACTS: dict[str, Any] = {"epoch": 0, "level": 0, "work": 0.0, "metrics": {}, "fingerprint": "", "versions": {}}


def run() -> str:
    """The section of the report, as Markdown."""
    torch.set_num_threads(1)
    blocked, beside = [], []
    for size, (length, rounds) in SIZES.items():
        generator = torch.Generator().manual_seed(0)
        state = {f"layer.{i}": torch.randn(length // 4 // TENSORS, generator=generator) for i in range(TENSORS)}
        with tempfile.TemporaryDirectory() as name:
            blocked.append(_blocked(size, state, Path(name), rounds))
            beside += _beside(size, state, Path(name), rounds)
    return "\n".join(
        [
            f"A state of {TENSORS} float32 tensors, one thread; interleaved rounds after a warm-up, the disk idle "
            "before each (`sync`). *Blocked* is the time until the call returns; *durable* until file, sidecar and "
            "folder are flushed. `torch.save` flushes nothing. *First* is a handler's first save, whose buffer is new "
            "memory.",
            "",
            f"Bar: blocked at most {BAR_BLOCKED} × what `torch.save(state, path)` blocks.",
            "",
            "| state | `torch.save`, ms | ours, blocked, ms | ratio (least–largest) | first, ms | durable, s |",
            "|---|---|---|---|---|---|",
            *blocked,
            "",
            "An MLP 64-256-256-10 trained beside (batch 64, fused Adam). *Usual* steps are those of a second before "
            "each write; *longest* is the median over the rounds of the longest step in as many usual "
            "steps and in as many beside the write. `torch.save` in a thread stands beside for comparison.",
            "",
            f"Bar: a step beside the write at most {BAR_STEP} × the usual.",
            "",
            "| state | written by | usual, ms | beside, ms | ratio (least–largest) | 99th of 100, usual → beside, ms | "
            "longest, usual → beside, ms |",
            "|---|---|---|---|---|---|---|",
            *beside,
            "",
            *_resumed(),
        ]
    )


def _resumed(rounds: int = 5) -> list[str]:
    """Seconds from a resumed run's beginning to its first step, beside what reading and checking the file takes."""
    overrides = ["experiment=digits", "model=mlp", "model.hidden=[2500,2500]", "tracking=none", "engine.threads=1"]
    with composer() as compose:
        config = plain(compose([*overrides, "trainer.max_steps=40"]))
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()):
        folder = Path(name)
        first = FirstStep()

        def fresh(run: Path) -> float:
            run.mkdir()
            begin = time.perf_counter()
            execute(config, run, callbacks={"first": first})
            return first.at - begin

        def again(run: Path) -> float:
            begin = time.perf_counter()
            execute(longer, run, resume=run / CHECKPOINTS, callbacks={"first": first})
            return first.at - begin

        longer = {**config, "trainer": {**config["trainer"], "max_steps": 45, "max_epochs": 40}}
        config["trainer"]["max_epochs"] = 40
        begun, resumed, loads, size = [], [], [], 0
        fresh(folder / "warm-up")
        for number in range(rounds):
            run = folder / str(number)
            begun.append(fresh(run))
            handler = CheckpointHandler(run / CHECKPOINTS)
            loads.append(_timed(handler.load_last))
            size = handler.paths()[-1].stat().st_size
            resumed.append(again(run))
            shutil.rmtree(run)
    load = statistics.median(loads)
    over = statistics.median(b - a for a, b in zip(loads, resumed, strict=True))
    return [
        f"A run with a checkpoint of {size / 1e6:.0f} MB, {rounds} rounds: from a resumed run's beginning to the end "
        f"of its first step {statistics.median(resumed):.2f} s, of which reading and checking the file takes "
        f"{load:.2f} s; what is left is {over:.2f} s (bar 2 s). A fresh run takes {statistics.median(begun):.2f} s. "
        "Python and torch are imported."
    ]


class FirstStep(Callback):
    """When the first step of a run ended."""

    def run_start(self, context: Any) -> None:
        """None has yet."""
        self.at = 0.0

    def step_end(self, context: Any) -> None:
        """Look at the clock, once."""
        self.at = self.at or time.perf_counter()


def _blocked(size: str, state: dict[str, Tensor], folder: Path, rounds: int) -> str:
    path, numbers = folder / "plain.pt", iter(range(10**6))
    handler, durable = CheckpointHandler(folder / "ours"), []

    def plain() -> float:
        path.unlink(missing_ok=True)
        return _timed(lambda: torch.save(state, path))

    def ours() -> float:
        begin = time.perf_counter()
        seconds = _timed(lambda: handler.save(state, step=next(numbers), **FACTS))
        while handler.writing:
            time.sleep(0.001)
        durable.append(time.perf_counter() - begin)
        return seconds

    first = _timed(lambda: handler.save(state, step=next(numbers), **FACTS))
    handler.wait()
    timings = interleaved({"plain": plain, "ours": ours}, rounds)
    least, middle, largest = timings.ratio("ours", "plain")
    path.unlink()
    return (
        f"| {size} | {timings.median('plain') * 1e3:.0f} | {timings.median('ours') * 1e3:.1f} | "
        f"{middle:.2f} ({least:.2f}–{largest:.2f}) | {first * 1e3:.0f} | {statistics.median(durable[1:]):.2f} |"
    )


def _timed(call: Callable[[], Any]) -> float:
    os.sync()
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def _beside(size: str, state: dict[str, Tensor], folder: Path, rounds: int) -> list[str]:
    """Step times while a state is written, against those just before."""
    step, path, numbers = _training(), folder / "plain.pt", iter(range(10**6))
    handler = CheckpointHandler(folder / "beside")

    def ours() -> Callable[[], bool]:
        handler.save(state, step=next(numbers), **FACTS)
        return lambda: handler.writing

    def plain() -> Callable[[], bool]:
        path.unlink(missing_ok=True)
        thread = threading.Thread(target=torch.save, args=(state, path))
        thread.start()
        return thread.is_alive

    writers = {"ours": ours, "`torch.save` in a thread": plain}
    found: dict[str, list[tuple[list[float], list[float]]]] = {name: [] for name in writers}
    for number in range(rounds + 1):
        for name, write in writers.items():
            os.sync()
            end = time.perf_counter() + 1
            usual = _steps(step, lambda end=end: time.perf_counter() < end)
            beside = _steps(step, write())
            if number:
                found[name].append((usual, beside))
    handler.wait()
    path.unlink()
    return [_row(size, name, pairs) for name, pairs in found.items()]


def _row(size: str, name: str, pairs: list[tuple[list[float], list[float]]]) -> str:
    ratios = [statistics.median(beside) / statistics.median(usual) for usual, beside in pairs]
    usual, beside = ([seconds for pair in pairs for seconds in pair[side]] for side in (0, 1))
    longest = [
        statistics.median(max(pair[side][: min(map(len, pair))]) for pair in pairs)  # of as many steps
        for side in (0, 1)
    ]
    return (
        f"| {size} | {name} | {statistics.median(usual) * 1e3:.2f} | {statistics.median(beside) * 1e3:.2f} | "
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f}) | "
        f"{_percentile(usual) * 1e3:.2f} → {_percentile(beside) * 1e3:.2f} | "
        f"{longest[0] * 1e3:.1f} → {longest[1] * 1e3:.1f} |"
    )


def _percentile(seconds: Sequence[float]) -> float:
    return sorted(seconds)[int(0.99 * len(seconds))]


def _steps(step: Callable[[], None], goes_on: Callable[[], bool]) -> list[float]:
    seconds = []
    while goes_on():
        begin = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - begin)
    return seconds


def _training() -> Callable[[], None]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    optimizer, loss = torch.optim.Adam(model.parameters(), fused=True), nn.CrossEntropyLoss()
    inputs, targets = torch.randn(64, 64), torch.randint(0, 10, (64,))

    def step() -> None:
        optimizer.zero_grad()
        loss(model(inputs), targets).backward()
        optimizer.step()

    return step
