"""The user's own arrays and tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from accelerator.errors import ConfigError, DataError, did_you_mean
from domain.cross.data.tables import Array, Selection, read_pair

SPLITS = ("train", "val", "test")
TASKS = ("auto", "regression", "classification")


def arrays(
    path: str | Mapping[str, str],
    inputs: Selection,
    targets: Selection,
    *,
    task: str = "auto",
    val_fraction: float = 0.15,
    test_fraction: float = 0.15,
    seed: int = 0,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Inputs and targets from a .csv, .parquet, .npz or .npy file.

    | file | ``inputs``, ``targets`` |
    |---|---|
    | .csv, .parquet | column names, one or a list |
    | .npz | key names, one or a list (joined along the last dimension); the first dimension counts samples |
    | .npy | column numbers, one or a list, or a slice such as ``"0:8"`` or ``":-1"`` |

    ``task`` decides what a target is. ``classification``: one column of labels 0 … C−1, int64 of shape (n,).
    ``regression``: float32 of shape (n, columns), or the array's own. ``auto``: classification when the target is a
    single column stored as integers or booleans, else regression. Numbers that happen to be whole, such as counts,
    need ``task: regression``.

    Args:
        path: one file, split at random; or a mapping of train, val and test to a file each.
        inputs: what the network sees.
        targets: what it predicts.
        task: ``auto``, ``regression`` or ``classification``.
        val_fraction: of all rows, when ``path`` is one file.
        test_fraction: of all rows, when ``path`` is one file.
        seed: which rows go where.

    Returns:
        {"train" | "val" | "test": (inputs, targets)}; inputs are float32, (n, *sample).

    Raises:
        DataError: a file, column or value cannot be used; the message says which and where.
        ConfigError: a knob has no such value.
    """
    if task not in TASKS:
        raise ConfigError(f"unknown data.task '{task}'{did_you_mean(task, TASKS)}")
    if isinstance(path, Mapping):
        if set(path) != set(SPLITS):
            raise ConfigError(f"data.path is one file, or a file for each of train, val and test; it has {list(path)}")
        pairs = {split: read_pair(Path(path[split]).expanduser(), inputs, targets) for split in SPLITS}
    else:
        x, y = read_pair(Path(path).expanduser(), inputs, targets)
        pairs = {split: (x[rows], y[rows]) for split, rows in _split(len(x), val_fraction, test_fraction, seed).items()}
    _check_alike(pairs)

    all_targets = np.concatenate([y for _, y in pairs.values()])
    column = all_targets[:, 0] if all_targets.shape[1:] == (1,) else None
    if task == "classification" or (task == "auto" and column is not None and column.dtype.kind in "iu"):
        _check_labels(column, task)
        return {split: (_float32(x), torch.from_numpy(y[:, 0].astype(np.int64))) for split, (x, y) in pairs.items()}
    return {split: (_float32(x), _float32(y)) for split, (x, y) in pairs.items()}


def _split(rows: int, val_fraction: float, test_fraction: float, seed: int) -> dict[str, Array]:
    val, test = round(rows * val_fraction), round(rows * test_fraction)
    if min(val, test, rows - val - test) < 1:
        raise DataError(
            f"{rows} rows with data.val_fraction={val_fraction} and data.test_fraction={test_fraction} leave "
            f"{rows - val - test} to train, {val} to validate and {test} to test on; each needs at least one"
        )
    order = np.random.default_rng(seed).permutation(rows)
    return {"train": order[val + test :], "val": order[:val], "test": order[val : val + test]}


def _check_alike(pairs: Mapping[str, tuple[Array, Array]]) -> None:
    x_train, y_train = pairs["train"]
    for split, (x, y) in pairs.items():
        if x.shape[1:] != x_train.shape[1:] or y.shape[1:] != y_train.shape[1:]:
            raise DataError(
                f"the samples of data.path.{split} have shapes {x.shape[1:]} → {y.shape[1:]}, those of data.path.train "
                f"{x_train.shape[1:]} → {y_train.shape[1:]}; they must agree"
            )


def _check_labels(column: Array | None, task: str) -> None:
    remedy = "" if task == "classification" else "; if they are numbers to predict, set data.task=regression"
    if column is None:
        raise DataError("data.task=classification needs a single target column of class labels")
    labels = np.unique(column)
    if not np.array_equal(labels, np.arange(len(labels))):
        shown = ", ".join(map(str, labels[:6])) + (", …" if len(labels) > 6 else "")
        raise DataError(f"class labels must be 0, 1, …, C−1 with none missing; the target holds {shown}{remedy}")
    if len(labels) < 2:
        raise DataError(f"the target holds one class only, {labels[0]}{remedy}")


def _float32(array: Array) -> Tensor:
    return torch.from_numpy(array.astype(np.float32))
