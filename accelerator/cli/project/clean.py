"""``accelerator clean``: what was generated goes, once it was shown; what a person made or edited stays.

Nothing outside of the project is touched, and no link is followed.
"""

from __future__ import annotations

import os
import shutil
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from accelerator.cli.actions import run_alone
from accelerator.cli.compose.composed import PLACES as ROOTS
from accelerator.cli.project.generated import Generated
from accelerator.cli.project.project import Project, here
from accelerator.cli.project.regenerable import regenerable
from accelerator.cli.tables import clean as printable
from accelerator.errors import UserError
from accelerator.utilities.files import short
from accelerator.utilities.quantities import size as size_text

CACHES = frozenset({"__pycache__", ".pytest_cache", ".ruff_cache", ".mypy_cache", ".hypothesis", ".ipynb_checkpoints"})

# What a run leaves in its folder, in any case: one of these.
_OF_A_RUN = ((".lock",), ("journal.jsonl",), ("config.yaml", "overrides.yaml"))

_GOING = ".being-removed"  # ends the name of a run's folder from then on

_EPILOG = """examples
  accelerator clean                        show everything that could go, and ask
  accelerator clean --caches --yes         caches, without asking
  accelerator clean --outputs --dry-run    what runs have left, with sizes

Runs that are at work stay, and those whose record has not arrived in MLflow (accelerator tracking sync sends it). Of
generated configs those go that accelerator add or configure would write again as they are: those with a --target stay,
those of the project's own components, and what a file of ./configs chooses."""


class Item(NamedTuple):
    """Something that can go: of which part, where, and how many bytes."""

    part: str
    path: Path
    size: int


def clean_command(arguments: list[str]) -> int:
    """The command line's entry; see `accelerator.cli.app.main` for the exit codes."""
    description = "Remove what was generated here: it is shown first, with sizes, and asked for."
    return run_alone("clean", description, _EPILOG, _arguments, clean, arguments)


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--outputs", action="store_true", help="the folders of runs: outputs/, multirun/, studies/")
    parser.add_argument("--caches", action="store_true", help="what Python and tools of development keep")
    parser.add_argument("--configs", action="store_true", help="generated configs that nobody has edited or chooses")
    parser.add_argument("--records", action="store_true", help="files of runs that were deleted in MLflow")
    parser.add_argument("--yes", action="store_true", help="do not ask; says which parts go, so name them")
    parser.add_argument("--dry-run", action="store_true", help="show what would go, and remove nothing")


def clean(options: Namespace) -> int:
    """Show what can go, ask, and remove it.

    Returns:
        The exit code: 0, or 3 if the user said no.
    """
    project = here()
    chosen = [part for part in PARTS if getattr(options, part)] or list(PARTS)
    if options.yes and len(chosen) == len(PARTS) and not all(getattr(options, part) for part in PARTS):
        raise UserError("--yes removes without asking: say what, by --outputs, --caches, --configs, --records")
    items: list[Item] = []
    for part in chosen:
        for found in PARTS[part](project):
            if isinstance(found, Item):
                items.append(found)
            else:
                print(f"stays: {printable(found)}")
    if not items:
        print(f"nothing to remove of {', '.join(chosen)}")
        return 0
    _show(items)
    if options.dry_run:
        print("\nnothing was removed (--dry-run)")
        return 0
    if not options.yes and not _agreed():
        print("nothing was removed")
        return UserError.exit_code
    return _remove(project, items)


def _outputs(project: Project) -> Iterator[Item | str]:
    """The folders of runs that have ended, and whose record is complete."""
    for root in (project.root / name for name in ROOTS):
        if root.is_symlink():
            yield f"{short(root)} is a link to {root.resolve()}, which is not followed"
        else:
            yield from _ended(root)


def _ended(folder: Path, depth: int = 6) -> Iterator[Item | str]:
    """The runs below a folder. One that has runs in it, a sweep, goes as a whole or stays as a whole."""
    if depth == 0 or not folder.is_dir() or folder.is_symlink():
        return
    inner = [found for child in sorted(folder.iterdir()) for found in _ended(child, depth - 1)]
    kept = [found for found in inner if isinstance(found, str)]
    if folder.name.startswith(".") and folder.name.endswith(_GOING):
        yield Item("outputs", folder, size_of(folder))
    elif not _is_run(folder):
        yield from inner
    elif kept:
        yield from kept
    elif reason := _why_kept(folder):
        yield f"{short(folder)} {reason}"
    else:
        yield Item("outputs", folder, size_of(folder))


def _is_run(folder: Path) -> bool:
    """Whether a run has worked in this folder; any other is somebody's own."""
    return any(all((folder / name).exists() for name in names) for names in _OF_A_RUN)


