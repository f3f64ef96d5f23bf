"""Scanned handwritten digits, part of scikit-learn: a real image set without a download."""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor
from torch.nn import functional

from accelerator.errors import ConfigError

SCAN = 8  # pixels, each way
SMALLEST, LARGEST = 3 / 8, 3 / 4  # side of a scan on a canvas, as a share of it
PIECE = 4  # pixels of a scan that a piece of clutter shows, each way


def digits(
    *,
    canvas: int | None = None,
    placements: int = 4,
    clutter: int = 3,
    noise: float = 0.1,
    val_fraction: float = 0.15,
    test_fraction: float = 0.15,
    seed: int = 0,
) -> dict[str, tuple[Tensor, Tensor]]:
    """1,797 images of the digits 0 … 9, (1, 8, 8) with values in [0, 1], and their labels.

    Each split has the digits in equal proportions (stratified). Source: Alpaydin, Kaynak, "Optical Recognition of
    Handwritten Digits", UCI Machine Learning Repository (1998), its test set, through `sklearn.datasets.load_digits`.

    With a canvas of n pixels the scans become a harder task with room in it, (1, n, n): each lies at a random place,
    whole, enlarged bilinearly to a random side between ⅜ n and ¾ n, among pieces of other scans of its split (4 × 4
    pixels, enlarged to 3/16 n, at random places) and under Gaussian noise; the brightest wins where they overlap, and
    values stay in [0, 1]. This is the "cluttered" task of Mnih et al., "Recurrent Models of Visual Attention", 2014.

    Args:
        canvas: side n of the images, at least 22 pixels, so that no scan is made smaller; None: the scans as they are.
        placements: images made from each scan on a canvas.
        clutter: pieces of other scans in each image on a canvas.
        noise: standard deviation of the noise on a canvas.
        val_fraction: of all scans.
        test_fraction: of all scans.
        seed: which scans go where, in the splits and on the canvas.

    Returns:
        {"train" | "val" | "test": (float32 (n, 1, 8, 8) or (n, 1, canvas, canvas), int64 (n,))}.

    Raises:
        ConfigError: fractions that leave a split without every digit, or a knob out of its range.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    fractions = {"train": 1 - val_fraction - test_fraction, "val": val_fraction, "test": test_fraction}
    _check(fractions, len(labels), canvas, placements, clutter, noise)
    indices, test = train_test_split(range(len(labels)), test_size=test_fraction, random_state=seed, stratify=labels)
    train, val = train_test_split(
        indices, test_size=val_fraction / (1 - test_fraction), random_state=seed, stratify=labels[indices]
    )
    images = torch.from_numpy(pixels).float().div(16).reshape(-1, 1, SCAN, SCAN)
    classes = torch.from_numpy(labels).long()
    splits = {name: (images[rows], classes[rows]) for name, rows in {"train": train, "val": val, "test": test}.items()}
    if canvas is None:
        return splits
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (
            _cluttered(scans.repeat(placements, 1, 1, 1), canvas, clutter, noise, generator),
            digit.repeat(placements),
        )
        for name, (scans, digit) in splits.items()
    }


def _cluttered(scans: Tensor, canvas: int, clutter: int, noise: float, generator: torch.Generator) -> Tensor:
    """Scans (n, 1, 8, 8) on canvases (n, 1, canvas, canvas), each among `clutter` pieces of others."""
    images = _placed(scans, canvas, LARGEST, generator)
    for _ in range(clutter):
        others = scans[torch.randint(len(scans), (len(scans),), generator=generator)]
        pieces = others * _windows(len(scans), generator)
        images = torch.maximum(images, _placed(pieces, canvas, SMALLEST, generator))
    return (images + noise * torch.randn(images.shape, generator=generator)).clamp(0, 1)


def _placed(scans: Tensor, canvas: int, largest: float, generator: torch.Generator) -> Tensor:
    """Each scan enlarged to a random share of the canvas, at a random place where it lies on it whole."""
    share = SMALLEST + (largest - SMALLEST) * torch.rand(len(scans), 1, 1, generator=generator)
    # In coordinates from −1 to 1 across the canvas, a scan of this share reaches ±share around its centre.
    centre = (2 * torch.rand(len(scans), 2, 1, generator=generator) - 1) * (1 - share)
    pixels = (2 * torch.arange(canvas) + 1) / canvas - 1
    y, x = ((pixels - centre) / share).unbind(1)
    grid = torch.stack([x[:, None, :].expand(-1, canvas, -1), y[:, :, None].expand(-1, -1, canvas)], dim=-1)
    return functional.grid_sample(scans, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _windows(count: int, generator: torch.Generator) -> Tensor:
    """(count, 1, 8, 8) masks, 1 on a random square of a scan and 0 elsewhere."""
    corner = torch.randint(SCAN - PIECE + 1, (count, 2, 1), generator=generator)
    distance = torch.arange(SCAN) - corner
    rows, columns = ((distance >= 0) & (distance < PIECE)).unbind(1)
    return (rows[:, None, :, None] & columns[:, None, None, :]).float()


def _check(
    fractions: dict[str, float], scans: int, canvas: int | None, placements: int, clutter: int, noise: float
) -> None:
    problems = []
    if any(fraction * scans < 10 for fraction in fractions.values()):
        problems.append(
            f"data.val_fraction={fractions['val']} and data.test_fraction={fractions['test']}: each split, the rest "
            "for training included, must have room for all ten digits (at least 0.006)"
        )
    if canvas is not None and canvas * SMALLEST < SCAN:
        problems.append(
            f"data.canvas={canvas} has no room for scans of {SCAN} pixels: at least {ceil(SCAN / SMALLEST)} are "
            "needed, or null for the scans alone"
        )
    problems += [
        f"data.{name}={value} must be at least {least}"
        for name, value, least in (("placements", placements, 1), ("clutter", clutter, 0), ("noise", noise, 0))
        if value < least
    ]
    if problems:
        raise ConfigError(problems)
