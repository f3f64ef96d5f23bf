"""``fields.png``: truth, prediction and error of a few samples whose targets are fields on a grid.

Shape legend: B batch, C channels, n and m points of the grid.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from accelerator.runtime.pictures.style import INK, colour, picture

ROWS = 3
_LEAST_POINTS = 8  # along each dimension of a grid: fewer are a vector, no field

Array = NDArray[np.float64]


def are_fields(prediction: Tensor, target: Tensor) -> bool:
    """Whether these are real fields on a grid of one or two dimensions: (B, C, n) or (B, C, n, m), at least 8 each."""
    return (
        prediction.shape == target.shape
        and prediction.is_floating_point()
        and target.is_floating_point()
        and target.dim() in (3, 4)
        and min(target.shape[2:]) >= _LEAST_POINTS
    )


def draw_fields(prediction: Tensor, target: Tensor, path: Path, *, name: str) -> None:
    """Draw the first samples, or the first channels of the first sample if there are several.

    Args:
        prediction: (B, C, n) or (B, C, n, m).
        target: of the same shape.
        path: the file to write.
        name: of the split, for the titles.
    """
    channels = target.shape[1]
    rows = [(sample, 0) for sample in range(min(len(target), ROWS))] if channels == 1 else []
    rows = rows or [(0, channel) for channel in range(min(channels, ROWS))]
    of = f" of {channels}"
    labels = [f"{name} sample {i + 1}" + (f"\nchannel {j + 1}{of}" if channels > 1 else "") for i, j in rows]
    ours, truth = (
        np.stack([values[row].detach().double().cpu().numpy() for row in rows]) for values in (prediction, target)
    )
    (_draw_lines if target.dim() == 3 else _draw_images)(ours, truth, labels, path)


def relative_l2(ours: Array, truth: Array) -> str:
    """‖prediction − truth‖ / ‖truth‖ in words; the error's own norm where the truth is zero."""
    error, norm = float(np.linalg.norm(ours - truth)), float(np.linalg.norm(truth))
    return f"relative L2 {error / norm:.3g}" if norm > 0 else f"L2 {error:.3g}, truth is zero"


def _draw_images(ours: Array, truth: Array, labels: list[str], path: Path) -> None:
    """(rows, n, m): truth and prediction on the truth's scale; the error on its own, with white at zero."""
    height = 2.45 * len(ours) + 0.3
    n, m = truth.shape[1:]
    with picture(path, 8.6, height, fitted=False) as figure:
        grid = figure.add_gridspec(
            len(ours),
            6,
            width_ratios=(1, 1, 0.05, 0.28, 1, 0.05),
            left=0.04,
            right=0.93,
            bottom=0.1 / height,
            top=1 - 0.3 / height,
            wspace=0.06,
            hspace=0.14,
        )
        for row, label in enumerate(labels):
            error = ours[row] - truth[row]
            most = float(np.abs(error).max()) or 1.0
            scale = {"vmin": truth[row].min(), "vmax": truth[row].max()}
            signed = {"vmin": -most, "vmax": most, "cmap": "RdBu_r"}
            for column, bar, values, options, title in (
                (0, None, truth[row], scale, "" if row else "truth"),
                (1, 2, ours[row], scale, "" if row else "prediction"),
                (4, 5, error, signed, f"prediction − truth ({relative_l2(ours[row], truth[row])})"),
            ):
                axes = figure.add_subplot(grid[row, column], xticks=[], yticks=[], title=title)
                image = axes.imshow(values, aspect="equal" if 1 / 3 <= n / m <= 3 else "auto", **options)
                axes.spines[:].set_visible(False)
                if column == 0:
                    axes.set_ylabel(label)
                if bar is not None:
                    scale_of = figure.colorbar(image, cax=figure.add_subplot(grid[row, bar]), format=_number)
                    scale_of.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
                    scale_of.ax.tick_params(labelsize=8, length=2)


def _number(value: float, _: object) -> str:
    return f"{value:.3g}".replace("-", "−")


def _draw_lines(ours: Array, truth: Array, labels: list[str], path: Path) -> None:
    """(rows, n): truth and prediction in one panel, the error beside it."""
    with picture(path, 8.0, 1.7 * len(ours) + 0.5) as figure:
        grid = figure.subplots(len(ours), 2, squeeze=False, sharex=True)
        for row, label in enumerate(labels):
            left, right = grid[row]
            left.plot(truth[row], color=INK, linewidth=1.2, label="truth")
            left.plot(ours[row], color=colour(1), linewidth=1.2, linestyle=(0, (3, 1.5)), label="prediction")
            left.set_ylabel(label)
            right.axhline(0, color=INK, linewidth=0.6)
            right.plot(ours[row] - truth[row], color=colour(1), linewidth=1.2)
            right.set_title(f"prediction − truth ({relative_l2(ours[row], truth[row])})")
            for axes in (left, right):
                axes.margins(x=0.01)
        grid[0, 0].legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0)
        for axes in grid[-1]:
            axes.set_xlabel("grid point")
