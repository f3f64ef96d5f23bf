"""The HTML of an analysis: one file that fetches nothing, in the style of `accelerator report`."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Sequence
from datetime import datetime
from importlib.resources import files
from typing import Any

import accelerator
from accelerator.analysis.report import Report, Table, cell, is_number

MOST_ROWS = 500


def render(report: Report, command: str, try_it: str = "") -> str:
    """The page.

    Args:
        report: what it says.
        command: what was typed, secrets masked.
        try_it: a command line to go on with.
    """
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["quoted"] = shlex.quote
    template = environment.from_string((files("accelerator.analysis") / "page.html").read_text(encoding="utf-8"))
    style = (files("accelerator.tracking.report") / "report.css").read_text(encoding="utf-8")
    return template.render(
        report=report,
        command=command,
        try_it=try_it,
        figures=report.figures,
        pictures=[(each.title, base64.b64encode(each.path.read_bytes()).decode()) for each in report.pictures],
        tables=[_shown(table) for table in report.tables],
        style=_safe(style),
        generator=f"{' '.join(command.split()[:2])} {accelerator.__version__}",
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
    )


def _shown(table: Table) -> dict[str, Any]:
    """The table with texts for its values: of each whether it is a number, and the length of its bar."""
    numeric = [all(is_number(row[place]) for row in table.rows) for place in range(len(table.columns))]
    largest = {
        place: max((row[place] for row in table.rows if isinstance(row[place], int | float)), default=0)
        for place, name in enumerate(table.columns)
        if name in table.bars
    }

    def share(row: Sequence[Any], place: int) -> float | None:
        value = row[place]
        if not isinstance(value, int | float) or not largest.get(place):
            return None
        return max(0.0, value / largest[place])

    return {
        "title": table.title,
        "note": table.note,
        "columns": list(zip(table.columns, numeric, strict=True)),
        "rows": [
            [(cell(value), numeric[place], share(row, place)) for place, value in enumerate(row)]
            for row in table.rows[:MOST_ROWS]
        ],
        "left": max(0, len(table.rows) - MOST_ROWS),
    }


def _safe(text: str) -> Any:
    import markupsafe

    return markupsafe.Markup(text)  # noqa: S704 - our own file
