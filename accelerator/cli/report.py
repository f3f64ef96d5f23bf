"""``accelerator report``: one page on one run or several, in a single HTML file."""

from __future__ import annotations

import os
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from accelerator.cli.actions import run_alone
from accelerator.errors import RunDirectoryError, UserError

if TYPE_CHECKING:
    from accelerator.tracking.query import Store
    from accelerator.tracking.report.facts import Facts
    from accelerator.tracking.report.page import Before

_EPILOG = """examples:
  accelerator report                                           the newest run here
  accelerator report outputs/2026-01-31/12-00-00-000000-1 -o run.html
  accelerator report 3f9c21 a07b44 -o widths.html              what differs, and which is better
  accelerator report multirun/2026-01-31/12-00-00-000000-1     the jobs of a sweep
  accelerator report baseline --uri http://tracking:5000       a run of which there is only the record

The page needs nothing but a browser: it fetches nothing, runs no script, follows the browser's light or dark mode, and
prints. Runs that are here are read from their folders, without MLflow."""


def report_command(arguments: list[str]) -> int:
    """The command line's entry; see `accelerator.cli.app.main` for the exit codes."""
    description = "Write a page on runs: losses by level, metrics, what differs, pictures, how to go on."
    return run_alone("report", description, _EPILOG, _arguments, _report, arguments)


def _arguments(parser: ArgumentParser) -> None:
    run = (
        "a run's folder, or one with runs in it, such as a sweep's; an MLflow id (6 digits will do) or name; or last: "
        "the newest run here (the default)"
    )
    parser.add_argument("runs", nargs="*", metavar="RUN", default=["last"], help=run)
    parser.add_argument(
        "-o", "--out", metavar="FILE", type=Path, default=Path("report.html"), help="default: report.html"
    )
    parser.add_argument("--uri", metavar="URI", help="the store, for runs that are not here")
    parser.add_argument("--force", action="store_true", help="replace FILE even if it is not a report")


def _report(options: Namespace) -> None:
    _check_out(options.out, force=options.force)
    from accelerator.tracking.report.page import render
    from accelerator.utilities.files import short
    from accelerator.utilities.quantities import size

    find = _Finder(options.uri)
    # A run may be named twice: by its folder and its id, or as a part of another.
    runs = list({run.folder or run.run_id: run for word in options.runs for run in find(word)}.values())
    before = find.before(runs[0]) if len(runs) == 1 else None
    page = render(runs, before).encode()
    _write(options.out, page)
    print(f"{short(options.out)}  {size(len(page))}: open it in any browser")


class _Finder:
    """Finds runs, in folders first: the store is opened for what is not here."""

    def __init__(self, uri: str | None) -> None:
        self.uri = uri
        self._store: Store | None = None

    def __call__(self, wanted: str) -> list[Facts]:
        """What is known of a run, or of each that stands directly below a folder, such as a sweep's.

        Raises:
            UserError: there is none, or a name or id may be more than one.
        """
        from accelerator.cli.which_run import SHORTEST_ID, folders, run_id
        from accelerator.tracking.report.facts import is_run, read_run
        from accelerator.tracking.report.stored import read_stored

        if wanted == "last":
            if not (here := [folder for folder in _with_wholes(folders()) if is_run(folder)]):
                raise UserError(f"there is no run in {Path.cwd()}: accelerator train makes one, or name its folder")
            newest = max(here, key=_last_written)
            return [read_run(folder) for folder in _parts(newest.parent if is_run(newest.parent) else newest)]
        path = Path(wanted)
        if path.is_dir() or len(path.parts) > 1:
            if not path.is_dir():
                what = "is a file, and no run's folder" if path.exists() else "is not there"
                raise UserError(f"{wanted} {what}")
            return [read_run(folder) for folder in _parts(path)]
        if len(wanted) >= SHORTEST_ID and re.fullmatch("[0-9a-f]{1,32}", wanted.lower()):
            here = [folder for folder in _with_wholes(folders()) if (run_id(folder) or "").startswith(wanted.lower())]
            if len(here) == 1:
                return [read_run(folder) for folder in _parts(here[0])]
        run = self.store.find(wanted)
        parts = [part for part in self.store.children(run) if part.parent == run.id] if run.is_whole else []
        return [read_run(part.folder) if part.folder else read_stored(self.store, part) for part in parts or [run]]

    def before(self, run: Facts) -> Before | None:
        """The config of the run of its experiment that was started before it, here or else in the store."""
        from accelerator.cli.which_run import folders
        from accelerator.tracking.report.facts import previous_of
        from accelerator.tracking.report.page import Before

        if run.folder is not None:
            siblings = [path for path in run.folder.parent.parent.glob("*/*") if path.is_dir()]
            previous = previous_of(run, list({*folders(), *siblings}))
            return Before(previous.name, previous.params) if previous else None
        earlier = self.store.runs(f"attributes.start_time < {run.started}", experiment=run.experiment, limit=1)
        return Before(earlier[0].name, earlier[0].params) if earlier else None

    @property
    def store(self) -> Store:
        """The store, opened when it is first needed."""
        if self._store is None:
            from accelerator.tracking.query import open_store

            self._store = open_store(self.uri)
        return self._store


def _with_wholes(runs: Sequence[Path]) -> list[Path]:
    """With the folders around them: a sweep, a pipeline and a study are runs too."""
    return list(dict.fromkeys([*runs, *(folder.parent for folder in runs)]))


def _parts(folder: Path) -> list[Path]:
    """The runs directly below a folder, such as a sweep's; itself where there are none."""
    from accelerator.tracking.report.facts import is_run

    below = (child for child in folder.iterdir() if is_run(child))
    return sorted(below, key=lambda run: (len(run.name), run.name)) or [folder]


def _last_written(folder: Path) -> float:
    return max((path.stat().st_mtime for path in folder.iterdir() if path.is_file()), default=0.0)


def _check_out(out: Path, *, force: bool) -> None:
    """Told before the work is done: a file that is no report is not replaced."""
    if out.is_dir():
        raise UserError(f"{out} is a folder; name a file, such as -o {out / 'report.html'}")
    if not out.absolute().parent.is_dir():
        raise UserError(f"{out}: there is no folder {out.absolute().parent}")
    if force or not out.exists():
        return
    with out.open("rb") as file:
        if b'<meta name="generator" content="accelerator report' not in file.read(400):
            raise UserError(f"{out} is there, and is not a report: name another file, or replace it with --force")


def _write(out: Path, page: bytes) -> None:
    """Replace the file in one step."""
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(page)
        temporary.replace(out)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunDirectoryError(f"cannot write {out}: {error.strerror}") from error
