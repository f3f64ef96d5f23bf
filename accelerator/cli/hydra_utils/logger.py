"""What is different from the last run: in a line, before a training begins.

What was composed and from where is ``accelerator train --explain``, and is kept with every run (composition.yaml).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from accelerator.errors import RunDirectoryError
from accelerator.runtime.run_directory import CONFIG

MOST = 6  # changes that are told; the rest are counted
_LONGEST = 40  # characters of a value

# Where a run goes and what it shows is no news.
_PASSED_OVER = ("tracking", "resume", "load", "imports", "evaluate", "analysis", "tune", "sweep")


def since_the_last_run(config: Mapping[str, Any], unresolved: Mapping[str, Any], run_dir: Path) -> str | None:
    """``since the last run: optimizer.lr 0.1 → 0.01``; None if nothing has changed, or there was none.

    The last run is the one before this in the folder that holds the runs (``outputs``).

    Args:
        config: resolved, plain.
        unresolved: the same tree before interpolation: what comes from the environment is not shown.
        run_dir: of the run that begins.
    """
    from accelerator.cli.run_files import config_in
    from accelerator.tracking.masking import masked

    if (before := _last(run_dir)) is None:
        return None
    try:
        was = config_in(before)
    except RunDirectoryError:
        return None
    changed = list(changes(was, masked(config, unresolved), unresolved))
    if not changed:
        return None
    more = f" · and {len(changed) - MOST} more" if len(changed) > MOST else ""
    return f"since the last run: {' · '.join(changed[:MOST])}{more}"


def changes(was: Mapping[str, Any], now: Mapping[str, Any], unresolved: Mapping[str, Any]) -> Iterator[str]:
    """Each difference in words; of a section that holds another component, only that it does.

    Args:
        was: a config, resolved.
        now: another one.
        unresolved: the second before interpolation: a value that follows another one is no change of its own.
    """
    for section in [*now, *(key for key in was if key not in now)]:
        if section not in _PASSED_OVER:
            yield from _changes(section, was.get(section), now.get(section), unresolved.get(section))


def _changes(key: str, was: Any, now: Any, written: Any) -> Iterator[str]:
    if was == now or (isinstance(written, str) and "${" in written):
        return
    if isinstance(was, Mapping) and isinstance(now, Mapping):
        if _component(was) != _component(now):
            yield f"{key} {_component(was) or 'none'} → {_component(now) or 'none'}"
            return
        for name in [*now, *(name for name in was if name not in now)]:
            inner = written.get(name) if isinstance(written, Mapping) else None
            yield from _changes(f"{key}.{name}", was.get(name), now.get(name), inner)
    elif not was and isinstance(now, Mapping):
        yield f"with {key}" if now else f"{key} {_text(was)} → {{}}"
    elif isinstance(was, Mapping) and not now:
        yield f"without {key}"
    else:
        yield f"{key} {_text(was)} → {_text(now)}"


def _component(section: Mapping[str, Any]) -> str | None:
    named = section.get("name") or section.get("_target_")
    return named if isinstance(named, str) else None


def _text(value: Any) -> str:
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _last(run_dir: Path) -> Path | None:
    """The run before in the same place: folders are named by date and time."""
    place = run_dir.parent.parent
    if place.name != "outputs":
        return None
    days = sorted((day for day in place.iterdir() if day.is_dir()), reverse=True) if place.is_dir() else []
    for day in days:
        for folder in sorted(day.iterdir(), reverse=True):
            if (day.name, folder.name) < (run_dir.parent.name, run_dir.name) and _is_training(folder):
                return folder
    return None


def _is_training(folder: Path) -> bool:
    from accelerator.cli.run_files import COMPOSITION

    if not (folder / CONFIG).is_file():
        return False
    try:
        return "command: train" in (folder / COMPOSITION).read_text(encoding="utf-8")
    except OSError:
        return False
