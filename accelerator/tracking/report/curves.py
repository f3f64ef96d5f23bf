"""The curves of a report: Matplotlib's drawings as SVG that stands in the page, in the page's own colours."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory

from accelerator.runtime.pictures.history import History
from accelerator.runtime.pictures.loss import STEPS, WORK, draw_loss, draw_runs
from accelerator.runtime.pictures.style import COLOURS, FAINT, INK

# In the style sheet, where each has a value for light and for dark.
VARIABLES = {colour.lower(): f"var(--line-{number})" for number, colour in enumerate(COLOURS)}
VARIABLES |= {INK.lower(): "var(--ink)", FAINT.lower(): "var(--faint)", "#eeeeee": "var(--grid)"}

_WIDTH = 6.0  # inches: letters of 9 points are then as large as the page's small ones

_NOISE = re.compile(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", re.DOTALL)
_ID = re.compile(r'(\bid="|xlink:href="#|url\(#)')


def loss_curves(history: History, name: str, prefix: str) -> list[tuple[str, str]]:
    """Caption and SVG of a run's losses: against work, and against steps where these are not the same.

    Args:
        history: of the run.
        name: how the run is called, for those who do not see the drawing.
        prefix: what no other drawing of the page begins its ids with.
    """
    many = len(set(history.levels.tolist())) > 1
    wanted = [("Loss against work", WORK), ("Loss against steps", STEPS)] if many else [("Loss against steps", STEPS)]
    drawn = []
    for number, (caption, against) in enumerate(wanted):
        svg = _drawn(lambda path, against=against: draw_loss(history, path, against=against, width=_WIDTH))
        if svg is not None:
            drawn.append((caption, _for_page(svg, f"{caption} of {name}", f"{prefix}{number}-")))
    return drawn


def run_curves(histories: Sequence[History], prefix: str) -> list[tuple[str, str]]:
    """Caption and SVG of the validation losses of several runs, against work and against steps."""
    drawn = []
    for number, (caption, against) in enumerate((("against work", WORK), ("against steps", STEPS))):
        svg = _drawn(lambda path, against=against: draw_runs(histories, path, against=against, width=_WIDTH))
        if svg is not None:
            coarse = any(history.levels.any() for history in histories)
            caption = f"Validation loss {caption}" + ("; thin where a coarse level was trained" if coarse else "")
            drawn.append((caption, _for_page(svg, f"{caption} of {len(histories)} runs", f"{prefix}{number}-")))
    return drawn


def _drawn(draw: Callable[[Path], bool]) -> str | None:
    with TemporaryDirectory(prefix="accelerator-report-") as folder:
        path = Path(folder) / "curve.svg"
        return path.read_text(encoding="utf-8") if draw(path) else None


def _for_page(svg: str, label: str, prefix: str) -> str:
    svg = _NOISE.sub("", svg).strip()
    svg = _ID.sub(lambda found: found[0] + prefix, svg)
    svg = re.sub("|".join(VARIABLES), lambda found: VARIABLES[found[0].lower()], svg, flags=re.IGNORECASE)
    head, _, rest = svg.partition(">")
    head = re.sub(r'\s(?:width|height)="[^"]*"', "", head)
    return f'{head} role="img" aria-label="{escape(label, quote=True)}">{rest}'
