"""How commands print tables and facts: names are shown as they are, whatever stands in them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

_GAP = 2  # characters between columns


@dataclass(frozen=True)
class Column:
    """A column that may have to give way.

    Attributes:
        title: above it.
        cells: one a row.
        right: put its cells to the right, as numbers are.
        rank: the greatest is left out first where there is no room for all; 0: never.
        least: characters it may be cut down to before any is left out; None: not at all.
        whole: fold what is cut instead of leaving it out.
    """

    title: str
    cells: Sequence[str | Text]
    right: bool = False
    rank: int = 0
    least: int | None = None
    whole: bool = False

    @property
    def width(self) -> int:
        """The characters its widest cell takes."""
        from rich.cells import cell_len

        return max(cell_len(line) for cell in (self.title, *self.cells) for line in str(cell).split("\n"))


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


def fitted(out: Console, columns: Sequence[Column], *, title: str | None = None) -> tuple[Table, list[str]]:
    """A table that is as wide as the terminal at most, and the titles of what there was no room for.

    Piped, everything is in it. What never gives way is folded where not even that fits.

    Args:
        out: the terminal.
        columns: each with a title of its own.
        title: above the table.
    """
    full = {column.title: column.width for column in columns}
    least = {c.title: full[c.title] if c.least is None else min(c.least, full[c.title]) for c in columns}
    room = out.width if sys.stdout.isatty() else max(out.width, sum(full.values()) + _GAP * len(columns))
    out.width = room
    kept = list(columns)

    def spare() -> int:
        return room - sum(least[column.title] for column in kept) - _GAP * (len(kept) - 1)

    while spare() < 0 and (last := max(kept, key=lambda column: column.rank)).rank:
        kept.remove(last)
    crowded, widths = spare() < 0, _shared(max(spare(), 0), [c.title for c in kept], least, full)
    made = table(title=title)
    for column in kept:
        width = widths[column.title]
        squeezed = crowded and width == max(widths.values())
        folds = squeezed or (column.whole and width < full[column.title])
        made.add_column(
            column.title,
            justify="right" if column.right else "left",
            overflow="fold" if folds else "ellipsis",
            no_wrap=not folds,
            max_width=None if squeezed else width,
        )
    for cells in zip(*(column.cells for column in kept), strict=True):
        made.add_row(*cells)
    return made, [column.title for column in columns if column not in kept]


def _shared(room: int, titles: Sequence[str], least: Mapping[str, int], full: Mapping[str, int]) -> dict[str, int]:
    """Columns' widths: what room there is goes to those that want more than the least, in equal parts."""
    widths = {}
    wanting = sorted(titles, key=lambda title: full[title] - least[title])
    for at, title in enumerate(wanting):
        widths[title] = min(full[title], least[title] + room // (len(wanting) - at))
        room -= widths[title] - least[title]
    return widths


def clean(text: str) -> str:
    """Text that cannot move the cursor or colour the terminal: a run's name is anybody's to choose."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "\N{REPLACEMENT CHARACTER}" for letter in text)
