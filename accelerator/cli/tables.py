"""How commands print tables and facts: names are shown as they are, whatever stands in them."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def console() -> Console:
    """The terminal; piped into a file or a pager, a table is as wide as it needs to be."""
    from rich.console import Console

    return Console(
        highlight=False, markup=False, emoji=False, soft_wrap=True, width=None if sys.stdout.isatty() else 200
    )


def table(left: Iterable[str] = (), right: Iterable[str] = (), *, title: str | None = None) -> Table:
    """A table without lines.

    Args:
        left: its first columns, of words.
        right: those after them, of numbers.
        title: above it.
    """
    from rich.table import Table
    from rich.text import Text

    # A title is printed whole above the header, even where the table is narrower.
    made = Table(box=None, title=None if title is None else Text(title, "bold"), title_justify="left", pad_edge=False)
    for name in left:
        made.add_column(clean(name), overflow="fold")
    for name in right:
        made.add_column(clean(name), justify="right", no_wrap=True)
    return made


def clean(text: str) -> str:
    """Text that cannot move the cursor or colour the terminal: a run's name is anybody's to choose."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "\N{REPLACEMENT CHARACTER}" for letter in text)


def short(path: Path) -> str:
    """A path as it can be typed from here."""
    path = path.absolute()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
