"""The default experiment, as a newcomer starts it: time and memory of the whole process."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import with_peak_memory

BAR_SECONDS, BAR_MEGABYTES = 90, 1500


def run(rounds: int = 3) -> str:
    """The section of the report, as Markdown."""
    program = Path(sys.executable).with_name("accelerator")
    measured = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cache = folder / "cache"
        for number in range(rounds):
            work = folder / str(number)
            work.mkdir()
            seconds, peak = with_peak_memory([program, "train", f"data.cache_dir={cache}"], work)
            (result,) = work.glob("outputs/*/*/result.json")
            measured.append((seconds, peak, json.loads(result.read_text())["metrics"]["test/relative_l2"]))
    rows = [
        f"| {number + 1}{' (data generated)' if number == 0 else ''} | {seconds:.1f} | {peak:,.0f} | {error:.4f} |"
        for number, (seconds, peak, error) in enumerate(measured)
    ]
    middle = statistics.median(seconds for seconds, _, _ in measured)
    return "\n".join(
        [
            f"`accelerator train` in an empty folder, whole process, {rounds} times; median {middle:.1f} s. "
            f"Bars: ≤ {BAR_SECONDS} s on 2 cores, peak ≤ {BAR_MEGABYTES:,} MB.",
            "",
            "| run | seconds | peak MB so far (largest process) | test relative L2 |",
            "|---|---|---|---|",
            *rows,
        ]
    )
