"""What an analysis has to say, whatever it is written on: a terminal, a page, or JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from accelerator.utilities.quantities import number

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """Something to know about.

    Args:
        severity: `error`: a run fails or its result is wrong; `warning`: it is probably worse than it could be; `note`:
            good to know.
        text: what, and where.
        overrides: what to add to the command line against it; composes and runs.
    """

    severity: Severity
    text: str
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """Rows of values.

    Args:
        title: says what it is of.
        columns: their names; numbers stand to the right.
        rows: strings, numbers or None (nothing to say).
        bars: columns that are drawn as bars on a page, each as a share of its largest value.
        note: below it.
        shown: rows that a terminal shows; a page has all.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    bars: Sequence[str] = ()
    note: str = ""
    shown: int = 24


@dataclass(frozen=True)
class Picture:
    """A PNG file, and what it shows."""

    title: str
    path: Path


@dataclass
class Report:
    """An analysis.

    Attributes:
        title: of what.
        facts: labelled lines that say the most important.
        figures: the few numbers one wants to know first.
        findings: the gravest first, after `sort`.
        tables, pictures: in order.
        suggestion: overrides to start a training from.
        values: everything, for programs: plain values.
        metrics: the numbers worth comparing between runs.
    """

    title: str
    facts: list[tuple[str, str]] = field(default_factory=list)
    figures: list[tuple[str, str]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    suggestion: tuple[str, ...] = ()
    values: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)

    def find(self, severity: Severity, text: str, *overrides: str) -> None:
        """Add a finding."""
        self.findings.append(Finding(severity, text, overrides))

    def sort(self) -> None:
        """The gravest findings first; count them."""
        self.findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
        for severity in SEVERITIES:
            count = sum(finding.severity == severity for finding in self.findings)
            self.metrics[f"analysis/{severity}s"] = float(count)

    def json(self) -> dict[str, Any]:
        """All of it as plain values; what is not finite becomes a word."""
        return plain(
            {
                "title": self.title,
                "findings": [
                    {"severity": each.severity, "text": each.text, "overrides": list(each.overrides)}
                    for each in self.findings
                ],
                "suggestion": list(self.suggestion),
                "metrics": self.metrics,
                **self.values,
            }
        )


def plain(value: Any) -> Any:
    """A value as JSON has it: no arrays, tuples or paths; NaN and infinities as "nan", "inf", "-inf"."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float | None) else str(value)


def is_number(value: Any) -> bool:
    """Whether a cell stands to the right: a number, or nothing where others are numbers."""
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def cell(value: Any) -> str:
    """A value as it is read: thousands apart, five digits, "–" for nothing."""
    if isinstance(value, str | bool):
        return str(value)
    if isinstance(value, float) and 1e4 <= abs(value) < 1e15:
        return f"{value:.15g}"  # rounded by whoever wrote it
    return f"{value:,}" if isinstance(value, int) else number(value)


def scaled(count: float) -> str:
    """A count as it is read: 12, 3.4 k, 1.2 M, 7 G."""
    for unit in ("", " k", " M", " G"):
        if abs(count) < 1000:
            return f"{count:.3g}{unit}"
        count /= 1000
    return f"{count:.3g} T"


def counted(count: int, what: str, many: str | None = None) -> str:
    """ "1 sample", "2 samples": with the right ending."""
    return f"{count:,} {what if count == 1 else many or what + 's'}"


def listed(items: Sequence[Any], most: int = 8) -> str:
    """Some of these, and how many more."""
    text = ", ".join(map(str, items[:most]))
    return f"{text}, … ({len(items):,} in all)" if len(items) > most else text
