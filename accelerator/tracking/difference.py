"""In what two configs differ, each flattened to dotted keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Where a run stands and how it is called are no part of what it computes.
_LEFT_OUT = ("tracking.", "resume", "hydra.")


def difference(was: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What changed, was added and was removed.

    >>> difference({"lr": 1, "old": 2}, {"lr": 3, "new": 4})
    {'changed': {'lr': [1, 3]}, 'added': {'new': 4}, 'removed': {'old': 2}}
    """
    keys = [key for key in sorted(was.keys() | now.keys()) if not key.startswith(_LEFT_OUT)]
    return {
        "changed": {k: [was[k], now[k]] for k in keys if k in was and k in now and was[k] != now[k]},
        "added": {k: now[k] for k in keys if k not in was},
        "removed": {k: was[k] for k in keys if k not in now},
    }


def as_text(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The same in a line: ``lr: 1 → 3; + new: 4; − old``; empty where nothing differs."""
    return "; ".join(
        [
            *(f"{key}: {was} → {now}" for key, (was, now) in found["changed"].items()),
            *(f"+ {key}: {value}" for key, value in found["added"].items()),
            *(f"− {key}" for key in found["removed"]),
        ]
    )
