"""A run's folder made from what a store has of it, for a run whose own folder is not on this machine."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from accelerator.runtime.run_directory import CHECKPOINTS, CONFIG, ERROR, JOURNAL, OVERRIDES, PLOTS
from accelerator.tracking.query import Store, StoredRun
from accelerator.tracking.report.facts import Facts, read_run

_WANTED = (CONFIG, OVERRIDES, ERROR, "environment.yaml", "git.diff")


def read_stored(store: Store, run: StoredRun) -> Facts:
    """What a store tells of a run, as its folder would.

    Raises:
        UserError: the store does not answer.
    """
    with TemporaryDirectory(prefix="accelerator-report-") as name:
        folder = Path(name)
        for path, _ in store.files(run):
            sidecar = path.startswith(f"{CHECKPOINTS}/") and path.endswith(".json")
            if path in _WANTED or sidecar or (path.startswith(f"{PLOTS}/") and path.endswith(".png")):
                store.download(run, path, folder)
        _write_journal(store, run, folder / JOURNAL)
        facts = read_run(folder)
    return replace(
        facts,
        name=run.name,
        folder=None,
        experiment=run.experiment,
        status=run.status,
        started=run.started,
        ended=run.ended or facts.ended,
        run_id=run.id,
        uri=store.uri,
        link=store.link(run),
    )


def _write_journal(store: Store, run: StoredRun, path: Path) -> None:
    """Every point and tag the store has, as the run's own journal has them."""
    lines = [{"event": "tags", "values": run.tags, "time": run.started}]
    points = [
        {"key": metric, "value": value, "step": step, "time": time}
        for metric in run.metrics
        for step, value, time in store.history(run, metric)
    ]
    points.sort(key=lambda point: (point["step"], point["time"]))
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(line, separators=(",", ":")) + "\n" for line in [*lines, *points])
