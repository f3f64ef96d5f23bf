"""One look at a run's data: statistics, copies, classes, spectra; what it all means is in `advice`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from accelerator.analysis import pictures
from accelerator.analysis.identity import LEAST_ENTRIES, Duplicates, Hashes, Near, Sketches
from accelerator.analysis.labels import Counts, table
from accelerator.analysis.reading import BLOCK, Chunk, Reading, check_readable, spread
from accelerator.analysis.statistics import Reference, Statistics, channels
from accelerator.utilities.quantities import size

PILOT = 2048  # samples of the first look
PILOT_BYTES = 1 << 26

PARTS = ("inputs", "targets")


@dataclass(frozen=True)
class Options:
    """What is looked for; see `accelerator.cli.compose.schema.AnalysisConfig`."""

    samples: int | None = None
    near_duplicates: int = 10_000
    tolerance: float = 0.01
    outlier: float = 8.0


@dataclass
class Looked:
    """What was found out.

    Attributes:
        reading: where it was read.
        inputs, targets: by split.
        duplicates: equal samples.
        near: almost equal ones; None where they were not looked for.
        pilots: some samples of each split.
        names: of the channels, by part.
        spectra: of inputs and targets that are fields.
        twins: pairs of input channels that are the same in the pilot, and input channels that are a target's.
    """

    reading: Reading
    inputs: dict[str, Statistics | Counts]
    targets: dict[str, Statistics | Counts]
    duplicates: Duplicates
    near: Near | None
    pilots: dict[str, Chunk]
    names: dict[str, list[str]]
    spectra: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    twins: list[tuple[str, str]] = field(default_factory=list)

    def part(self, name: str) -> dict[str, Any]:
        """`inputs` or `targets`, by split."""
        return self.inputs if name == "inputs" else self.targets

    @property
    def classes(self) -> NDArray[np.int64] | None:
        """(splits, classes): how often each label is there; None when the targets are no labels."""
        counts = list(self.targets.values())
        if not all(isinstance(each, Counts) and each.counts is not None for each in counts):
            return None
        return table(counts)  # pyright: ignore[reportArgumentType]


def look(splits: Mapping[str, Any], options: Options, names: Mapping[str, Sequence[str]] | None = None) -> Looked:
    """Read every sample once.

    Args:
        splits: as `accelerator.runtime.data.splits.as_splits` returns them.
        options: what is looked for.
        names: of the columns of inputs and targets, where they have some.

    Raises:
        DataError: a split of which nothing can be read.
    """
    reading = Reading(splits, options.samples)
    pilots = {split: _pilot(reading, split) for split in splits}
    check_readable(reading)
    first = pilots["train"]
    references = {part: Reference.of(values) for part in PARTS if (values := getattr(first, part)).is_floating_point()}
    looks: dict[str, dict[str, Statistics | Counts]] = {
        part: {
            split: Statistics(references[part], options.outlier) if part in references else Counts() for split in splits
        }
        for part in PARTS
    }
    hashes = Hashes(list(splits))
    sketches = (
        Sketches(reading, references["inputs"], options.near_duplicates)
        if options.near_duplicates and "inputs" in references and first.inputs[0].numel() >= LEAST_ENTRIES
        else None
    )
    # NumPy and torch let go of the interpreter: copies are looked for on one core, the rest is done on another.
    with _single_threaded(), ThreadPoolExecutor(1) as other:
        for chunk in reading.chunks():
            if len(chunk.rows) == 0:
                continue
            hashed = other.submit(hashes.add, chunk)
            for part in PARTS:
                seen, values = looks[part][chunk.split], getattr(chunk, part)
                seen.add(chunk.rows, values) if isinstance(seen, Statistics) else seen.add(values)
            if sketches is not None:
                sketches.add(chunk)
            hashed.result()
    check_readable(reading)
    return Looked(
        reading=reading,
        inputs=looks["inputs"],
        targets=looks["targets"],
        duplicates=hashes.duplicates(),
        near=sketches.near(options.tolerance) if sketches is not None else None,
        pilots=pilots,
        names={part: _names(getattr(first, part), (names or {}).get(part)) for part in PARTS},
        spectra={
            part: pictures.spectrum(values)
            for part in PARTS
            if (values := getattr(first, part)).is_floating_point() and pictures.is_grid(values.shape[1:])
        },
        twins=_twins(first, names or {}),
    )


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Pieces are too small to be shared out: torch's own threads would wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # of threads that begin from here on, too
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _pilot(reading: Reading, split: str) -> Chunk:
    rows = reading.chosen[split]
    one = reading.take(split, rows[:1])
    bytes_each = max(1, one.inputs.nbytes + one.targets.nbytes) if len(one.rows) else 1
    return reading.take(split, spread(rows, max(BLOCK, min(PILOT, PILOT_BYTES // bytes_each))))


def _names(values: Tensor, given: Sequence[str] | None) -> list[str]:
    count = channels(values).shape[1] if len(values) else 0
    if given is not None and len(given) == count:
        return list(given)
    word = "column" if values.dim() == 2 else "channel"
    return [f"{word} {channel}" for channel in range(count)]


def _twins(pilot: Chunk, given: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    """Columns that are others times a number plus another: |correlation| ≥ 1 − 10⁻⁶ in the pilot."""
    if pilot.inputs.dim() != 2 or not 2 <= pilot.inputs.shape[1] <= 512 or len(pilot.rows) < 8:
        return []
    columns = [f"input {name}" for name in _names(pilot.inputs, given.get("inputs"))]
    parts = [pilot.inputs.double()]
    if pilot.targets.is_floating_point() and pilot.targets.dim() == 2 and pilot.targets.shape[1] <= 64:
        columns += [f"target {name}" for name in _names(pilot.targets, given.get("targets"))]
        parts.append(pilot.targets.double())
    x = torch.cat(parts, dim=1)
    x = x[torch.isfinite(x).all(1)]
    x = x - x.mean(0)
    norm = x.norm(dim=0)
    alike = ((x.T @ x).abs() >= (1 - 1e-6) * torch.outer(norm, norm)) & torch.outer(norm > 0, norm > 0)
    return [
        (columns[one], columns[other])
        for one, other in alike.triu(1).nonzero().tolist()
        if columns[one].startswith("input")
    ]


def memory_of(looked: Looked) -> str:
    """What all samples take in memory, as it is read."""
    total = sum(
        looked.reading.counts[split] * sum(x[0].nbytes for x in (pilot.inputs, pilot.targets) if len(x))
        for split, pilot in looked.pilots.items()
    )
    return size(total)
