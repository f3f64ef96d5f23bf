"""``make bench``: measure everything, or the named sections, and write docs/benchmarks.md.

Sections that are not measured this time keep the text they had.
"""

from __future__ import annotations

import os
import platform
import sys
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

SECTIONS = {
    "startup": "Start-up",
    "step": "A training step",
    "peers": "Lightning and Accelerate",
    "default_run": "The default experiment",
    "checkpoint": "Saving a checkpoint",
    "analysis": "A look at data that does not fit in memory",
    "tracking": "The record of a run",
    "vectorize": "Many small networks at once",
    "cascade": "A cascade against plain training",
    "multilevel.fno": "Fourier neural operators: modes and grid together",
    "multilevel.mlp": "Wide multilayer perceptrons",
    "multilevel.cnn": "Progressive resolution on images",
    "multilevel.transformer": "A character language model",
    "multilevel.cycles": "FAS cycles at equal work",
    "multilevel.matching": "Coarsening: matching, transfer, a change of level",
    "sweep": "Sweeps: what a job costs beside its training",
    "tuning": "Tuning: what a trial costs beside its training",
}
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
HEAD = """# Benchmarks

Written by `make bench`; nothing here is typed by hand. Bars are what the project asks of itself; a figure past its bar
stands here as measured.
"""


def main(wanted: list[str]) -> int:
    """Measure the wanted sections (all, when none is named)."""
    if unknown := [name for name in wanted if name not in SECTIONS]:
        print(f"no such section: {', '.join(unknown)}; there are: {', '.join(SECTIONS)}", file=sys.stderr)
        return 2
    for name in wanted or SECTIONS:
        print(f"measuring {name} …", flush=True)
        text = f"{import_module(f'benchmarks.{name}').run()}\n\n`python -m benchmarks {name}` · {_machine()}"
        print(text, flush=True)
        _write(_read() | {name: text})  # read anew: another process may be measuring other sections
    return 0


def _read() -> dict[str, str]:
    if not PAGE.exists():
        return {}
    parts = PAGE.read_text().split("\n## ")[1:]
    titles = {title: name for name, title in SECTIONS.items()}
    return {titles[part.split("\n", 1)[0]]: part.split("\n", 1)[1].strip() for part in parts}


def _write(sections: dict[str, str]) -> None:
    PAGE.parent.mkdir(exist_ok=True)
    found = [f"## {SECTIONS[name]}\n\n{sections[name]}\n" for name in SECTIONS if name in sections]
    PAGE.write_text("\n".join([HEAD, *found]))


def _machine() -> str:
    cpu = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            cpu = line.split(":", 1)[1].strip()
            break
    load = os.getloadavg()[0]
    return (
        f"{datetime.now(UTC):%Y-%m-%d} · {cpu}, {os.cpu_count()} cores, load {load:.1f} at the end · "
        f"Python {platform.python_version()}, torch {version('torch')}"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
