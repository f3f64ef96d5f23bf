"""Runs as a table: parts below their whole, and in what they differ; on a narrow terminal one number stays."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence

from rich.text import Text

from accelerator.cli.tables import Column, clean, console, fitted
from accelerator.tracking.query import DIFFERENCE_TAG, StoredRun, when
from accelerator.utilities.quantities import duration, number

DIGITS = 8  # of an id, where it is shown in a table

_MOST_METRICS = 4  # columns
_DIFFERENCE_LENGTH, _LEAST_DIFFERENCE = 48, 20  # characters of it, and on a narrow terminal
# As `accelerator.tracking.difference.as_text` writes them: ``lr: 1 → 3``, ``+ new: 4``, ``− old``.
_PART = re.compile(r"(?:\+ |(− ))?([^\s:]+)(?:: (.*))?")
_COLOURS = {"FINISHED": "green", "FAILED": "bold red", "KILLED": "yellow", "RUNNING": "cyan"}


def print_runs(runs: Sequence[StoredRun], *, nested: bool = True, sort: str | None = None) -> None:
    """A table of runs.

    Args:
        runs: in the order they are to be shown.
        nested: put those that are part of another below it.
        sort: the metric they are sorted by, which is shown.
    """
    metrics = _main_metrics(runs, sort)
    rows = list(_nested(runs) if nested else ((run, 0) for run in runs))
    shown = [run for run, _ in rows]
    wholes = {run.id: run for run in runs}
    names = [clean("  " * (depth - 1) + "└ " * (depth > 0) + run.name) for run, depth in rows]
    columns = [
        Column("id", [run.id[:DIGITS] for run in shown]),
        Column("name", names),
        Column("experiment", [clean(run.experiment) for run in shown], rank=5),
        Column("group", [clean(run.group or "") for run in shown], rank=4),
        Column("status", [status(run) for run in shown]),
        Column("differs by", [clean(_difference(run, wholes)) for run in shown], rank=3, least=_LEAST_DIFFERENCE),
        Column("started", [when(run.started) for run in shown], rank=6),
        Column("duration", [duration(run.seconds) for run in shown], right=True, rank=7),
        *(
            Column(
                clean(f"best {name}" if name == sort and any(f"best/{name}" in run.metrics for run in runs) else name),
                [number(_value(run, name, sort)) for run in shown],
                right=True,
                rank=1 if name == sort else 2 if at == 0 and sort is None else 8 + at,
            )
            for at, name in enumerate(metrics)
        ),
    ]
    told = {"experiment": len({run.experiment for run in runs}) > 1, "group": any(run.group for run in runs)}
    told["differs by"] = any(columns[5].cells)
    out = console()
    made, hidden = fitted(out, [column for column in columns if told.get(column.title, True)])
    out.print(made)
    if hidden:
        what = "1 column does" if len(hidden) == 1 else f"{len(hidden)} columns do"
        out.print(f"{what} not fit here: {', '.join(hidden)}; accelerator runs list --json has everything")


def status(run: StoredRun) -> Text:
    """A run's status, in its colour."""
    return Text(run.status.lower(), _COLOURS.get(run.status, ""))


def _difference(run: StoredRun, wholes: Mapping[str, StoredRun]) -> str:
    """In what its config differs from its whole's, else from the run's before it; the start of a long one.

    The steps of a pipeline differ in everything, and are told apart by their names.
    """
    if (whole := wholes.get(run.parent or "")) is not None and whole.tags.get("kind") == "pipeline":
        return ""
    parts = [_PART.fullmatch(part) for part in run.tags.get(DIFFERENCE_TAG, "").split("; ")]
    if whole is not None and whole.tags.get("kind") == "sweep" and (own := _swept(run, whole)):
        told = own
    elif not all(parts):  # none, or a value with the separator in it
        told = run.tags.get(DIFFERENCE_TAG, "")
    else:
        found = [part.groups() for part in parts if part]
        lasts = [key.rpartition(".")[2] for _, key, _ in found]
        told = " ".join(
            f"{sign or ''}{last if lasts.count(last) == 1 else key}{f'={value}'.replace(' → ', '→') if value else ''}"
            for (sign, key, value), last in zip(found, lasts, strict=True)
        )
    return told if len(told) <= _DIFFERENCE_LENGTH else f"{told[: _DIFFERENCE_LENGTH - 1]}…"


def _swept(run: StoredRun, whole: StoredRun) -> str:
    """What a sweep set for a job: another model, and all its keys are others too, which says less."""
    common = [(key, _as_read(value)) for key, value in _typed(whole)]
    pairs = [(key, value) for key, value in _typed(run) if (key, _as_read(value)) not in common]
    lasts = [re.split(r"[./]", key)[-1] for key, _ in pairs]
    return " ".join(
        f"{last if lasts.count(last) == 1 else key}={value}" for (key, value), last in zip(pairs, lasts, strict=True)
    )


def _typed(run: StoredRun) -> list[tuple[str, str]]:
    """The overrides it was started with: keys and values."""
    try:
        words = shlex.split(run.tags.get("overrides", ""))
    except ValueError:  # cut to what a tag may hold
        return []
    return [(key.lstrip("+~"), value) for key, _, value in (word.partition("=") for word in words)]


def _as_read(value: str) -> float | str:
    """A sweep has ``1e-3`` as it was typed, and its jobs ``0.001``."""
    try:
        return float(value)
    except ValueError:
        return value


def _value(run: StoredRun, metric: str, sort: str | None) -> float | None:
    """A whole's metrics are named after its parts: ``test/loss`` is the loss of the step ``test``."""
    if metric == sort:
        return run.rated(metric)
    return None if run.is_whole else run.metrics.get(metric)


def _main_metrics(runs: Sequence[StoredRun], sort: str | None) -> list[str]:
    """What they are sorted by and what they are rated by, then what their tests measured; not too many."""
    single = [run for run in runs if not run.is_whole]
    monitored = dict.fromkeys(run.monitor[0] for run in runs if run.monitor)
    tested = dict.fromkeys(sorted(name for run in single for name in run.metrics if name.startswith("test/")))
    names = [name for name in {**monitored, **tested} if any(name in run.metrics for run in single)]
    first = [sort] if sort else []
    return [*first, *(name for name in names if name != sort)][:_MOST_METRICS]


def _nested(runs: Sequence[StoredRun]) -> Iterable[tuple[StoredRun, int]]:
    """Each run and how deep it stands; parts below their whole, in the order they started."""
    ids = {run.id for run in runs}
    below: dict[str | None, list[StoredRun]] = {}
    for run in runs:
        below.setdefault(run.parent if run.parent in ids and run.parent != run.id else None, []).append(run)
    shown: set[str] = set()

    def walk(run: StoredRun, depth: int) -> Iterable[tuple[StoredRun, int]]:
        shown.add(run.id)
        yield run, depth
        for child in sorted(below.get(run.id, []), key=lambda child: (child.started, child.id)):
            if child.id not in shown:
                yield from walk(child, depth + 1)

    for run in below.get(None, []):
        yield from walk(run, 0)
    for run in runs:  # tags that name one another's parents in a circle
        if run.id not in shown:
            yield from walk(run, 0)
