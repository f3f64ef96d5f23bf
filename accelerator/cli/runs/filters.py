"""What is typed as a filter: a status in any case, and names that no run has."""

from __future__ import annotations

import re
from collections.abc import Sequence

from accelerator.errors import did_you_mean
from accelerator.tracking.query import StoredRun

STATUSES = ("FAILED", "FINISHED", "KILLED", "RUNNING", "SCHEDULED")

# After a quote or within a name it is something else: tags.status = 'x'.
_STATUS = re.compile(r"""(?i)(?<![\w.'"`])((?:(?:attributes?|attr|run)\.)?`?status`?\s*!?=\s*)(['"])(\w+)\2""")
_NAME = re.compile(r"""(?i)(?<![\w.'"`])(metric|param|tag)(?:eter)?s?\.(?:'([^']+)'|"([^"]+)"|`([^`]+)`|([\w.]+))""")


def with_status(condition: str) -> str:
    """A filter as MLflow reads it, which knows a status in capitals only."""
    return _STATUS.sub(lambda found: f"{found[1]}{found[2]}{found[3].upper()}{found[2]}", condition)


def unknown_names(condition: str, runs: Sequence[StoredRun]) -> list[str]:
    """A line for each metric, param, tag and status of a filter that none of these runs has.

    Args:
        condition: the filter.
        runs: some of the store's.
    """
    lines = []
    for kind, *names in _NAME.findall(condition):
        name, kind = next(filter(None, names)), kind.lower()
        known = {name for run in runs for name in getattr(run, f"{kind}s")}
        if name not in known:
            lines.append(f"no run has a {kind} '{name}'{did_you_mean(name, known, show=0)}")
    for _, _, status in _STATUS.findall(condition):
        if status not in STATUSES:
            lines.append(f"no run has the status '{status}'{did_you_mean(status, STATUSES)}")
    return list(dict.fromkeys(lines))
