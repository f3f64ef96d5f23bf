"""When each step ran: bars of characters for a terminal, and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

_HALF = "▌"
_FULL = "█"


class Bar(NamedTuple):
    """A step that ran.

    Attributes:
        name: the step's.
        begin: seconds after the pipeline's start.
        end: the same.
        flaw: what is to be said of it, if it did not end well.
    """

    name: str
    begin: float
    end: float
    flaw: str = ""


def as_text(bars: Sequence[Bar], width: int = 60) -> list[str]:
    """One line a step, and an axis below; nothing where nothing ran.

    >>> print("\\n".join(as_text([Bar("train", 0, 6), Bar("test", 6, 8)], width=16)))
    train │████████████
    test  │            ████
          └────────────────
           0            8 s
    """
    if not bars:
        return []
    whole = max(max(bar.end for bar in bars), 1e-9)
    label = max(len(bar.name) for bar in bars)
    lines = []
    for bar in bars:
        begin, end = (round(2 * width * at / whole) for at in (bar.begin, bar.end))
        begin = min(begin // 2, width - 1)
        length = max(end - 2 * begin, 1)
        lines.append(f"{bar.name:<{label}} │{' ' * begin}{_FULL * (length // 2)}{_HALF * (length % 2)}".rstrip())
    seconds = f"{whole:.3g} s" if whole < 1000 else f"{whole:,.0f} s"
    lines.append(f"{'':<{label}} └{'─' * width}")
    lines.append(f"{'':<{label}}  0{seconds:>{width - 1}}")
    return lines


def draw(bars: Sequence[Bar], path: Path, title: str) -> bool:
    """The same as a PNG.

    Returns:
        Whether there was anything to draw.
    """
    if not bars:
        return False
    from accelerator.runtime.pictures.style import FAINT, colour, picture

    whole = max(bar.end for bar in bars)
    with picture(path, 8.0, 0.75 + 0.3 * len(bars)) as figure:
        axes = figure.add_subplot()
        for row, bar in enumerate(bars):
            axes.barh(row, bar.end - bar.begin, left=bar.begin, height=0.62, color=colour(1 if bar.flaw else 0))
            seconds = f"{bar.end - bar.begin:.1f} s" + (f", {bar.flaw}" if bar.flaw else "")
            inside = bar.end > 0.85 * whole and bar.end - bar.begin > 0.15 * whole
            axes.annotate(
                seconds,
                (bar.end, row),
                xytext=(-4 if inside else 4, 0),
                textcoords="offset points",
                va="center",
                ha="right" if inside else "left",
                color="white" if inside else None,
            )
        axes.set_yticks(range(len(bars)), [bar.name for bar in bars])
        axes.set_ylim(len(bars) - 0.5, -0.5)
        axes.set_xlim(0, 1.12 * whole)
        axes.set_xlabel("seconds")
        axes.set_title(title)
        axes.grid(axis="x", color=FAINT, linewidth=0.5, alpha=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(axis="y", length=0)
    return True
