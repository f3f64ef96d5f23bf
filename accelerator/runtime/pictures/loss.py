"""``loss_vs_work.png``: training and validation loss against work or steps, by level; and those of several runs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from accelerator.runtime.pictures.history import Floats, History, Integers
from accelerator.runtime.pictures.style import COLOURS, FAINT, INK, colour, level_name, picture

_BINS, _STEPS = 150, 5  # means of the training loss: this many over the whole width, each of at least so many steps
_LEAST_BINS = 4  # a stretch on one level with fewer of them is one dot
_LIGHT = 0.5
_MOST_MARKS = 24  # changes of level marked across the curves; more of them would hide these
_MOST_DOTS = 80  # validations marked by a dot


WORK, STEPS = "work done (work units: steps of the full network)", "steps done"


def draw_loss(history: History, path: Path, *, against: str = WORK, width: float = 8.0) -> bool:
    """Draw the losses, and below them the level trained, like the diagram of a multigrid cycle.

    Args:
        history: of the run.
        path: the file to write.
        against: `WORK`, or `STEPS` of whatever level.
        width: in inches; a narrow drawing has larger letters where it is shown in the same space.

    Returns:
        Whether there was anything to draw: at least one finite loss.
    """
    if not len(history.training) and not len(history.validation):
        return False
    history = history.by_steps() if against == STEPS else history
    levels = sorted(set(history.levels.tolist()))
    many = len(levels) > 1
    with picture(path, width, (0.575 if many else 0.5) * width) as figure:
        if many:
            grid = figure.add_gridspec(2, 1, height_ratios=(1, 0.09 * len(levels) + 0.06), hspace=0.02)
            axes = figure.add_subplot(grid[0])
            below = figure.add_subplot(grid[1], sharex=axes)
            axes.tick_params(labelbottom=False)
            _draw_levels(below, history, levels)
            if len(history.starts) - 1 <= _MOST_MARKS:
                for mark in history.work(history.starts[1:]):
                    axes.axvline(mark, color=FAINT, linewidth=0.8, zorder=0)
        else:
            axes = below = figure.add_subplot()
        _draw_training(axes, history)
        _draw_validation(axes, history)
        _scale(axes, [history])
        axes.set_ylabel("loss")
        below.set_xlabel(against)
        axes.margins(x=0.01)
        axes.set_xlim(left=history.work(np.array(history.span))[0])
        below.xaxis.set_major_formatter(FuncFormatter(lambda work, _: f"{work:,.10g}"))
        ink = INK if many else colour(levels[0])
        handles = [Line2D([], [], color=ink, linewidth=1.0, alpha=_LIGHT, label="training, smoothed")]
        if len(history.validation):
            handles.append(Line2D([], [], color=ink, linewidth=1.6, marker="o", markersize=3.5, label="validation"))
        if many:
            handles += [Line2D([], [], color=colour(level), linewidth=4, label=level_name(level)) for level in levels]
        figure.legend(
            handles=handles, loc="outside upper center", ncols=min(len(handles), int(width)), columnspacing=1.6
        )
    return True


def draw_runs(histories: Sequence[History], path: Path, *, against: str = WORK, width: float = 8.0) -> bool:
    """Draw the validation loss of several runs, each in its colour (see `run_line`); the training loss of one without.

    Thin lines are losses of coarse levels.

    Args:
        histories: of each run.
        path: the file to write.
        against: `WORK`, or `STEPS` of whatever level.
        width: in inches.

    Returns:
        Whether there was anything to draw.
    """
    histories = [history.by_steps() if against == STEPS else history for history in histories]
    if not any(len(history.training) or len(history.validation) for history in histories):
        return False
    with picture(path, width, 0.5 * width) as figure:
        axes = figure.add_subplot()
        for at, history in enumerate(histories):
            ink, dashes = run_line(at)
            validation = history.validation
            for level in sorted(set(history.levels.tolist()), reverse=True):
                chosen = history.level(validation.steps) == level
                curve = history.work(validation.steps[chosen]), validation.values[chosen]
                marker = "o" if level == 0 and len(curve[0]) <= _MOST_DOTS else None
                thickness = 1.6 if level == 0 else 0.8
                axes.plot(*curve, color=ink, linestyle=dashes, linewidth=thickness, marker=marker, markersize=3)
            if not len(validation) and len(history.training):
                bins = min(_BINS, len(history.training))
                curve = [_means(each, bins) for each in (history.work(history.training.steps), history.training.values)]
                axes.plot(*curve, color=ink, linestyle=dashes, linewidth=1.0, alpha=_LIGHT)
        _scale(axes, histories)
        axes.set_ylabel("validation loss")
        axes.set_xlabel(against)
        axes.margins(x=0.01)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda work, _: f"{work:,.10g}"))
    return True


def run_line(number: int) -> tuple[str, str]:
    """Colour and dashes of a run among several."""
    return colour(number), ("-", "--", ":", "-.")[number // len(COLOURS) % 4]


def _draw_training(axes: Axes, history: History) -> None:
    """Means of neighbouring steps, never across a change of level: a line a stretch, or a dot if it is short."""
    steps, values = history.training.steps, history.training.values
    if not len(steps):
        return
    work, stretch = history.work(steps), history.stretch(steps)
    per_unit = _BINS / max(work[-1] - work[0], 1e-300)
    begins = np.flatnonzero(np.diff(stretch, prepend=-1))
    lines: dict[int, list[Floats]] = defaultdict(list)
    for begin, end in zip(begins, [*begins[1:], len(steps)], strict=True):
        bins = min(round((work[end - 1] - work[begin]) * per_unit), (end - begin) // _STEPS)
        bins = bins if bins >= _LEAST_BINS else 1
        mean = np.column_stack([_means(series[begin:end], bins) for series in (work, values)])
        lines[int(history.levels[stretch[begin]])].append(mean)
    for level, means in lines.items():
        curves, dots = [mean for mean in means if len(mean) > 1], [mean for mean in means if len(mean) == 1]
        axes.add_collection(LineCollection(curves, colors=colour(level), linewidths=1.0, alpha=_LIGHT))
        if dots:
            axes.plot(*np.concatenate(dots).T, ".", color=colour(level), markersize=5, alpha=_LIGHT, markeredgewidth=0)
    axes.autoscale_view()


def _means(values: Floats, bins: int) -> Floats:
    """The means over ``bins`` runs of neighbours."""
    edges = np.linspace(0, len(values), bins, endpoint=False).astype(int)
    return np.add.reduceat(values, edges) / np.diff(edges, append=len(values))


def _draw_validation(axes: Axes, history: History) -> None:
    """One curve a level: in cycles, from each visit of the level to the next."""
    steps, values = history.validation.steps, history.validation.values
    work, levels = history.work(steps), history.level(steps)
    marker = "o" if len(steps) <= _MOST_DOTS else None
    # The finest last, on top of the others.
    for level in sorted(set(levels.tolist()), reverse=True):
        chosen = levels == level
        axes.plot(work[chosen], values[chosen], color=colour(level), linewidth=1.6, marker=marker, markersize=3.5)


def _scale(axes: Axes, histories: Sequence[History]) -> None:
    """A logarithmic axis where every loss is above zero, unless it spans so little that no one could tell."""
    axes.grid(axis="y", color="#EEEEEE", linewidth=0.8)
    axes.set_axisbelow(True)
    low, high = axes.dataLim.intervaly
    series = [series for history in histories for series in (history.training, history.validation)]
    if min(each.values.min(initial=math.inf) for each in series) <= 0:
        return
    if high / low < 3:
        return
    axes.set_yscale("log")
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_major_formatter(plain)
    if high / low < 100:  # powers of ten alone would be one or two numbers
        axes.yaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
        axes.yaxis.set_minor_formatter(plain)
    else:
        axes.yaxis.set_minor_formatter(NullFormatter())


def _draw_levels(axes: Axes, history: History, levels: list[int]) -> None:
    starts: Integers = np.append(history.starts, history.span[1])
    work = history.work(starts)
    dashes = [((a, level), (b, level)) for a, b, level in zip(work[:-1], work[1:], history.levels, strict=True)]
    moves = [
        ((at, before), (at, after))
        for at, before, after in zip(work[1:-1], history.levels[:-1], history.levels[1:], strict=True)
    ]
    axes.add_collection(LineCollection(moves, colors=FAINT, linewidths=0.7))
    axes.add_collection(
        LineCollection(dashes, colors=[colour(level) for level in history.levels], linewidths=3, capstyle="butt")
    )
    axes.set_ylim(max(levels) + 0.6, min(levels) - 0.6)
    axes.set_yticks(levels)
    axes.set_ylabel("level")
    axes.autoscale_view(scaley=False)
