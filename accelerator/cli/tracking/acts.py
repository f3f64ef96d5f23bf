"""``accelerator tracking status|sync``."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.text import Text

from accelerator.cli.tables import clean, console, table
from accelerator.errors import AcceleratorError, UserError
from accelerator.tracking.backlog import LIVE, REFUSED, ROOTS, SENT, WAITING, Backlog, below, look
from accelerator.tracking.sync import Outcome, sync
from accelerator.utilities.files import short

_STYLES = {LIVE: "cyan", WAITING: "yellow", REFUSED: "bold red", SENT: "green"}


def status(options: Namespace) -> int:
    """Print the runs whose record is not whole."""
    looked_at = _records(options.folders)
    shown = [record for record in looked_at if record.condition != SENT]
    if options.json:
        print(json.dumps([_plain(record) for record in shown], indent=1))
        return 0
    out = console()
    if not shown:
        out.print(f"nothing is left to send: {_count(len(looked_at), 'run')} looked at")
        return 0
    rows = table(["run", "state", "last said"], ["points left", "files left"])
    for record in shown:
        state = Text(record.condition, _STYLES.get(record.condition, "bold yellow"))
        rows.add_row(clean(short(record.run_dir)), state, record.status, f"{record.points:,}", f"{record.files:,}")
    out.print(rows)
    for record in shown:
        if record.left and record.error:
            out.print(f"{short(record.run_dir)}: {clean(record.error)}")
    if left := sum(record.left for record in shown):
        out.print(f"accelerator tracking sync sends what {_count(left, 'run')} left")
    return 0


def sync_all(options: Namespace) -> int:
    """Send what runs have left; the exit code tells whether everything arrived."""
    wanted = [record for record in _records(options.folders) if _is_wanted(record, options)]
    outcomes: list[Outcome] = []
    out = console()
    for outcome in sync([record.run_dir for record in wanted], options.uri):
        outcomes.append(outcome)
        if not options.json:
            out.print(_line(outcome))
    if options.json:
        print(json.dumps([_plain(o.after) | {"arrived": o.points, "problem": o.problem} for o in outcomes], indent=1))
    elif not outcomes:
        out.print("nothing is left to send")
    failed = [outcome for outcome in outcomes if outcome.problem is not None]
    if any(outcome.mistaken or outcome.after.condition == REFUSED for outcome in failed):
        return UserError.exit_code
    return AcceleratorError.exit_code if any(outcome.after.condition != LIVE for outcome in failed) else 0


def _is_wanted(record: Backlog, options: Namespace) -> bool:
    """A store that is named gets all that is named; else a run is sent that has something left."""
    named = [folder.absolute() for folder in options.folders]
    return record.left or (record.condition == LIVE and record.run_dir in named) or bool(options.uri and named)


def _records(folders: Sequence[Path]) -> list[Backlog]:
    """The records meant, each once.

    Raises:
        UserError: a folder is not there, or holds none.
    """
    found: dict[Path, Backlog] = {}
    for folder in folders or [Path(root) for root in ROOTS if Path(root).is_dir()]:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; give a run's folder, or one with runs below it")
        records = [record for path in below(folder.absolute()) if (record := look(path)) is not None]
        if folders and not records:
            raise UserError(f"{folder} holds no run with a record, nor does any folder below it")
        found |= {record.run_dir: record for record in records}
    return list(found.values())


def _line(outcome: Outcome) -> Text:
    after = outcome.after
    where = clean(short(after.run_dir))
    if outcome.problem is None:
        sent = f"{_count(outcome.points, 'point')} sent; " if outcome.points else ""
        return Text.assemble(("arrived  ", "green"), f"{where}  {sent}run {after.run_id} is {after.closed}")
    word = after.condition if after.condition in (LIVE, REFUSED) else WAITING
    left = "" if word == LIVE else f"{_count(after.points, 'point')} left; "
    return Text.assemble((f"{word:<9}", _STYLES[word]), f"{where}  {left}{clean(outcome.problem)}")


def _plain(record: Backlog) -> dict[str, Any]:
    return asdict(record) | {"run_dir": str(record.run_dir)}


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
