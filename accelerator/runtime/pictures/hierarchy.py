"""``hierarchy.png``: the levels of a multilevel run: widths, parameters, cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from accelerator.runtime.pictures.style import colour, level_name, picture

_MOST_LABELLED = 8  # groups with their widths written beside them


def draw_hierarchy(
    widths: Sequence[Sequence[int]], parameters: Sequence[int], costs: Sequence[float], path: Path
) -> None:
    """Draw the widths of each group of units on each level, and what each level has and costs.

    Args:
        widths: for each level, finest first, the size of each group that can be coarsened; without any there is no
            panel of them.
        parameters: of each level.
        costs: of a step on each level, relative to level 0.
        path: the file to write.
    """
    levels = range(len(costs))
    with picture(path, 9.0, max(2.6, 1.5 + 0.36 * len(costs))) as figure:
        ratios = (2.2, 1, 1) if all(widths) else (1, 1)
        *left, middle, right = figure.subplots(1, len(ratios), width_ratios=ratios)
        if left:
            _draw_widths(left[0], widths)
        _draw_bars(middle, parameters, [_short(count) for count in parameters])
        middle.set_title("parameters")
        middle.set_yticks(levels, [level_name(level) for level in levels])
        _draw_bars(right, costs, [f"{cost:.2g}" for cost in costs])
        right.set_title("relative FLOPs per step")
        right.set_yticks([])


def _draw_widths(axes: Axes, widths: Sequence[Sequence[int]]) -> None:
    """A dash for each group and level; with many groups, one outline a level instead."""
    groups = max(map(len, widths))
    few = groups <= _MOST_LABELLED
    for level in reversed(range(len(widths))):
        if not few:
            axes.stairs(
                widths[level],
                [group + 0.5 for group in range(len(widths[level]) + 1)],
                baseline=None,
                color=colour(level),
                linewidth=1.8,
            )
            continue
        for group, width in enumerate(widths[level], 1):
            axes.hlines(width, group - 0.3, group + 0.3, color=colour(level), linewidth=3)
            if level == 0 or width not in widths[level - 1][group - 1 : group]:
                axes.annotate(
                    str(width),
                    (group, width),
                    xytext=(0, 3),
                    textcoords="offset points",
                    ha="center",
                    fontsize=8,
                    color=colour(level),
                )
    every = [width for level in widths for width in level]
    axes.set_yscale("log", base=2)
    axes.set_ylim(min(every) / 1.4, max(every) * 1.6)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda width, _: f"{width:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlim(0.4, groups + 0.6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10], nbins=12))
    axes.set_title("width (units or modes)")
    axes.set_xlabel("group of coupled units or modes, in the order of the network")


def _draw_bars(axes: Axes, values: Sequence[float], labels: Sequence[str]) -> None:
    bars = axes.barh(range(len(values)), values, height=0.6, color=[colour(level) for level in range(len(values))])
    axes.bar_label(bars, labels, padding=3, fontsize=8)
    axes.set_ylim(len(values) - 0.4, -0.6)
    axes.set_xlim(0, 1.25 * max(values))
    axes.set_xticks([])
    axes.spines[["bottom", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _short(count: int) -> str:
    for size, suffix in ((10**9, " B"), (10**6, " M"), (10**3, " k")):
        if count >= size:
            return f"{count / size:.3g}{suffix}"
    return f"{count:,}"
