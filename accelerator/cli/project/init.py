"""``accelerator init``: a folder to work in: configs, a package with a component of its own, a test."""

from __future__ import annotations

import re
from argparse import ArgumentParser, Namespace
from pathlib import Path

from accelerator.cli.actions import run_alone
from accelerator.cli.project.project import check_name, hidden
from accelerator.cli.project.templates import filled
from accelerator.errors import UserError
from accelerator.utilities.files import short, write_together
from accelerator.utilities.shell import quote

LOSS = "scaled_error"  # the component it begins with

# Nobody's work: a folder that holds nothing else counts as empty.
_NOTHING = frozenset({".git", ".venv", "venv", ".idea", ".vscode", ".DS_Store"})

_EPILOG = """examples
  accelerator init my_project         a new folder
  accelerator init                    the folder you are in, if nothing is in it
  accelerator init --force            add what is absent to a folder with files; none of them is changed"""


def init_command(arguments: list[str]) -> int:
    """The command line's entry; see `accelerator.cli.app.main` for the exit codes."""
    description = "Begin a project: configs, a package with a loss of its own, a test, a Makefile."
    return run_alone("init", description, _EPILOG, _arguments, init, arguments)


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "folder", nargs="?", default=".", metavar="DIR", help="the folder; the one you are in by default"
    )
    parser.add_argument("--package", metavar="NAME", help="of its package; by default as the folder is called")
    parser.add_argument("--force", action="store_true", help="add what is absent to a folder that is not empty")
    parser.add_argument("--dry-run", action="store_true", help="show what would be written, and write nothing")


def init(options: Namespace) -> None:
    """Write the files of a new project, those of them that are absent.

    Raises:
        UserError: the folder holds files already, and ``--force`` was not given.
    """
    if not options.folder:
        raise UserError("the folder's name is empty: accelerator init DIR, or accelerator init for the one you are in")
    root = (Path.cwd() / options.folder).absolute()
    if root.exists() and not root.is_dir():
        raise UserError(f"{short(root)} is a file: give the name of a folder")
    package = check_name(options.package or _package_name(root.resolve().name), "a package (--package NAME)")
    if (other := hidden(package, root)) is not None:
        raise UserError(f"a package '{package}' here would hide {other}: choose another name by --package NAME")
    there = sorted(path.name for path in root.iterdir() if path.name not in _NOTHING) if root.exists() else []
    if there and not options.force:
        shown = ", ".join(there[:6]) + (f", … ({len(there)} in all)" if len(there) > 6 else "")
        raise UserError(f"{short(root)} is not empty: {shown}. --force adds what is absent, and changes none of them")
    files = _files(root, package)
    for path in (path for path in files if not path.resolve().is_relative_to(root.resolve())):
        raise UserError(f"{short(path)} leads to {path.resolve()}, outside of {short(root)}: nothing was written")
    present = [path for path in files if path.exists()]
    if not options.dry_run:
        write_together({path: text for path, text in files.items() if path not in present})
    for path in files:
        print(f"  {path.relative_to(root)}" + (" (is there already: left as it is)" if path in present else ""))
    if options.package is None and package != root.resolve().name:
        print(
            f"\nits package is called {package}: a package cannot be called as the folder is; --package chooses a name"
        )
    print(f"\n{short(root)} {'would have' if options.dry_run else 'has'} these files. next:")
    if root != Path.cwd():
        print(f"  cd {quote(short(root))}")
    print("  accelerator train experiment=first      trains with the loss of your own, a few seconds")
    print("  accelerator add model net --new         begins a model of your own; then: accelerator train model=net")
    print("  accelerator status                      what ./configs overrides, and what in it is broken")
    print("  python -m pytest                        this project's tests (pip install pytest)")


def _files(root: Path, package: str) -> dict[Path, str]:
    words = {
        "title": root.resolve().name,
        "package": package,
        "loss": LOSS,
        "name": LOSS,
        "module": f"{package}.loss.{LOSS}",
        "attribute": LOSS,
    }
    texts = {
        "README.md": "project/README.md",
        "Makefile": "project/Makefile",
        ".gitignore": "project/gitignore",
        "pyproject.toml": "project/pyproject.toml",
        "configs/project/default.yaml": "project/default.yaml",
        "configs/experiment/first.yaml": "project/experiment.yaml",
        f"configs/training_components/loss/{LOSS}.yaml": "project/loss.yaml",
        f"{package}/__init__.py": "new/package.py",
        f"{package}/loss/__init__.py": "project/empty.py",
        f"{package}/loss/{LOSS}.py": "new/loss.py",
        f"tests/test_loss_{LOSS}.py": "new/loss_test.py",
        "tests/test_experiments.py": "project/experiment_test.py",
    }
    return {root / path: filled(template, **words) for path, template in texts.items()}


def _package_name(folder: str) -> str:
    """A folder's name as that of a package: ``My project-2`` is ``my_project_2``."""
    name = re.sub(r"\W+", "_", folder.lower(), flags=re.ASCII).strip("_")
    return name if re.match(r"[a-z]", name) and name not in ("configs", "tests", "accelerator", "domain") else "project"
