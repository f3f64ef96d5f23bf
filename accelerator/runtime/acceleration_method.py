"""What a component of the kind ``acceleration`` does, and what comes of it.

A method either gives a network that takes the other's place (`apply`, as pruning does), which is saved as a training
saves its own; or it makes another file of the exported network (`convert`, as quantization does).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class NetworkMethod(Protocol):
    """Gives a network that takes a trained one's place."""

    def apply(self, network: nn.Module, example_input: Tensor) -> nn.Module:
        """The other network: of the same modules, with the same inputs and outputs; the one given is left as it is."""
        ...


@runtime_checkable
class FileMethod(Protocol):
    """Makes another file of a trained network that was exported to ONNX."""

    samples: int

    def convert(self, onnx_model: bytes, calibration: Tensor, root: str = "") -> bytes:
        """The other file; see `accelerator.acceleration.quantization.Quantize`."""
        ...


@dataclass
class Outcome:
    """What came of it.

    Attributes:
        metrics: afterwards, and under ``before/…`` those of what it was made of.
        rows: labelled lines to print.
        best: the checkpoint that was written, if any.
        files: others, for the record.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    rows: list[tuple[str, str]] = field(default_factory=list)
    best: Path | None = None
    files: list[Path] = field(default_factory=list)


class Plan(Protocol):
    """Everything that can fail of the config has been done; what is left is to measure and to write."""

    def carry_out(self, run_dir: Path) -> Outcome:
        """Measure, and write into the run's folder."""
        ...
