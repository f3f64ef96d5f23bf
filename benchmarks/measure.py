"""How things are timed here: in interleaved rounds, so that a drift of the machine meets all candidates alike."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Timings:
    """Seconds of each candidate, round by round."""

    rounds: dict[str, list[float]]

    def median(self, name: str) -> float:
        """Median seconds of a candidate."""
        return statistics.median(self.rounds[name])

    def ratio(self, name: str, other: str) -> tuple[float, float, float]:
        """Least, median and largest ratio of two candidates, pair by pair."""
        ratios = [a / b for a, b in zip(self.rounds[name], self.rounds[other], strict=True)]
        return min(ratios), statistics.median(ratios), max(ratios)


def interleaved(candidates: Mapping[str, Callable[[], float]], rounds: int, warmup: int = 1) -> Timings:
    """Call every candidate once a round, the order turned by one each round; each returns its own seconds."""
    names = list(candidates)
    for _ in range(warmup):
        for name in names:
            candidates[name]()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            seconds[name].append(candidates[name]())
    return Timings(seconds)


def command(arguments: Sequence[str | Path], folder: Path, **environment: str) -> Callable[[], float]:
    """A candidate that runs a process in a folder and returns its wall time."""

    def run() -> float:
        begin = time.perf_counter()
        subprocess.run(arguments, cwd=folder, check=True, capture_output=True, env={**os.environ, **environment})
        return time.perf_counter() - begin

    return run


def with_peak_memory(arguments: Sequence[str | Path], folder: Path) -> tuple[float, float]:
    """Wall seconds and the peak resident megabytes of the largest process of a command's tree."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    seconds = command(arguments, folder)()
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    assert peak >= before
    return seconds, peak / 1024
