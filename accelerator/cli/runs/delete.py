"""``accelerator runs delete``: what is to be deleted is shown, asked for, and nothing else is touched."""

from __future__ import annotations

import shutil
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from accelerator.cli.runs.look import find_all
from accelerator.cli.runs.rows import print_runs
from accelerator.errors import RunDirectoryError, UserError
from accelerator.runtime.run_directory import owned
from accelerator.tracking.locations import sqlite_file
from accelerator.tracking.query import Store, StoredRun, check_own_files, is_folder_of, open_store
from accelerator.utilities.files import short


def delete(options: Namespace) -> int:
    """Delete runs, and what else is asked for, once the user has seen them."""
    store = open_store(options.uri)
    runs = find_all(store, options.runs)
    parts = {part.id: part for run in runs for part in store.children(run)}
    parts = [part for part in parts.values() if part.id not in {run.id for run in runs}]
    if options.nested:
        runs += parts
    folders = [folder for run in runs if (folder := run.folder)] if options.folder else []
    for folder in folders:
        _check_idle(folder)
    for run in runs if options.artifacts else ():
        check_own_files(run)
    print_runs(runs)
    print()
    for line in _consequences(options, runs, [] if options.nested else parts, folders):
        print(line)
    if not options.yes and not agreed():
        print("nothing was deleted")
        return UserError.exit_code
    for run in runs:
        store.delete(run)
        if options.artifacts and run.artifacts:
            store.delete_files(run)
    for run, folder in ((run, folder) for run in runs for folder in folders if is_folder_of(folder, run.id)):
        _remove(folder, run)
    print(f"deleted {_runs(len(runs))}" + _restore(store, runs))
    return 0


def _consequences(
    options: Namespace, runs: Sequence[StoredRun], parts: Sequence[StoredRun], folders: Sequence[Path]
) -> list[str]:
    """What will be gone, and what stays, in sentences."""
    lines = []
    if running := [run for run in runs if run.status == "RUNNING"]:
        lines.append(f"still running, as far as the store knows: {', '.join(run.id[:8] for run in running)}")
    if parts:
        lines.append(f"{_runs(len(parts))} that {'is' if len(parts) == 1 else 'are'} part of them stay (--nested)")
    if options.artifacts:
        lines += [f"for good: {run.artifacts}" for run in runs if run.artifacts]
    lines += [f"for good: {short(folder)}, checkpoints and all" for folder in folders]
    if options.folder:
        lines += [f"no folder here: {run.id[:8]} {run.name}" for run in runs if run.folder is None]
    return lines


def agreed() -> bool:
    """Ask the user.

    Raises:
        UserError: there is nobody to ask.
    """
    if not sys.stdin.isatty():
        raise UserError("nothing was deleted: there is no terminal to ask on; --yes deletes without asking")
    try:
        return input("delete? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _check_idle(folder: Path) -> None:
    """See that no process works in a run's folder.

    Raises:
        RunDirectoryError: one does.
    """
    with owned(folder):
        pass


def _remove(folder: Path, run: StoredRun) -> None:
    """Remove a run's folder, and keep others from working in it meanwhile."""
    try:
        with owned(folder):
            shutil.rmtree(folder)
    except OSError as error:
        raise RunDirectoryError(
            f"run {run.id} was deleted, but not all of {folder}: {error.filename}: {error.strerror}"
        ) from error


def _restore(store: Store, runs: Sequence[StoredRun]) -> str:
    commands = [f"\n  mlflow runs restore --run-id {run.id}" for run in runs]
    where = f"MLFLOW_TRACKING_URI={store.uri} " if sqlite_file(store.uri) is not None else ""
    return f"; to restore, with {where.strip() or 'MLFLOW_TRACKING_URI set'}:" + "".join(commands)


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"
