"""Pictures of data: histograms, classes, samples as images or curves, and spectra.

Shape legend: n samples, C channels, h and w points of a grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from accelerator.analysis.statistics import channels

_LEAST_POINTS = 8  # along each dimension of a grid: fewer are a vector, no field
HISTOGRAMS = 12
GRID = 16
_WIDTH = 5.6  # inches

Array = NDArray[np.float64]


def is_grid(shape: Sequence[int]) -> bool:
    """Whether a sample is values on a grid: (C, h) or (C, h, w) with at least 8 points in each direction."""
    return len(shape) in (2, 3) and min(shape[1:]) >= _LEAST_POINTS


def draw_histograms(pilots: Mapping[str, Tensor], names: Sequence[str], path: Path, what: str) -> None:
    """The distribution of each channel (the first dozen), a line for each split.

    Args:
        pilots: some samples of each split, (n, …).
        names: of the channels.
        path: the file to write.
        what: what the values are.
    """
    from accelerator.runtime.pictures.style import colour, picture

    shown = min(len(names), HISTOGRAMS)
    columns = min(shown, 3)
    rows = -(-shown // columns)
    with picture(path, _WIDTH, (2.8 if rows == columns == 1 else 1.6 * rows + 0.5)) as figure:
        for channel in range(shown):
            axes = figure.add_subplot(rows, columns, channel + 1)
            values = {split: _finite(channels(pilot)[:, channel]) for split, pilot in pilots.items()}
            known = [each for each in values.values() if len(each)]
            low, high = (min(each.min() for each in known), max(each.max() for each in known)) if known else (0, 1)
            edges = np.linspace(low, high if high > low else low + 1, 41)
            for number, (split, each) in enumerate(values.items()):
                density, _ = np.histogram(each, edges)
                axes.stairs(density / max(1, len(each)), edges, color=colour(number), label=split, linewidth=1.2)
            axes.set_title(names[channel])
            axes.set_yticks([])
            axes.spines["left"].set_visible(False)
            if channel == 0:
                axes.legend(fontsize=7)
        more = f", the first {shown} of {len(names)}" if shown < len(names) else ""
        figure.suptitle(f"{what}: share of values{more}", x=0.01, ha="left", fontsize=9)


def draw_classes(counts: NDArray[np.int64], splits: Sequence[str], path: Path) -> None:
    """How often each class is there, as a share of its split; (splits, classes)."""
    from accelerator.runtime.pictures.style import colour, picture

    shares = counts / np.maximum(1, counts.sum(1, keepdims=True))
    classes, width = counts.shape[1], 0.8 / len(splits)
    with picture(path, max(_WIDTH, min(12.0, 2.5 + 0.2 * classes)), 2.8) as figure:
        axes = figure.add_subplot()
        for number, split in enumerate(splits):
            places = np.arange(classes) - 0.4 + width * (number + 0.5)
            axes.bar(places, shares[number], width, color=colour(number), label=split)
        axes.set(xlabel="class", title="share of each class in its split")
        if classes <= 40:
            axes.set_xticks(range(classes))
        axes.legend(fontsize=7, ncols=len(splits), loc="lower right", bbox_to_anchor=(1, 1))


def draw_samples(values: Tensor, labels: Sequence[str], path: Path, what: str) -> None:
    """Samples as images or curves, (n, C, h, w) or (n, C, h): the first channel, or all three as colours."""
    from accelerator.runtime.pictures.style import colour, picture

    shown = min(len(values), GRID)
    columns = min(shown, 4)
    rows = -(-shown // columns)
    x = values[:shown].float().numpy()
    colours = x.ndim == 4 and x.shape[1] == 3
    low, high = np.nanmin(x), np.nanmax(x)
    with picture(path, _WIDTH, 1.45 * rows + 0.4) as figure:
        for number in range(shown):
            axes = figure.add_subplot(rows, columns, number + 1)
            if x.ndim == 3:
                axes.plot(x[number, 0], color=colour(0), linewidth=1)
                axes.set_ylim(low, high if high > low else low + 1)
            elif colours:
                axes.imshow(np.moveaxis((x[number] - low) / max(high - low, 1e-30), 0, -1))
            else:
                axes.imshow(x[number, 0], vmin=low, vmax=high, cmap="viridis" if _many_values(x) else "gray")
            axes.set_xticks([])
            axes.set_yticks([])
            if labels:
                axes.set_title(labels[number], fontsize=7, loc="center")
        of = f", channel 1 of {x.shape[1]}" if x.shape[1] > 1 and not colours else ""
        figure.suptitle(f"{what}{of}; {low:.3g} … {high:.3g}", x=0.01, ha="left", fontsize=9)


def spectrum(values: Tensor) -> Array:
    """Mean power of each wave number k = 0 … ⌊min(h, w)/2⌋ (cycles over the grid), summed over directions; (k,).

    By Parseval's identity the entries sum to the mean square of the values, but for the corners of the square of wave
    numbers that lie outside the circle.

    Args:
        values: (n, C, h) or (n, C, h, w); gaps count as zero.
    """
    x = torch.nan_to_num(values.double(), 0.0, 0.0, 0.0)
    dims = tuple(range(2, x.dim()))
    points = int(np.prod(x.shape[2:]))
    power = torch.fft.fftn(x, dim=dims).abs().square().mean((0, 1)).numpy() / points**2
    waves = np.meshgrid(*[np.fft.fftfreq(length, 1 / length) for length in x.shape[2:]], indexing="ij")
    radius = np.rint(np.sqrt(sum(wave**2 for wave in waves))).astype(int).ravel()
    most = min(x.shape[2:]) // 2
    return np.bincount(radius, power.ravel())[: most + 1].astype(np.float64)


def draw_spectra(spectra: Mapping[str, Array], path: Path) -> None:
    """Power by wave number, on logarithmic axes; a line for each."""
    from accelerator.runtime.pictures.style import colour, picture

    with picture(path, _WIDTH, 3.0) as figure:
        axes = figure.add_subplot()
        for number, (name, power) in enumerate(spectra.items()):
            waves = np.arange(1, len(power))
            axes.loglog(
                waves, np.maximum(power[1:], 1e-300), color=colour(number), label=name, marker=".", markersize=3
            )
        axes.set(xlabel="wave number (cycles over the grid)", title="mean power of the fields")
        axes.legend(fontsize=8)


def resolved_modes(power: Array, share: float = 0.99) -> int:
    """The smallest wave number below which this share of the power lies, without the mean."""
    whole = power[1:].sum()
    if whole <= 0:
        return 0
    return int(np.searchsorted(np.cumsum(power[1:]) / whole, share) + 1)


def _finite(values: Tensor) -> Array:
    flat = values.double().flatten().numpy()
    return flat[np.isfinite(flat)]


def _many_values(x: NDArray[np.float32]) -> bool:
    """Continuous fields are shown in colours, scans in grey: these have few levels, and none below zero."""
    return bool(np.nanmin(x) < 0 or len(np.unique(x[:4])) > 256)
