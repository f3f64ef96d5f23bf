"""Sweeps on configs: what a job costs beside its training, against a plain Hydra application with as many groups."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measure import Timings, command, interleaved

JOBS = (4, 24)  # of two sweeps; what one more costs is their difference
BAR = 1.2
SMALL = [
    *("data=digits", "model=mlp", "model.hidden=[8]", "multilevel=single", "metrics=none", "trainer.max_steps=1"),
    *("loss=cross_entropy", "transform=none", "engine.threads=1", "callbacks.checkpoint=null"),
]

# A sweep of the platform, all of it, but for the training.
_OURS = """
import sys
from dataclasses import replace
from types import SimpleNamespace

from accelerator.cli.experiment import TRAIN

nothing = SimpleNamespace(objective=lambda monitor: 0.0)
sys.exit(replace(TRAIN, job=lambda composed: nothing).main(sys.argv[1:]))
"""

_PLAIN = """
import hydra

@hydra.main(config_path="conf", config_name="config")
def main(config):
    return 0.0

main()
"""


def run(rounds: int = 5) -> str:
    """The section of the report, as Markdown."""
    program = Path(sys.executable).with_name("accelerator")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "ours.py").write_text(_OURS)
        (folder / "plain.py").write_text(_PLAIN)
        groups, keys = _plain_tree(folder / "conf")
        # Those on the same tree: the plain application's files are ours, group by group.
        sweeps = {
            "plain Hydra application": [sys.executable, "plain.py", "-m"],
            "`accelerator train -m`, a job that does nothing": [sys.executable, "ours.py", "-m", "tracking=none"],
            "`accelerator train -m`, one step of a tiny MLP": [program, "train", "-m", *SMALL, "tracking=none"],
            "the same with its record in MLflow": [program, "train", "-m", *SMALL],
        }
        timings = interleaved(
            {
                f"{sweep} {count}": command([*typed, f"seed={','.join(map(str, range(count)))}"], folder)
                for sweep, typed in sweeps.items()
                for count in JOBS
            },
            rounds,
        )
    few, many = JOBS
    per_job = Timings(
        {
            sweep: [
                (long - short) / (many - few)
                for short, long in zip(timings.rounds[f"{sweep} {few}"], timings.rounds[f"{sweep} {many}"], strict=True)
            ]
            for sweep in sweeps
        }
    )
    rows = []
    plain, nothing, *_ = sweeps
    for sweep in sweeps:
        least, middle, largest = per_job.ratio(sweep, plain)
        bar = f"≤ {BAR}" if sweep == nothing else ""
        rows.append(
            f"| {sweep} | {per_job.median(sweep) * 1000:.0f} | {middle:.2f} ({least:.2f}–{largest:.2f}) | {bar} |"
        )
    return "\n".join(
        [
            f"Between sweeps of {few} and {many} jobs in one process, Hydra's own launcher; {rounds} interleaved "
            "rounds after a warm-up; medians, and ratios round by round (least–largest). The plain application has as "
            f"many groups ({groups}) with as many keys ({keys}) as the default run, and does nothing.",
            "",
            "| | ms a job | ÷ plain | bar |",
            "|---|---|---|---|",
            *rows,
        ]
    )


def _plain_tree(folder: Path) -> tuple[int, int]:
    """Write the default run's groups, each in a file of its own, with the values that they are composed to."""
    from omegaconf import OmegaConf

    from accelerator.cli.compose.compose import composer, plain
    from accelerator.cli.resume import flat

    with composer() as compose:
        config = compose([])
    values = plain(config)
    groups = [group for group in config.hydra.runtime.choices if not group.startswith("hydra/")]
    defaults: list[Any] = ["_self_"]
    for group in groups:
        section = group.rpartition("/")[2]
        file = folder / group / "chosen.yaml"
        file.parent.mkdir(parents=True)
        OmegaConf.save(values.pop(section, None) or {}, file)
        defaults.append({f"{group}@{section}": "chosen"})
    OmegaConf.save({"defaults": defaults, **values}, folder / "config.yaml")
    return len(groups), len(flat(plain(config)))
