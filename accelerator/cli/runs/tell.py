"""``accelerator runs show|compare``: what the store knows of one run, and in what several differ."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from accelerator.cli.runs.look import FINGERPRINT, as_plain, find, find_all, print_json
from accelerator.cli.runs.rows import DIGITS, print_runs, status
from accelerator.cli.tables import Column, clean, console, fitted
from accelerator.errors import UserError
from accelerator.tracking import comparison
from accelerator.tracking.locations import ui_command
from accelerator.tracking.query import Store, StoredRun, open_store, when
from accelerator.utilities.files import short
from accelerator.utilities.quantities import duration, number, size

_LEAST = 16  # characters of a run's column, before the next stands below; what takes more is folded


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
        columns = [
            Column("metric", [clean(row.name) for row in metrics]),
            Column("last", [number(row.last) for row in metrics], right=True),
            Column("best", ["" if row.best is None else number(row.best) for row in metrics], right=True),
            Column("at step", ["" if row.step is None else f"{row.step:,}" for row in metrics], right=True),
        ]
        out.print("", fitted(out, columns, title="metrics")[0])
    hidden = ("mlflow.", "accelerator.key", "run_dir", "group", FINGERPRINT)
    tags = {name: value for name, value in run.tags.items() if not name.startswith(hidden)}
    for title, values in (("params", run.params), ("tags", tags)):
        if values:
            names = sorted(values)
            columns = [
                Column("name", [clean(name) for name in names]),
                Column("value", [clean(values[name]) for name in names]),
            ]
            out.print("", fitted(out, columns, title=title)[0])
    if files:
        columns = [
            Column("file", [clean(path) for path, _ in files]),
            Column("size", [size(count) for _, count in files], right=True),
        ]
        out.print("", fitted(out, columns, title="artifacts")[0])
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
    facts = [
        [
            clean(run.experiment),
            status(run),
            when(run.started),
            duration(run.seconds),
            run.tags.get(FINGERPRINT, "–")[:12],
        ]
        for run in runs
    ]
    _print_beside(out, runs, "", ["experiment", "status", "started", "duration", "config"], facts)
    if params:
        values = [
            ["–" if (of := each[at]) is None else clean(of) for each in params.values()] for at in range(len(runs))
        ]
        out.print()
        _print_beside(out, runs, "param", list(params), values, title="params that differ")
    else:
        out.print("\nevery param is the same")
    rated = [
        [
            Text(f"*{number(of[at])}", "bold green") if at in best else Text(number(of[at]))
            for of, best in metrics.values()
        ]
        for at in range(len(runs))
    ]
    out.print()
    _print_beside(out, runs, "metric", list(metrics), rated, title="metrics (* the best)", right=True)
    return 0


def _print_beside(
    out: Console,
    runs: Sequence[StoredRun],
    head: str,
    names: Sequence[str],
    cells: Sequence[Sequence[str | Text]],
    *,
    title: str | None = None,
    right: bool = False,
) -> None:
    """A table with a column for each run; those there is no room for come below.

    Args:
        out: the terminal.
        runs: in their order.
        head: above the names.
        names: of the rows.
        cells: of each run.
        title: above the table.
        right: put the cells to the right, as numbers are.
    """
    left = [(clean(f"{run.name}\n{run.id[:DIGITS]}"), of) for run, of in zip(runs, cells, strict=True)]
    while left:
        columns = [
            Column(name, of, right, rank, least=min(_LEAST, Column(name.rpartition("\n")[2], of).width), whole=True)
            for rank, (name, of) in enumerate(left)
        ]
        made, hidden = fitted(out, [Column(head, [clean(name) for name in names]), *columns], title=title)
        out.print(made)
        left = left[len(left) - len(hidden) :]
        if left:
            out.print()


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
