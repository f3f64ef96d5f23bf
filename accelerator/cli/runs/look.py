"""``accelerator runs list|search``, and which run is meant; nothing is changed."""

from __future__ import annotations

import json
import math
from argparse import Namespace
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from accelerator.cli.runs.filters import unknown_names, with_status
from accelerator.cli.runs.rows import print_runs
from accelerator.cli.which_run import run_id
from accelerator.errors import UserError, did_you_mean
from accelerator.tracking import comparison, spool
from accelerator.tracking.backlog import waiting_here
from accelerator.tracking.query import DIFFERENCE_TAG, WHOLES, Store, StoredRun, open_store

FINGERPRINT = "config.fingerprint"  # tag

_NAMES = 1000  # runs whose metrics and params are compared with those of a filter that finds nothing


def list_runs(options: Namespace) -> int:
    """Print the newest runs, or the best."""
    return _listed(options, "")


def search(options: Namespace) -> int:
    """Print the runs that meet a condition."""
    if not options.filter.strip():
        raise UserError("the filter is empty; accelerator runs list shows all runs")
    return _listed(options, options.filter)


def find(store: Store, wanted: str) -> StoredRun:
    """The run meant; a folder stands for the run that was recorded from it.

    Raises:
        UserError: there is none, or it is in another store.
    """
    folder = Path(wanted)
    state = spool.load(folder / spool.STATE, spool.State) if folder.is_dir() else None
    if state is None and (folder / spool.SETTINGS).exists():
        raise UserError(f"{wanted}: this run has not arrived in MLflow; accelerator tracking sync {wanted} sends it")
    if state is None:
        return store.find(wanted)
    if (id := run_id(folder)) is None:
        raise UserError(f"{wanted}: this run has not arrived in MLflow; accelerator tracking sync {wanted} sends it")
    if not (found := store.by_ids([id])):
        elsewhere = f"it was recorded in {state.uri}" if state.uri != store.uri else "it was deleted there"
        raise UserError(f"{wanted}: its run {id} is not in {store.uri}: {elsewhere}")
    return found[0]


def find_all(store: Store, wanted: Sequence[str]) -> list[StoredRun]:
    """The runs meant, in the order named.

    Raises:
        UserError: one is not there, or is meant twice.
    """
    found: dict[str, str] = {}
    runs = []
    for word in wanted:
        run = find(store, word)
        if run.id in found:
            raise UserError(f"'{word}' and '{found[run.id]}' are the same run, {run.id}")
        found[run.id] = word
        runs.append(run)
    return runs


def as_plain(run: StoredRun) -> dict[str, Any]:
    """A run for programs; values that are not finite are text there."""
    return {
        "id": run.id,
        "name": run.name,
        "experiment": run.experiment,
        "status": run.status,
        "started": datetime.fromtimestamp(run.started / 1000, UTC).isoformat(),
        "seconds": run.seconds,
        "group": run.group,
        "parent": run.parent,
        "folder": str(run.folder) if run.folder else None,
        "config_fingerprint": run.tags.get(FINGERPRINT),
        "config_difference": run.tags.get(DIFFERENCE_TAG),
        "metrics": dict(sorted(run.metrics.items())),
    }


def _listed(options: Namespace, condition: str) -> int:
    store = open_store(options.uri)
    if not (newest := store.runs(limit=1)):
        raise UserError(f"{store.uri} holds no runs yet: accelerator train makes one{waiting_here()}")
    condition = with_status(condition)
    which: dict[str, Any] = {"experiment": options.experiment, "group": options.group}
    limit = options.limit or None
    if options.sort is None:
        found = store.runs(condition, limit=limit and limit + 1, **which)
        runs = found[:limit] if limit else found
        more = len(runs) < len(found)
        # A part is shown below its whole, be this older than the limit or not what was searched for.
        parents = {run.parent for run in runs if run.parent} - {run.id for run in runs}
        shown = runs + (store.by_ids(parents) if parents and not condition else [])
    else:
        shown = _sorted(store, condition, options.sort, newest[0], limit and limit + 1, which)
        more = limit is not None and len(shown) > limit
        shown = shown[:limit] if limit else shown
    if options.json:
        print_json([as_plain(run) for run in shown])
    elif shown:
        print_runs(shown, nested=options.sort is None, sort=options.sort)
        if more:
            print(f"there are more than these {limit}; --limit 0 shows all")
    else:
        asked = [f"meets {condition}"] if condition else []
        asked += [f"is in the group '{options.group}'"] if options.group is not None else []
        where = f"of experiment '{options.experiment}'" if options.experiment else f"in {store.uri}"
        print(f"no run {where} {' and '.join(asked) or 'is left'}")
        for hint in unknown_names(condition, store.runs(limit=_NAMES)) if condition else ():
            print(hint)
    return 0


def _sorted(
    store: Store, condition: str, metric: str, newest: StoredRun, limit: int | None, which: dict[str, Any]
) -> list[StoredRun]:
    """The runs that have the metric, the best first: the smallest, where nobody can tell.

    A run is rated by its best checkpoint's value where the record has it, as sweeps and studies rate their jobs.
    """
    mode = comparison.better(metric, *(newest.monitor or ())) or "min"
    direction = "ASC" if mode == "min" else "DESC"
    found: dict[str, StoredRun] = {}
    if "`" not in metric:
        parts = " and ".join([*filter(None, [condition]), *(f"tags.kind != '{kind}'" for kind in WHOLES)])
        for asked, name in ((condition, metric), (parts, f"best/{metric}")):
            order = [f"metrics.`{name}` {direction}"]
            found |= {run.id: run for run in store.runs(asked, order=order, limit=limit, **which)}
    rated = [(value, run) for run in found.values() if (value := run.rated(metric)) is not None]
    rated = [(value, run) for value, run in rated if not math.isnan(value)]
    known = {name for run in found.values() or [newest] for name in run.metrics}
    if not rated and metric not in known and (found or "`" in metric):
        raise UserError(f"--sort {metric}: no run has this metric{did_you_mean(metric, known)}")
    rated.sort(key=lambda pair: pair[0], reverse=mode == "max")
    return [run for _, run in rated][:limit]


def print_json(value: Any) -> None:
    """Strict JSON: what is not finite is told as text."""
    print(json.dumps(_finite(value), indent=1, ensure_ascii=False, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(below) for key, below in value.items()}
    if isinstance(value, list):
        return [_finite(below) for below in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
