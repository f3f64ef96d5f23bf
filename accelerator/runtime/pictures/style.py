"""The look all pictures share, whatever the user's own Matplotlib settings are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

# Told apart by the colour-blind too. Source: Okabe & Ito (2008), *Color Universal Design*, jfly.uni-koeln.de/color.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
INK, FAINT = "#333333", "#BBBBBB"

_STYLE: dict[str, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.formatter.limits": (-3, 5),
    "axes.formatter.use_mathtext": True,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "lines.solid_capstyle": "round",
    # Text of an SVG stays text, and two drawings of one history are the same file.
    "svg.fonttype": "none",
    "svg.hashsalt": "accelerator",
}
_DPI = 150


def colour(level: int) -> str:
    """The colour of a level; level 0 is blue."""
    return COLOURS[level % len(COLOURS)]


def level_name(level: int) -> str:
    """How a level is called in a legend or on an axis."""
    return "level 0 (finest)" if level == 0 else f"level {level}"


@contextmanager
def picture(path: Path, width: float, height: float, *, fitted: bool = True) -> Iterator[Figure]:
    """A figure to draw on, saved when the block ends well; no global state of Matplotlib is changed.

    Args:
        path: the file, ``.png`` or ``.svg``; its folder is made. An SVG has no background.
        width: in inches of 150 pixels.
        height: in the same.
        fitted: let Matplotlib make room for labels; it costs as much as the drawing.
    """
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)  # pyright: ignore[reportCallIssue, reportArgumentType] - keys are literals there
        figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained" if fitted else None)
        yield figure
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".svg":
            figure.savefig(path, format="svg", transparent=True, metadata={"Date": None})
        else:
            figure.savefig(path, format="png")
