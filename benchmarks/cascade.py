"""The default cascade against plain training: at equal work, and at about equal time."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import command

# Plain training's passes that take about as long as the default cascade on 2 cores.
EQUAL_TIME = 30
CANDIDATES = {
    "cascade of three widths, 20 epochs of work": [],
    "plain, equal work (20 epochs)": ["multilevel=single"],
    f"plain, about equal time ({EQUAL_TIME} epochs)": ["multilevel=single", f"trainer.max_epochs={EQUAL_TIME}"],
    "the narrow network alone, equal work": [
        *("model=mlp", "model.hidden=[256,256]", "trainer.max_epochs=127"),
    ],
}


def run(seeds: int = 3) -> str:
    """The section of the report, as Markdown."""
    program = Path(sys.executable).with_name("accelerator")
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in CANDIDATES}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(seeds):
            for number, (name, overrides) in enumerate(CANDIDATES.items()):
                work = Path(folder) / f"{seed}-{number}"
                work.mkdir()
                command([program, "train", "tracking=none", f"seed={seed}", *overrides], work)()
                (path,) = work.glob("outputs/*/*/result.json")
                result = json.loads(path.read_text())
                found[name].append((result["metrics"]["test/relative_l2"], result["seconds"]))
    rows = []
    for name, pairs in found.items():
        errors, times = zip(*pairs, strict=True)
        spread = f"{statistics.median(errors):.4f} ({min(errors):.4f}–{max(errors):.4f})"
        rows.append(f"| {name} | {spread} | {statistics.median(times):.1f} |")
    return "\n".join(
        [
            f"The default experiment (Poisson, 1024-1024 network, Adam, cosine), seeds 0–{seeds - 1} for each; "
            "error of the best checkpoint on the test split, median (least–largest), and median seconds of training.",
            "",
            "| | test relative L2 | seconds |",
            "|---|---|---|",
            *rows,
            "",
            "Work is counted in FLOPs: 127 epochs of the 256-256 network are 20 of the 1024-1024 one.",
        ]
    )
