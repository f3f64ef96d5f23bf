"""How busy the machine and the training are: sampled in the uploader's process, under the keys MLflow's UI knows.

What MLflow's own monitors measure (processor, memory, disk, network, GPUs) is of the whole machine. Two more are of
the training process and those it has started: ``system/process_cpu_utilization_percentage`` (100 is one core) and
``system/process_memory_usage_megabytes``.
"""

from __future__ import annotations

import os
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor

PREFIX = "system/"
FIRST = 5.0  # seconds to the first sample, so that a short run has one
MOST_POINTS = 10_000  # that wait for a store which does not answer (two hours of them); the oldest are dropped


class SystemMetrics:
    """Takes a sample when one is due, and keeps its points, as the journal's lines, until they have been sent.

    Args:
        interval: seconds between two samples.
        started: when the run began, UTC in milliseconds; a sample's step is the seconds since.
        parent: id of the training process.
        last: step of the last sample an earlier uploader took.
    """

    def __init__(self, interval: float, *, started: int, parent: int, last: int = -1) -> None:
        self.interval = interval
        self.last = last
        self.points: deque[dict[str, Any]] = deque(maxlen=MOST_POINTS)
        # The steps follow a clock that nobody sets.
        self._age = time.time() - started / 1000 - time.monotonic()
        self._monitors = _monitors(parent)
        self._measure()  # what is counted between two looks needs a first one
        self._due = time.monotonic() + min(FIRST, interval)

    def sample_if_due(self) -> None:
        """Take a sample when the last was ``interval`` seconds ago."""
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + self.interval
        self.last = max(int(now + self._age), self.last + 1)
        at = {"step": self.last, "time": int(time.time() * 1000)}
        self.points.extend({"key": PREFIX + key, "value": value} | at for key, value in self._measure().items())

    def _measure(self) -> dict[str, float]:
        values: dict[str, float] = {}
        for monitor in list(self._monitors):
            try:
                monitor.collect_metrics()
                values.update(monitor.aggregate_metrics() or {})
                monitor.clear_metrics()
            except Exception as error:  # a driver that was unloaded, a file system that is gone
                self._monitors.remove(monitor)
                print(f"{type(monitor).__name__} measures no more: {type(error).__name__}: {error}", flush=True)
        return values


class Training:
    """Monitors the training process and those it has started, without ourselves; speaks as MLflow's monitors do.

    Args:
        parent: id of the training process.
    """

    def __init__(self, parent: int) -> None:
        import psutil

        self._gone = psutil.Error
        self._process = psutil.Process(parent)
        self._seconds: dict[int, float] = {}
        self._at = time.monotonic()
        self._metrics: dict[str, float] = {}

    def collect_metrics(self) -> None:
        """Measure since the last time."""
        before, self._seconds, memory = self._seconds, {}, 0
        with suppress(self._gone):
            for process in [self._process, *self._process.children(recursive=True)]:
                if process.pid == os.getpid():
                    continue
                with suppress(self._gone):
                    times = process.cpu_times()
                    self._seconds[process.pid] = times.user + times.system
                    memory += process.memory_info().rss
        used = sum(max(0.0, seconds - before.get(pid, 0.0)) for pid, seconds in self._seconds.items())
        now = time.monotonic()
        if self._seconds:
            self._metrics = {
                "process_cpu_utilization_percentage": round(100 * used / max(now - self._at, 1e-3), 1),
                "process_memory_usage_megabytes": round(memory / 1e6, 1),
            }
        self._at = now

    def aggregate_metrics(self) -> dict[str, float]:
        """What was measured."""
        return dict(self._metrics)

    def clear_metrics(self) -> None:
        """Forget it."""
        self._metrics = {}


def _monitors(parent: int) -> list[BaseMetricsMonitor | Training]:
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor
    from mlflow.system_metrics.metrics.rocm_monitor import ROCMMonitor

    monitors: list[BaseMetricsMonitor | Training] = []
    for make in (CPUMonitor, DiskMonitor, NetworkMonitor, GPUMonitor, ROCMMonitor, lambda: Training(parent)):
        with suppress(Exception):  # its driver or its package is not there
            monitors.append(make())
    return monitors
