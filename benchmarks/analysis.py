"""`accelerator analyze-data` on a memory-mapped array, beside the disk that it is on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from accelerator.analysis.look import Options, look
from accelerator.utilities.base_registry import registry
from benchmarks.measure import interleaved

BAR_SPEED, BAR_RESIDENT = 0.5, 1.0  # of the disk's read speed; GB
WIDTH = 1025  # columns of float32, the last the target
BYTES = int(os.environ.get("ACCELERATOR_BENCH_ANALYSIS_BYTES", 5_000_000_000))
ROUNDS = 3
_BLOCK = 1 << 22


def run() -> str:
    """The section of the report, as Markdown."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "table.npy"
        rows = _write(path)
        size = path.stat().st_size
        splits = registry("data").get("arrays")(path, ":-1", -1, missing="keep", memory_map="auto")

        def disk() -> float:
            _forget(path)
            begin = time.perf_counter()
            block = bytearray(_BLOCK)
            with path.open("rb", buffering=0) as file:
                while file.readinto(block):
                    pass
            return time.perf_counter() - begin

        def ours() -> float:
            _forget(path)
            begin = time.perf_counter()
            look(splits, Options())
            return time.perf_counter() - begin

        timings = interleaved({"disk": disk, "ours": ours}, ROUNDS, warmup=0)
        least, middle, largest = timings.ratio("disk", "ours")
        command, peak = _command(path)
    gigabytes = size / 1e9
    return "\n".join(
        [
            f"{rows:,} rows of {WIDTH:,} float32 in an .npy of {gigabytes:.2f} GB, three splits, rows at random; "
            f"{ROUNDS} interleaved rounds, the file out of the page cache before each. Reading alone is the whole file "
            f"in pieces of {_BLOCK >> 20} MB. The look is everything but pictures and page: ranges, moments, gaps, "
            "outliers, copies, leaks, near copies among 10,000 samples.",
            "",
            f"Bars: at least {BAR_SPEED} × the speed of reading alone; at most {BAR_RESIDENT:g} GB resident.",
            "",
            "| reading alone, GB/s | the look, GB/s | share (least–largest) | the whole command, s | its peak, GB |",
            "|---|---|---|---|---|",
            f"| {gigabytes / timings.median('disk'):.2f} | {gigabytes / timings.median('ours'):.2f} | "
            f"{middle:.2f} ({least:.2f}–{largest:.2f}) | {command:.1f} | {peak:.2f} |",
        ]
    )


def _write(path: Path) -> int:
    """No two rows are alike; numbers are drawn once, for they take longer than the disk."""
    rows = BYTES // (4 * WIDTH)
    table = np.lib.format.open_memmap(path, "w+", np.float32, (rows, WIDTH))
    generator = np.random.default_rng(0)
    some = generator.standard_normal((4096, WIDTH), dtype=np.float32)
    for begin in range(0, rows, len(some)):
        block = table[begin : begin + len(some)]
        block[:] = some[: len(block)]
        block *= generator.standard_normal((len(block), 1), dtype=np.float32)
    table.flush()
    return rows


def _forget(path: Path) -> None:
    """Out of the page cache, so that the disk is what is read."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def _command(path: Path) -> tuple[float, float]:
    """Seconds of the command as it is typed, and its peak resident gigabytes."""
    code = (
        "import sys\nfrom accelerator.cli.app import main\n"
        "code = main(sys.argv[1:])\nprint(open('/proc/self/status').read())\nsys.exit(code)\n"
    )
    typed = [
        "analyze-data",
        "data=arrays",
        f"data.path={path}",
        'data.inputs=":-1"',
        "data.targets=-1",
        "tracking=none",
    ]
    _forget(path)
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, *typed], cwd=path.parent, check=True, capture_output=True, text=True
    )
    seconds = time.perf_counter() - begin
    peak = re.search(r"VmHWM:\s+(\d+) kB", done.stdout)
    assert peak is not None
    return seconds, int(peak[1]) * 1024 / 1e9
