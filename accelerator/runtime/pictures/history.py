"""What a run's journal says of losses, levels and work, as arrays.

The logger notes ``level`` and ``work`` where a stage starts and where a pass ends. The level holds for the steps that
follow until it is noted again; in between, work grows by the same amount each step.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats, Integers = NDArray[np.float64], NDArray[np.int64]

_MOST = 30_000  # training losses read: a million steps are a million lines, and parsing each would take 3 s

# As `Journal` begins the line of a point.
_TRAINING = b'{"key":"train/loss",'
_OTHERS = tuple(b'{"key":"%s",' % key for key in (b"val/loss", b"work", b"level"))


@dataclass(frozen=True)
class Series:
    """Points of one metric, in the order measured: steps (n,), values (n,); only finite ones."""

    steps: Integers
    values: Floats

    def __len__(self) -> int:
        return len(self.steps)


@dataclass(frozen=True)
class History:
    """The course of a run.

    Attributes:
        training: the loss of each step, or of every n-th of a long run.
        validation: the loss on the validation split.
        starts: steps done where a stretch on one level begins, increasing; the first is 0 or less than any other.
        levels: of each stretch; two neighbours differ.
    """

    training: Series
    validation: Series
    starts: Integers
    levels: Integers
    _work: Series
    _costs: Floats

    def stretch(self, steps: Integers) -> Integers:
        """The number of the stretch each step belongs to; what is measured after its last step belongs to it too."""
        return np.maximum(np.searchsorted(self.starts, steps, side="left") - 1, 0)

    def level(self, steps: Integers) -> Integers:
        """The level each step was done on."""
        return self.levels[self.stretch(steps)]

    def work(self, steps: Integers) -> Floats:
        """Work units done after each step."""
        known, values = self._work.steps, self._work.values
        inside = np.interp(steps, known, values)
        before, after = np.minimum(steps - known[0], 0), np.maximum(steps - known[-1], 0)
        return inside + before * self._costs[self.levels[0]] + after * self._costs[self.levels[-1]]

    def by_steps(self) -> History:
        """The same, with a step on any level counted as one unit of work."""
        return replace(
            self, _work=Series(np.array([0, 1]), np.array([0.0, 1.0])), _costs=np.ones(max(self.levels.tolist()) + 1)
        )

    @property
    def span(self) -> tuple[int, int]:
        """Steps done before the first loss, and at the last point of any kind."""
        series = [series.steps for series in (self.training, self.validation) if len(series)]
        first = min(int(steps[0]) for steps in series) - 1
        return first, max(int(steps[-1]) for steps in (*series, self._work.steps))


def read_history(journal: Path, costs: Sequence[float] | None = None) -> History:
    """The history of a run.

    Args:
        journal: its file, flushed.
        costs: of a step on each level, in work units; for the steps before the first and after the last point of work.
            None takes what the work noted tells.
    """
    lines = journal.read_bytes().split(b"\n")
    training = [line for line in lines if line.startswith(_TRAINING)]
    training = training[:: -(-len(training) // _MOST) or 1]
    points: dict[str, list[tuple[int, float]]] = {"train/loss": [], "val/loss": [], "work": [], "level": []}
    for line in (*training, *(line for line in lines if line.startswith(_OTHERS))):
        point = json.loads(line)
        points[point["key"]].append((point["step"], point["value"]))

    # Where a stage ends with a pass, its level and the next one's stand at one step: the later line counts.
    level = {step: int(value) for step, value in points["level"]} or {0: 0}
    starts = sorted(level)
    starts = [step for i, step in enumerate(starts) if i == 0 or level[step] != level[starts[i - 1]]]
    history = History(
        training=_series(points["train/loss"]),
        validation=_series(points["val/loss"]),
        starts=np.array(starts, dtype=np.int64),
        levels=np.array([level[step] for step in starts], dtype=np.int64),
        _work=_series(sorted(dict(points["work"] or [(0, 0.0)]).items())),
        _costs=np.asarray([] if costs is None else costs, dtype=np.float64),
    )
    return history if costs is not None else replace(history, _costs=_costs_noted(history))


def _costs_noted(history: History) -> Floats:
    """The cost of a step on each level: the work between two points that no change of level lies between."""
    costs = np.ones(max(history.levels.tolist()) + 1)
    steps, work = history._work.steps, history._work.values
    # The step after a point is the first of what lies before the next one.
    first, last = history.stretch(steps[:-1] + 1), history.stretch(steps[1:])
    for at in np.flatnonzero((first == last) & (np.diff(steps) > 0)):
        costs[history.levels[last[at]]] = (work[at + 1] - work[at]) / (steps[at + 1] - steps[at])
    return costs


def _series(points: Sequence[tuple[int, float]]) -> Series:
    points = [point for point in points if math.isfinite(point[1])]
    return Series(
        np.array([step for step, _ in points], dtype=np.int64), np.array([value for _, value in points], dtype=float)
    )