def _why_kept(folder: Path) -> str | None:
    from accelerator.runtime.run_directory import is_owned
    from accelerator.tracking.backlog import LIVE, look

    backlog = look(folder)
    if is_owned(folder) or (backlog is not None and backlog.condition == LIVE):
        return "is at work"
    if backlog is not None and backlog.left:
        return "has a record that has not arrived: accelerator tracking sync"
    return None


def _caches(project: Project) -> Iterator[Item | str]:
    for folder in _folders(project.root):
        if folder.name in CACHES:
            yield Item("caches", folder, size_of(folder))
    data = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "accelerator"
    if data.is_dir():
        yield f"{data} holds solved data sets, {size_text(size_of(data))}; it is outside of the project"


def _folders(root: Path) -> Iterator[Path]:
    """The folders of a project but those of environments and of git; links are not followed."""
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.is_symlink()):
        if folder.name in CACHES:
            yield folder
        elif folder.name != ".git" and folder.name not in ROOTS and not (folder / "pyvenv.cfg").exists():
            yield from _folders(folder)


def _configs(project: Project) -> Iterator[Item | str]:
    for found in regenerable(project):
        yield found if isinstance(found, str) else Item("configs", found, found.stat().st_size)


def _records(project: Project) -> Iterator[Item | str]:
    from accelerator.tracking.locations import locate, sqlite_file

    file = sqlite_file(locate(None).uri)
    if file is not None and not file.exists():
        return
    from accelerator.tracking.deleted_runs import deleted_runs
    from accelerator.tracking.query import open_store

    for run in deleted_runs(open_store()):
        folder = run.folder
        if folder is None or folder.is_symlink() or not folder.resolve().is_relative_to(project.root.resolve()):
            yield f"files of the deleted run {run.id[:8]} {run.name} in {run.address}: not in the project"
        elif folder.is_dir():
            # MLflow keeps them in ID/artifacts; the folder of the run goes with them.
            whole = folder.parent if folder.name == "artifacts" and folder.parent.name == run.id else folder
            yield Item("records", whole, size_of(whole))


PARTS: dict[str, Callable[[Project], Iterator[Item | str]]] = {
    "outputs": _outputs,
    "caches": _caches,
    "configs": _configs,
    "records": _records,
}


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; a link counts for itself."""
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with suppress(OSError):
                total += (Path(folder) / name).lstat().st_size
    return total


def _show(items: list[Item]) -> None:
    from accelerator.cli.tables import console, table

    rows = table(("part", "path"), ("size",))
    for item in items:
        rows.add_row(item.part, printable(short(item.path)), size_text(item.size))
    rows.add_row("", f"{len(items)} in all", size_text(sum(item.size for item in items)))
    console().print(rows)


def _agreed() -> bool:
    """Ask the user.

    Raises:
        UserError: there is nobody to ask.
    """
    if not sys.stdin.isatty():
        raise UserError("nothing was removed: there is no terminal to ask on; --yes removes without asking")
    try:
        return input("remove all of it, for good? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _remove(project: Project, items: list[Item]) -> int:
    generated = Generated(project)
    gone: list[Item] = []
    try:
        for item in items:
            try:
                _remove_one(item, generated)
            except OSError as error:
                raise UserError(f"could not remove {error.filename or item.path}: {error.strerror}") from error
            gone.append(item)
            _remove_empty(item.path.parent, project.root)
    finally:
        if any(item.part == "configs" for item in gone):
            generated.write({})
            _remove_empty(project.configs, project.root)
        of = f" of {len(items)}" if len(gone) < len(items) else ""
        print(f"removed {len(gone)}{of}, {size_text(sum(item.size for item in gone))}")
    return 0


def _remove_one(item: Item, generated: Generated) -> None:
    if item.part == "outputs":
        _remove_run(item.path)
    elif item.path.is_dir():
        shutil.rmtree(item.path)
    elif item.part == "configs" and generated.untouched(item.path):
        item.path.unlink()
        generated.forget(item.path)


def _remove_run(folder: Path) -> None:
    """Remove a run's folder, and keep others from working in it meanwhile.

    It gets another name first: what an interruption leaves of it is no run any more, and goes the next time.
    """
    from accelerator.runtime.run_directory import owned

    if not folder.name.endswith(_GOING):
        with owned(folder):
            folder = folder.rename(folder.with_name(f".{folder.name}{_GOING}"))
    shutil.rmtree(folder)


def _remove_empty(folder: Path, root: Path) -> None:
    """Remove a folder that nothing is left in, and those above it, up to the project's."""
    while folder != root and folder.is_relative_to(root):
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent
