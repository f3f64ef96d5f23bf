"""Writes what the fault tests measured into the table of docs/reliability.md, when ``--reliability`` is given.

A test belongs to the row its name begins with: ``test_a5_…``. It counts as one trial, or as many as its parameter
``kills``, ``flips`` or ``runs`` says; ``record_property("measured", "…")`` adds a figure.
"""

import re
from collections import defaultdict
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
TRIALS = ("kills", "flips", "runs")


def pytest_addoption(parser):
    parser.addoption("--reliability", action="store_true", help=f"write what was measured to {PAGE.name}")


def pytest_configure(config):
    if config.getoption("--reliability"):
        config.pluginmanager.register(Table(), "reliability")


def pytest_collection_modifyitems(items):
    for item in items:
        if row := re.match(r"test_([a-j]\d+)_", item.name):
            parameters = item.callspec.params if hasattr(item, "callspec") else {}
            trials = next((parameters[name] for name in TRIALS if name in parameters), 1)
            item.user_properties += [("row", row[1].upper()), ("trials", trials)]


class Table:
    def __init__(self):
        self.good, self.all, self.seconds = (defaultdict(float) for _ in range(3))
        self.figures = defaultdict(list)

    def pytest_runtest_logreport(self, report):
        properties = dict(report.user_properties)
        row = properties.get("row")
        if row is None:
            return
        self.seconds[row] += report.duration
        if report.when == "call" or not report.passed:
            self.all[row] += 0 if report.skipped else properties["trials"]
            self.good[row] += properties["trials"] if report.passed else 0
            figure = properties.get("measured")
            if figure is not None and figure not in self.figures[row]:
                self.figures[row].append(figure)

    def pytest_sessionfinish(self):
        lines = [self._filled(line) for line in PAGE.read_text().splitlines()]
        PAGE.write_text("\n".join(lines) + "\n")

    def _filled(self, line):
        """A line of the table, its last three cells measured; any other as it was."""
        cells = [cell.strip() for cell in line.strip("| ").split(" | ")]
        row = cells[0]
        if not line.startswith("|") or not self.all[row]:
            return line
        figure = "; ".join(self.figures[row]) or "–"
        measured = [f"{self.good[row]:g}/{self.all[row]:g}", figure, f"{self.seconds[row]:.0f}"]
        return f"| {' | '.join([*cells[:2], *measured])} |"
