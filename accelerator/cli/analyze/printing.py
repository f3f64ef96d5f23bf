"""An analysis on the terminal."""

from __future__ import annotations

import shlex

from accelerator.analysis.report import Report, Table, cell, is_number
from accelerator.cli.tables import clean, console

_COLOURS = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def show(report: Report) -> None:
    """Print facts, tables and findings; what is wrong comes last, where one looks first."""
    from rich.text import Text

    screen = console()
    screen.print(Text(clean(report.title), "bold"))
    width = max(map(len, (label for label, _ in [*report.facts, *report.figures])), default=0)
    for label, text in [*report.figures, *report.facts]:
        screen.print(Text(clean(f"{label:<{width}}  {text}")))
    for table in report.tables:
        screen.print()
        _show_table(table)
    screen.print()
    screen.print(Text("Findings", "bold"))
    if not report.findings:
        screen.print("nothing to complain of")
    for finding in report.findings:
        screen.print(Text.assemble((f"{finding.severity:<8}", _COLOURS[finding.severity]), clean(finding.text)))
        if finding.overrides:
            screen.print(Text(f"        {clean(shlex.join(finding.overrides))}", "green"))
    screen.print()


def _show_table(table: Table) -> None:
    from rich.table import Table as Drawn
    from rich.text import Text

    screen = console()
    drawn = Drawn(
        box=None, title=Text(clean(table.title), "bold"), title_justify="left", pad_edge=False, padding=(0, 2, 0, 0)
    )
    for place, name in enumerate(table.columns):
        numeric = all(is_number(row[place]) for row in table.rows)
        drawn.add_column(clean(name), justify="right" if numeric else "left", overflow="fold")
    for row in table.rows[: table.shown]:
        drawn.add_row(*(Text(clean(cell(value))) for value in row))
    screen.print(drawn)
    if len(table.rows) > table.shown:
        screen.print(Text(f"… {len(table.rows) - table.shown:,} more rows on the page and in analysis.json", "dim"))
    if table.note:
        screen.print(Text(clean(table.note), "dim"))
