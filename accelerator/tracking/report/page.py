"""The HTML of a report, from a template beside this file.

All that comes from a run is escaped, but for the drawings, in which Matplotlib and `html.escape` have done so.
"""

from __future__ import annotations

import base64
import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from typing import Any

import accelerator
from accelerator.tracking import comparison
from accelerator.tracking.difference import difference
from accelerator.tracking.report.curves import loss_curves, run_curves
from accelerator.tracking.report.facts import Facts
from accelerator.utilities.quantities import duration, number, size

GENERATOR = "accelerator report"  # in the page's head, by which a report is known again

_CAPTIONS = {
    "hierarchy.png": "The levels: widths, parameters and cost",
    "fields.png": "Truth, prediction and error",
    "loss_vs_work.png": "Loss against work",
}
_DIFF_LENGTH = 200_000  # characters of a patch on the page
_MOST_LINES = 7 * 4  # runs told apart by colour and dashes
_LONGEST_LABEL = 60  # characters of what was typed
_MOST_DETAILED = 12  # runs with a section of their own: each is a hundred kilobytes


@dataclass(frozen=True)
class Before:
    """What the config of a single run is compared with."""

    name: str
    params: dict[str, str]


def render(runs: Sequence[Facts], before: Before | None = None) -> str:
    """The page.

    Args:
        runs: what it is about, one or several.
        before: an earlier run, to tell what has changed; for a single one.
    """
    import jinja2
    import yaml

    here = files("accelerator.tracking.report")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(number=number, duration=duration, size=size, when=_when, quoted=shlex.quote)
    environment.filters["tojson_text"] = lambda text: json.dumps(text, ensure_ascii=False)
    environment.filters["yaml"] = lambda value: yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)
    template = environment.from_string((here / "report.html").read_text(encoding="utf-8"))
    detailed = len(runs) <= _MOST_DETAILED
    shown = [
        _shown(run, label, f"run-{at + 1}") if detailed else {"facts": run, "label": label}
        for at, (run, label) in enumerate(zip(runs, _labels(runs), strict=True))
    ]
    return template.render(
        title=runs[0].name if len(runs) == 1 else f"{len(runs)} runs compared",
        style=(here / "report.css").read_text(encoding="utf-8"),
        generator=f"{GENERATOR} {accelerator.__version__}",
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        runs=shown,
        compared=_compared(runs) if len(runs) > 1 else None,
        changes=_changes(before, runs[0]) if before and len(runs) == 1 else None,
        before=before,
        detailed=detailed,
    )


def _labels(runs: Sequence[Facts]) -> list[str]:
    """A name for each run that no other of them has; those of one name are told apart by what was typed for each."""
    names = [run.name for run in runs]
    common = set.intersection(*(set(run.overrides) for run in runs)) if runs else set()
    own = [" ".join(typed for typed in run.overrides if typed not in common) for run in runs]
    labels = []
    for run, typed in zip(runs, own, strict=True):
        short = run.run_id[:8] if run.run_id else run.folder.name if run.folder else ""
        if typed and own.count(typed) == 1 and len(typed) <= _LONGEST_LABEL:
            short = typed
        labels.append(f"{run.name} ({short})" if names.count(run.name) > 1 and short != run.name else run.name)
    return labels


def _shown(run: Facts, label: str, anchor: str) -> dict[str, Any]:
    curves = loss_curves(run.history, label, f"{anchor}-") if run.history else []
    pictures = [
        {"name": name, "caption": _CAPTIONS.get(name, name), "data": base64.b64encode(content).decode()}
        for name, content in run.pictures
        if not (curves and name == "loss_vs_work.png")  # drawn anew, in the page's colours
    ]
    git = {name: run.tags[f"git.{name}"] for name in ("commit", "branch", "dirty") if f"git.{name}" in run.tags}
    return {
        "facts": run,
        "label": label,
        "anchor": anchor,
        "figures": _figures(run),
        "curves": curves,
        "pictures": pictures,
        "git": git,
        "diff": run.diff[:_DIFF_LENGTH],
        "diff_cut": len(run.diff) > _DIFF_LENGTH,
        "machine": _machine(run),
        "packages": run.environment.get("packages") or {},
        "tags": {
            name: value for name, value in run.tags.items() if not name.startswith(("mlflow.", "accelerator.key"))
        },
        "best": next((checkpoint.name for checkpoint in run.checkpoints if checkpoint.best), None),
    }


def _figures(run: Facts) -> list[tuple[str, str]]:
    """What one wants to know first."""
    last = {metric.name: metric for metric in run.metrics}
    figures = [(name, number(metric.last)) for name, metric in last.items() if name.startswith("test/")]
    monitor = run.monitor
    if monitor and (metric := last.get(monitor[0])) and metric.best is not None:
        figures.append((f"best {metric.name}", number(metric.best)))
    if run.history is not None:
        steps = run.history.span[1]
        work = float(run.history.work(run.history.starts[-1:] * 0 + steps)[0])
        figures.append(("steps", f"{steps:,}"))
        if not math.isclose(work, steps):
            figures.append(("work units", f"{work:,.4g}" if work < 10_000 else f"{work:,.0f}"))
    if "parameters" in run.tags:
        parameters = run.tags["parameters"]
        figures.append(("parameters", f"{int(parameters):,}" if parameters.isdecimal() else parameters))
    return figures


def _machine(run: Facts) -> dict[str, str]:
    told = {name: run.tags[name] for name in ("host", "python", "torch", "accelerator", "engine") if name in run.tags}
    return told | {
        name.replace("memory_gib", "memory (GiB)"): ", ".join(map(str, value))
        if isinstance(value, list)
        else str(value)
        for name, value in run.environment.items()
        if name not in ("packages", "executable") and value not in (None, "", [])
    }


def _compared(runs: Sequence[Facts]) -> dict[str, Any]:
    metrics = comparison.side_by_side(
        [{metric.name: metric.last for metric in run.metrics} for run in runs], [run.monitor for run in runs]
    )
    drawn = [(at, run.history) for at, run in enumerate(runs) if run.history is not None][:_MOST_LINES]
    return {
        "params": comparison.differing([run.params for run in runs]),
        "metrics": [
            (name, [(value, at in best) for at, value in enumerate(values)]) for name, (values, best) in metrics.items()
        ],
        "curves": run_curves([history for _, history in drawn], "runs-"),
        "lines": {at: number for number, (at, _) in enumerate(drawn)},
    }


def _changes(before: Before, run: Facts) -> list[tuple[str, str | None, str | None]]:
    found = difference(before.params, run.params)
    names = sorted(name for kind in found.values() for name in kind)
    return [(name, before.params.get(name), run.params.get(name)) for name in names]


def _when(milliseconds: int | None) -> str:
    if milliseconds is None:
        return "–"
    return datetime.fromtimestamp(milliseconds / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S")
