"""``accelerator runs show|compare``: what the store knows of one run, and in what several differ."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass

from rich.text import Text

from accelerator.cli.runs.look import FINGERPRINT, as_plain, find, find_all, print_json
from accelerator.cli.runs.rows import DIGITS, print_runs, status
from accelerator.cli.tables import clean, console, short, table
from accelerator.errors import UserError
from accelerator.tracking import comparison
from accelerator.tracking.locations import ui_command
from accelerator.tracking.query import Store, StoredRun, open_store, when
from accelerator.utilities.quantities import duration, number, size


@dataclass(frozen=True)
class Measured:
    """A metric of a run: its last value, and its best with the step of that."""

    name: str
    last: float
    best: float | None = None
    step: int | None = None


def show(options: Namespace) -> int:
    """Print what the store knows of a run."""
    store = open_store(options.uri)
    run = find(store, options.run)
    metrics, files, parts = measured(store, run), store.files(run), store.children(run)
    if options.json:
        best = {row.name: {"value": row.best, "step": row.step} for row in metrics if row.best is not None}
        whole = {"best": best, "params": run.params, "tags": run.tags, "files": dict(files), "link": store.link(run)}
        print_json(as_plain(run) | whole | {"parts": [as_plain(part) for part in parts]})
        return 0
    out = console()
    for name, value in _facts(store, run).items():
        out.print(Text.assemble((f"{name:<12} ", "bold"), value))
    if parts:
        out.print("", Text("runs that are part of it", "bold"), sep="\n")
        print_runs(parts)
    if metrics:
        rows = table(["metric"], ["last", "best", "at step"], title="metrics")
        for row in metrics:
            step = "" if row.step is None else f"{row.step:,}"
            rows.add_row(clean(row.name), number(row.last), "" if row.best is None else number(row.best), step)
        out.print("", rows)
    hidden = ("mlflow.", "accelerator.key", "run_dir", "group", FINGERPRINT)
    tags = {name: value for name, value in run.tags.items() if not name.startswith(hidden)}
    for title, values in (("params", run.params), ("tags", tags)):
        if values:
            rows = table(["name", "value"], title=title)
            for name, value in sorted(values.items()):
                rows.add_row(clean(name), clean(value))
            out.print("", rows)
    if files:
        rows = table(["file"], ["size"], title="artifacts")
        for path, count in files:
            rows.add_row(clean(path), size(count))
        out.print("", rows)
    return 0


def compare(options: Namespace) -> int:
    """Print what differs between runs, and their metrics side by side."""
    if len(options.runs) < 2:
        raise UserError("two runs or more are compared; accelerator runs show tells of one")
    store = open_store(options.uri)
    runs = find_all(store, options.runs)
    params, metrics = (
        comparison.differing([run.params for run in runs]),
        comparison.side_by_side([run.metrics for run in runs], [run.monitor for run in runs]),
    )
    if options.json:
        winners = {name: [runs[at].id for at in best] for name, (_, best) in metrics.items() if best}
        print_json({"runs": [as_plain(run) for run in runs], "params": params, "best": winners})
        return 0
    out = console()
    names = [f"{run.name}\n{run.id[:DIGITS]}" for run in runs]
    facts = table(["", *names])
    facts.add_row("experiment", *(clean(run.experiment) for run in runs))
    facts.add_row("status", *(status(run) for run in runs))
    facts.add_row("started", *(when(run.started) for run in runs))
    facts.add_row("duration", *(duration(run.seconds) for run in runs))
    facts.add_row("config", *(run.tags.get(FINGERPRINT, "–")[:12] for run in runs))
    out.print(facts, "")
    if params:
        rows = table(["param", *names], title="params that differ")
        for name, values in params.items():
            rows.add_row(clean(name), *("–" if value is None else clean(value) for value in values))
        out.print(rows, "")
    else:
        out.print("every param is the same", "", sep="\n")
    rows = table(["metric"], names, title="metrics (* the best)")
    for name, (values, best) in metrics.items():
        cells = [Text(number(value)) for value in values]
        for at in best:
            cells[at] = Text(f"*{number(values[at])}", "bold green")
        rows.add_row(clean(name), *cells)
    out.print(rows)
    return 0


def measured(store: Store, run: StoredRun) -> list[Measured]:
    """Every metric of a run; the best value too where small or large ones are known to be good.

    The loss of single steps has no best worth knowing, and reading all its points may take long.
    """
    rows = []
    for name, last in sorted(run.metrics.items(), key=lambda item: comparison.rank(item[0])):
        mode = None if name == "train/loss" else comparison.better(name, *(run.monitor or ()))
        points = store.history(run, name) if mode else []
        best = comparison.best([value for _, value, _ in points], mode) if mode else None
        step = next((step for step, value, _ in points if value == best), None)
        rows.append(Measured(name, last, best, step))
    return rows


def _facts(store: Store, run: StoredRun) -> dict[str, str]:
    folder = run.folder
    told = run.tags.get("run_dir")
    rows = {
        "run": run.name,
        "id": run.id,
        "experiment": run.experiment,
        "group": run.group,
        "part of": run.parent,
        "status": run.status,
        "error": run.tags.get("error"),
        "started": f"{when(run.started)}, {duration(run.seconds)}" if run.ended else when(run.started),
        "config": run.tags[FINGERPRINT][:12] if FINGERPRINT in run.tags else None,
        "folder": short(folder) if folder else f"{told} (not here: removed, or on another machine)" if told else None,
        "artifacts": run.artifacts,
        "page": store.link(run),
        "server": f"not running; {command} starts it" if (command := _to_be_started(store)) else None,
    }
    return {name: clean(value) for name, value in rows.items() if value}


def _to_be_started(store: Store) -> str | None:
    """The command to type before a link leads anywhere."""
    from accelerator.tracking.server import live_server

    return None if live_server(store.uri) else ui_command(store.uri)
