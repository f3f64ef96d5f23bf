"""Start-up: what a user waits for before anything happens, against an import of torch."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from benchmarks.measure import command, interleaved

BARS = {"accelerator --help": 0.15, "accelerator train --cfg job": 0.5}


def run(rounds: int = 9) -> str:
    """The section of the report, as Markdown."""
    program = Path(sys.executable).with_name("accelerator")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        timings = interleaved(
            {
                "python -c pass": command([sys.executable, "-c", "pass"], folder),
                "import torch": command([sys.executable, "-c", "import torch"], folder),
                "accelerator --help": command([program, "--help"], folder),
                "accelerator train --cfg job": command([program, "train", "--cfg", "job"], folder),
                "mlflow --help": command([program.with_name("mlflow"), "--help"], folder),
            },
            rounds,
        )
    rows = []
    for candidate in timings.rounds:
        least, middle, largest = timings.ratio(candidate, "import torch")
        bar = f"≤ {BARS[candidate]}" if candidate in BARS else ""
        seconds = timings.median(candidate)
        rows.append(f"| `{candidate}` | {seconds:.3f} | {middle:.3f} ({least:.3f}–{largest:.3f}) | {bar} |")
    return "\n".join(
        [
            f"Whole processes, {rounds} interleaved rounds after a warm-up; medians, and the ratio to `import torch` "
            "round by round (least–largest).",
            "",
            "| command | seconds | ratio | bar |",
            "|---|---|---|---|",
            *rows,
        ]
    )
