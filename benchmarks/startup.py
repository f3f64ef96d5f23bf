"""Start-up: what a user waits for before anything happens, against an import of torch."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.measure import command, interleaved

BARS = {"accelerator --help": 0.15, "accelerator train --cfg job": 0.5}  # of an import of torch
SECONDS = {"accelerator add loss mse": 0.35, "Tab after `optimizer=`": 0.3, "Tab after `optimizer.`": 0.3}


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
                "accelerator add loss mse": _added(program, folder),
                "Tab after `optimizer=`": _completed(program, folder, "optimizer="),
                "Tab after `optimizer.`": _completed(program, folder, "optimizer."),
                "mlflow --help": command([program.with_name("mlflow"), "--help"], folder),
            },
            rounds,
        )
    rows = []
    for candidate in timings.rounds:
        least, middle, largest = timings.ratio(candidate, "import torch")
        bar = f"ratio ≤ {BARS[candidate]}" if candidate in BARS else ""
        bar = f"≤ {SECONDS[candidate]} s" if candidate in SECONDS else bar
        label = candidate if "`" in candidate else f"`{candidate}`"
        rows.append(f"| {label} | {timings.median(candidate):.3f} | {middle:.3f} ({least:.3f}–{largest:.3f}) | {bar} |")
    return "\n".join(
        [
            f"Whole processes, {rounds} interleaved rounds after a warm-up; medians, and the ratio to `import torch` "
            "round by round (least–largest). *Tab* is what the shell runs to complete `accelerator train …`.",
            "",
            "| command | seconds | ratio | bar |",
            "|---|---|---|---|",
            *rows,
        ]
    )


def _added(program: Path, folder: Path) -> Callable[[], float]:
    """The YAML of a loss written into ./configs, where there is none yet."""
    written = folder / "configs" / "training_components" / "loss" / "mse.yaml"
    add = command([program, "add", "loss", "mse"], folder)

    def run() -> float:
        written.unlink(missing_ok=True)
        seconds = add()
        assert written.exists()
        return seconds

    return run


def _completed(program: Path, folder: Path, word: str) -> Callable[[], float]:
    """What `accelerator completion bash` has the shell do."""
    return command([program, "-sc", "query=bash"], folder, COMP_LINE=f"accelerator train {word}", COMP_POINT="")
