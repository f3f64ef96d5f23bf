"""Reading the user's files: named columns or slices become NumPy arrays, and what is wrong with them is said."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from accelerator.errors import ConfigError, DataError, did_you_mean
from domain.cross.data.mapped import MappedTable

if TYPE_CHECKING:
    import pandas

# What a user writes for inputs or targets: a column, key or column number, a list of them, or a slice as a string.
Selection = str | int | Sequence[str] | Sequence[int]
Array = NDArray[Any]

_LARGEST = float(np.finfo(np.float32).max)


def read_pair(file: Path, inputs: Selection, targets: Selection, *, finite: bool = True) -> tuple[Array, Array]:
    """The arrays that the two selections name in ``file``: numbers, finite, in the type they are stored in.

    Args:
        file: a .csv, .parquet, .npz or .npy.
        inputs: what of it the network sees.
        targets: what it predicts.
        finite: refuse values that are missing, NaN or infinite.

    Returns:
        inputs and targets, each (rows, *sample); a single column has the shape (rows, 1).

    Raises:
        DataError: the file is missing, empty, damaged or of an unknown kind; a column is unknown or not numeric; a
            value is NaN or infinite; inputs and targets differ in length.
        ConfigError: a selection this kind of file cannot serve, or one column in both selections.
    """
    check_file(file)
    x, y = _READERS[file.suffix](file, inputs, targets, finite)
    if len(x) != len(y):
        raise DataError(f"{file}: inputs have {len(x)} rows and targets {len(y)}; each input needs its target")
    if len(x) == 0:
        raise DataError(f"data.path: {file} has no rows")
    return x, y


def finite_rows(*arrays: Array) -> Array:
    """Which rows hold nothing but finite 32-bit numbers, in all of the arrays."""
    good = np.ones(len(arrays[0]), dtype=bool)
    for array in arrays:
        if array.dtype.kind == "f":
            good &= (np.abs(array) <= _LARGEST).reshape(len(array), -1).all(axis=1)
    return good


def open_table(file: Path, inputs: Selection, targets: Selection) -> MappedTable:
    """The same columns of an .npy file, left on disk; what they hold is not looked at.

    Raises:
        DataError: there is no such file, or no table in it.
        ConfigError: as `read_pair`.
    """
    check_file(file)
    try:
        stored = np.load(
            file, mmap_mode="r", allow_pickle=False
        )  # the header, and whether the file is as long as it says
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{file} cannot be read as npy: {error}") from error
    shape, dtype = stored.shape, stored.dtype
    if len(shape) < 2 or dtype.kind not in "biuf":
        raise DataError(
            f"{file}: the array has dtype {dtype} and shape {shape}; left on disk, rows and columns of real numbers "
            "are needed"
        )
    if shape[0] == 0:
        raise DataError(f"data.path: {file} has no rows")
    x, y = (_column_numbers(file, selection, shape[1]) for selection in (inputs, targets))
    _check_disjoint(x, y)
    return MappedTable(file, x, y)


def can_stay_on_disk(file: Path) -> bool:
    """Whether this is an .npy whose rows can be read one by one."""
    if file.suffix != ".npy" or not file.is_file():
        return False
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False).ndim > 1
    except (ValueError, OSError, EOFError):
        return False  # whoever reads it whole will say what is wrong


def check_file(file: Path) -> None:
    """Refuse a file that is not there, empty, or of a kind nobody reads."""
    if not file.is_file():
        folder = file.parent
        if not folder.is_dir():
            raise DataError(f"data.path: there is no file {file}: the folder {folder} does not exist")
        names = [entry.name for entry in folder.iterdir() if entry.suffix in _READERS]
        raise DataError(f"data.path: there is no file {file}{did_you_mean(file.name, names)}")
    if file.suffix not in _READERS:
        raise DataError(f"data.path: {file} is of an unknown kind '{file.suffix}'; use one of {', '.join(_READERS)}")
    if file.stat().st_size == 0:
        raise DataError(f"data.path: {file} is empty")


def _read_table(file: Path, inputs: Selection, targets: Selection, finite: bool) -> tuple[Array, Array]:
    import pandas

    try:
        table = pandas.read_csv(file, skipinitialspace=True) if file.suffix == ".csv" else pandas.read_parquet(file)
    except (ValueError, OSError) as error:  # pandas' and pyarrow's parsing errors are ValueErrors
        raise DataError(f"{file} cannot be read as {file.suffix[1:]}: {error}") from error
    table.columns = [str(column) for column in table.columns]
    if len(table) == 0:
        raise DataError(f"data.path: {file} has no rows")
    chosen = _names(inputs), _names(targets)
    _check_disjoint(*chosen)
    _check_known(file, "column", [*chosen[0], *chosen[1]], list(table.columns))
    x, y = (
        np.stack([_column_values(file, pandas.Series(table[name]), finite) for name in names], axis=1)
        for names in chosen
    )
    return x, y


def _column_values(file: Path, column: pandas.Series, finite: bool) -> Array:
    import pandas
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    where = f"{file}: column '{column.name}'"
    missing = column.isna()
    if missing.any() and finite:
        raise DataError(f"{where} is empty or NaN in row {int(missing.argmax()) + 1}; fill or drop such rows")
    if is_bool_dtype(column):
        return column.to_numpy(dtype=np.int64)
    if is_numeric_dtype(column):
        values = column.to_numpy(dtype=np.float64, na_value=np.nan) if missing.any() else column.to_numpy()
        if finite:
            _check_finite(where, values)
        return values
    row = 0
    if column.dtype == object or isinstance(column.dtype, pandas.StringDtype):
        numbers = np.asarray(pandas.to_numeric(column, errors="coerce"), dtype=float)
        row = int(np.isnan(numbers).argmax())
    raise DataError(
        f"{where} is not numeric ({column.dtype}): row {row + 1} holds {column.iloc[row]!r}; encode it as numbers first"
    )


def _read_npz(file: Path, inputs: Selection, targets: Selection, finite: bool) -> tuple[Array, Array]:
    chosen = _names(inputs), _names(targets)
    _check_disjoint(*chosen)
    with _opened(file) as stored:
        _check_known(file, "array", [*chosen[0], *chosen[1]], stored.files)
        x, y = (
            _join(file, {key: _numeric(f"{file}: array '{key}'", stored[key], finite) for key in keys})
            for keys in chosen
        )
    return x, y


def _join(file: Path, arrays: dict[str, Array]) -> Array:
    try:
        return np.concatenate(list(arrays.values()), axis=-1)
    except ValueError:
        shapes = ", ".join(f"{key} {array.shape}" for key, array in arrays.items())
        raise DataError(f"{file}: the arrays {shapes} cannot be joined along their last dimension") from None


def _read_npy(file: Path, inputs: Selection, targets: Selection, finite: bool) -> tuple[Array, Array]:
    with _opened(file) as stored:
        array = _numeric(f"{file}: the array", stored, finite)
    chosen = (_column_numbers(file, selection, array.shape[1]) for selection in (inputs, targets))
    x, y = map(list, chosen)
    _check_disjoint(x, y)
    return array[:, x], array[:, y]


def _column_numbers(file: Path, selection: Selection, count: int) -> list[int]:
    """The column numbers behind 3, -1, [0, 2], "0:8" or ":-1"."""
    if isinstance(selection, str) and (ends := re.fullmatch(r"\s*(-?\d*)\s*:\s*(-?\d*)\s*", selection)):
        start, stop = (int(end) if end else None for end in ends.groups())
        if columns := list(range(count)[start:stop]):
            return columns
        raise DataError(f"{file}: the slice '{selection}' takes none of its {count} columns")
    try:
        columns = [int(column) for column in _as_list(selection)]
    except (TypeError, ValueError):
        raise ConfigError(
            f"{selection!r} does not choose columns of {file}: an .npy has no names; write a number, a list of "
            'numbers, or a slice such as "0:8"'
        ) from None
    for column in columns:
        if not -count <= column < count:
            raise DataError(f"{file} has no column {column}: it has {count}, numbered from 0")
    return [column % count for column in columns]


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """What np.load gives, with every failure to read it told as a `DataError`."""
    # Opened here: np.load leaves the file open when the zip archive in it is cut off.
    with file.open("rb") as stream:
        try:
            yield np.load(stream, allow_pickle=False)
        except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(f"{file} cannot be read as {file.suffix[1:]}: {error}") from error


def _numeric(where: str, array: Array, finite: bool) -> Array:
    """The array as (rows, *sample), finite if that is asked for."""
    if array.dtype.kind not in "biuf" or array.ndim == 0:
        raise DataError(f"{where} has dtype {array.dtype} and shape {array.shape}; rows of real numbers are needed")
    if finite:
        _check_finite(where, array)
    if array.dtype.kind == "b":
        array = array.astype(np.int64)
    return array[:, None] if array.ndim == 1 else array


def _check_finite(where: str, array: Array) -> None:
    if array.dtype.kind != "f" or array.size == 0:
        return
    bad = ~(np.abs(array) <= _LARGEST)  # not >: NaN compares false
    if bad.any():
        row, *place = map(int, np.argwhere(bad)[0])
        entry = f", column {', '.join(map(str, place))}" if place else ""
        raise DataError(
            f"{where} holds {array[(row, *place)]} in row {row + 1}{entry}; training needs finite 32-bit numbers: fill "
            "or drop such rows"
        )


def _check_known(file: Path, what: str, chosen: Sequence[str], known: Sequence[str]) -> None:
    problems = [f"{file} has no {what} '{name}'{did_you_mean(name, known)}" for name in chosen if name not in known]
    if problems:
        raise DataError("\n".join(problems))


def _check_disjoint(inputs: Sequence[str] | Sequence[int], targets: Sequence[str] | Sequence[int]) -> None:
    if not inputs or not targets:
        raise ConfigError("data.inputs and data.targets must each name at least one column or array")
    if shared := set(inputs) & set(targets):
        names = ", ".join(repr(name) for name in sorted(shared))
        raise ConfigError(f"{names} in both data.inputs and data.targets: the network would see the answer")


def _names(selection: Selection) -> list[str]:
    return [str(name) for name in _as_list(selection)]


def _as_list(selection: Selection) -> list[Any]:
    return [selection] if isinstance(selection, str | int) else list(selection)


_READERS = {".csv": _read_table, ".parquet": _read_table, ".npz": _read_npz, ".npy": _read_npy}
