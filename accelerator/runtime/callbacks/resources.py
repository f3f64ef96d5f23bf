"""Gauges of the machine: memory, processor time, and the time of a step."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from accelerator.runtime.callbacks.base import Callback
from accelerator.runtime.callbacks.monitors import check_every, due

if TYPE_CHECKING:
    from accelerator.runtime.context.context import Context
    from accelerator.runtime.data.feed import Batch

MIB = 1 << 20


class Memory(Callback):
    """Writes what the run takes of the machine (of rank 0, without the loaders' workers), in MiB and percent.

    Metrics: ``memory/process_peak`` (the most that was resident so far), ``memory/process`` (now; needs psutil),
    ``memory/cpu_percent`` (of one core, since the last look; 400 are four busy cores). On a GPU
    ``memory/gpu_allocated`` and ``memory/gpu_peak`` (by tensors), ``memory/gpu_reserved`` (from the driver);
    ``memory/gpu_busy_percent`` and ``memory/gpu_used`` (of the whole device, by everybody; need nvidia-ml-py).

    Args:
        every: steps between two looks; null: one look a pass.
    """

    critical = False
    main_only = True

    def __init__(self, every: int | None = None) -> None:
        check_every(every)
        self.every = every

    def run_start(self, context: Context) -> None:
        """Learn what can be measured."""
        self._process = import_module("psutil").Process() if find_spec("psutil") else None
        self._nvml = find_spec("pynvml") is not None
        self._clock = time.perf_counter(), time.process_time()

    def after_backward(self, context: Context) -> None:
        """Look, if it is time: activations are gone, gradients are there."""
        if context.journal is not None and due(context, self.every):
            context.journal.metrics(self._measure(context.engine.device), context.state.step + 1)

    def _measure(self, device: torch.device) -> dict[str, float]:
        now = time.perf_counter(), time.process_time()
        wall, busy = (new - old for new, old in zip(now, self._clock, strict=True))
        self._clock = now
        values = {"memory/cpu_percent": 100 * busy / max(wall, 1e-9)}
        if find_spec("resource"):  # not on Windows
            import resource

            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            values["memory/process_peak"] = peak / MIB if sys.platform == "darwin" else peak / 1024
        if self._process is not None:
            values["memory/process"] = self._process.memory_info().rss / MIB
        if device.type == "cuda":
            values["memory/gpu_allocated"] = torch.cuda.memory_allocated(device) / MIB
            values["memory/gpu_reserved"] = torch.cuda.memory_reserved(device) / MIB
            values["memory/gpu_peak"] = torch.cuda.max_memory_allocated(device) / MIB
            if self._nvml:
                values["memory/gpu_busy_percent"] = float(torch.cuda.utilization(device))
                values["memory/gpu_used"] = torch.cuda.device_memory_used(device) / MIB
        return values


class StepTime(Callback):
    """Writes how long the steps of a pass took, in seconds.

    Metrics, each pass: ``step_time/median``, ``step_time/p95`` and ``step_time/longest``, from the end of one step to
    the end of the next, callbacks and saves inside the pass included; ``step_time/data_wait``, the mean time that a
    step waited for its batch. Times are those of the process: a GPU that computes is waited for only where its queue is
    full or a value is read, so single steps may seem short, and one step long; their mean is right.
    """

    priority = 40
    critical = False
    main_only = True

    def __init__(self) -> None:
        self._times: list[float] = []
        self._waited = 0.0

    def run_start(self, context: Context) -> None:
        """Look on at the training feed."""
        feed = context.data.train
        feed.epoch = self._watched(feed.epoch)

    def stage_start(self, context: Context) -> None:
        """Start the clock: what was between two stages does not count."""
        self._last = time.perf_counter()

    def epoch_start(self, context: Context) -> None:
        """Start the clock: validation and saving do not count."""
        self._last = time.perf_counter()

    def step_end(self, context: Context) -> None:
        """Take the time."""
        now = time.perf_counter()
        self._times.append(now - self._last)
        self._last = now

    def epoch_end(self, context: Context) -> None:
        """Write the pass down."""
        times, waited = self._times, self._waited
        self._times, self._waited = [], 0.0
        if context.journal is not None and times:
            median, high = np.percentile(times, (50, 95)).tolist()
            values = {"median": median, "p95": high, "longest": max(times), "data_wait": waited / len(times)}
            context.journal.metrics({f"step_time/{key}": value for key, value in values.items()}, context.state.step)

    def _watched(self, epoch: Callable[..., Iterator[Batch]]) -> Callable[..., Iterator[Batch]]:
        def watched(*args: Any) -> Iterator[Batch]:
            batches = epoch(*args)
            while True:
                begin = time.perf_counter()
                batch = next(batches, None)
                self._waited += time.perf_counter() - begin
                if batch is None:
                    return
                yield batch

        return watched
