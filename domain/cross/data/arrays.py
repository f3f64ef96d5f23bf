"""The user's own arrays and tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from accelerator.errors import ConfigError, DataError, did_you_mean
from domain.cross.data.mapped import MappedRows
from domain.cross.data.tables import Array, Selection, can_stay_on_disk, finite_rows, open_table, read_pair

SPLITS = ("train", "val", "test")
TASKS = ("auto", "regression", "classification")
Missing = Literal["refuse", "drop", "keep"]
MISSING: tuple[str, ...] = get_args(Missing)


def arrays(
    path: str | Mapping[str, str],
    inputs: Selection,
    targets: Selection,
    *,
    task: str = "auto",
    val_fraction: float = 0.15,
    test_fraction: float = 0.15,
    seed: int = 0,
    missing: Missing | None = None,
    memory_map: bool | Literal["auto"] | None = None,
) -> dict[str, tuple[Tensor, Tensor]] | dict[str, MappedRows]:
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
        path: one file of inputs and targets, split at random; or a mapping of train, val and test to a file each; x.npy
            and y.npy become one by numpy.savez("xy.npz", x=numpy.load("x.npy"), y=numpy.load("y.npy")).
        inputs: what the network sees, one or a list: names of columns (.csv, .parquet) or of arrays (.npz), numbers of
            columns (.npy), there also a slice such as "0:8".
        targets: what it predicts, likewise.
        task: ``auto``, ``regression`` or ``classification``.
        val_fraction: of all rows, when ``path`` is one file.
        test_fraction: of all rows, when ``path`` is one file.
        seed: which rows go where.
        missing: what becomes of a row with an empty, NaN or infinite value: ``refuse`` stops and says where it is,
            ``drop`` leaves the row out, ``keep`` lets it through. None: refuse.
        memory_map: leave the .npy on disk and read rows as they are needed: for what is larger than memory. What it
            holds is not checked beforehand, and training is slower. ``auto``: do so where the file allows it. None:
            false.

    Returns:
        {"train" | "val" | "test": (inputs, targets)}; inputs are float32, (n, *sample). With ``memory_map`` a dataset
        of such pairs instead.

    Raises:
        DataError: a file, column or value cannot be used; the message says which and where.
        ConfigError: a knob has no such value.
    """
    if task not in TASKS:
        raise ConfigError(f"unknown data.task '{task}'{did_you_mean(task, TASKS)}")
    if missing not in (None, *MISSING):
        raise ConfigError(f"unknown data.missing '{missing}'{did_you_mean(missing, MISSING)}")
    if isinstance(path, Mapping) and set(path) != set(SPLITS):
        raise ConfigError(f"data.path is one file, or a file for each of train, val and test; it has {list(path)}")
    files = {split: Path(path[split] if isinstance(path, Mapping) else path).expanduser() for split in SPLITS}
    if memory_map == "auto":
        memory_map = missing != "drop" and all(map(can_stay_on_disk, files.values()))
    if memory_map:
        return _mapped(files, inputs, targets, task, missing, (val_fraction, test_fraction, seed))
    if isinstance(path, Mapping):
        pairs = {split: _read(file, inputs, targets, missing) for split, file in files.items()}
    else:
        x, y = _read(files["train"], inputs, targets, missing)
        pairs = {split: (x[rows], y[rows]) for split, rows in _split(len(x), val_fraction, test_fraction, seed).items()}
    _check_alike(pairs)

    all_targets = np.concatenate([y for _, y in pairs.values()])
    column = all_targets[:, 0] if all_targets.shape[1:] == (1,) else None
    labels = task == "classification" or (task == "auto" and column is not None and column.dtype.kind in "iu")
    if labels and (missing != "keep" or finite_rows(all_targets).all()):
        _check_labels(column, task)
        return {split: (_float32(x), torch.from_numpy(y[:, 0].astype(np.int64))) for split, (x, y) in pairs.items()}
    return {split: (_float32(x), _float32(y)) for split, (x, y) in pairs.items()}


def _read(file: Path, inputs: Selection, targets: Selection, missing: str | None) -> tuple[Array, Array]:
    x, y = read_pair(file, inputs, targets, finite=missing in (None, "refuse"))
    if missing != "drop":
        return x, y
    good = finite_rows(x, y)
    if not good.any():
        raise DataError(f"data.missing=drop: each of the {len(x)} rows of {file} holds a missing or infinite value")
    return x[good], y[good]


def _mapped(
    files: Mapping[str, Path],
    inputs: Selection,
    targets: Selection,
    task: str,
    missing: str | None,
    division: tuple[float, float, int],
) -> dict[str, MappedRows]:
    if missing == "drop":
        raise ConfigError("data.missing=drop needs the data in memory: leave out data.memory_map, or mend the file")
    if others := sorted({file.suffix for file in files.values()} - {".npy"}):
        raise ConfigError(f"data.memory_map=true: a {others[0]} cannot be left on disk; numpy.save makes an .npy of it")
    tables = {file: open_table(file, inputs, targets) for file in dict.fromkeys(files.values())}
    if len(tables) > 1:
        splits = {split: MappedRows(tables[file]) for split, file in files.items()}
    else:
        (table,) = tables.values()
        splits = {split: MappedRows(table, rows) for split, rows in _split(len(table), *division).items()}
    first = {split: rows[0] for split, rows in splits.items()}
    _check_alike({split: (np.asarray(x)[None], np.asarray(y)[None]) for split, (x, y) in first.items()})
    if task == "classification" or (task == "auto" and all(table.integers for table in tables.values())):
        if not all(table.single for table in tables.values()):
            _check_labels(None, task)
        _check_labels(np.unique(np.concatenate([table.values_of_targets() for table in tables.values()])), task)
        for table in tables.values():
            table.labels = True
    return splits


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
    with np.errstate(over="ignore"):  # where gaps are kept, what is too large becomes infinite
        return torch.from_numpy(array.astype(np.float32))
