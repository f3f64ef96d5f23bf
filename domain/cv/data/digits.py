"""Scanned handwritten digits, part of scikit-learn: a real image set without a download."""

from __future__ import annotations

import torch
from torch import Tensor

from accelerator.errors import ConfigError


def digits(
    *, val_fraction: float = 0.15, test_fraction: float = 0.15, seed: int = 0
) -> dict[str, tuple[Tensor, Tensor]]:
    """1,797 images of the digits 0 … 9, (1, 8, 8) with values in [0, 1], and their labels.

    Each split has the digits in equal proportions (stratified). Source: Alpaydin, Kaynak, "Optical Recognition of
    Handwritten Digits", UCI Machine Learning Repository (1998), its test set, through `sklearn.datasets.load_digits`.

    Args:
        val_fraction: of all images.
        test_fraction: of all images.
        seed: which images go where.

    Returns:
        {"train" | "val" | "test": (float32 (n, 1, 8, 8), int64 (n,))}.

    Raises:
        ConfigError: fractions that leave a split without every digit.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    fractions = {"train": 1 - val_fraction - test_fraction, "val": val_fraction, "test": test_fraction}
    if any(fraction * len(labels) < 10 for fraction in fractions.values()):
        raise ConfigError(
            f"data.val_fraction={val_fraction} and data.test_fraction={test_fraction}: each split, the rest for "
            "training included, must have room for all ten digits (at least 0.006)"
        )
    indices, test = train_test_split(range(len(labels)), test_size=test_fraction, random_state=seed, stratify=labels)
    train, val = train_test_split(
        indices, test_size=val_fraction / (1 - test_fraction), random_state=seed, stratify=labels[indices]
    )
    images = torch.from_numpy(pixels).float().div(16).reshape(-1, 1, 8, 8)
    classes = torch.from_numpy(labels).long()
    return {name: (images[split], classes[split]) for name, split in {"train": train, "val": val, "test": test}.items()}
