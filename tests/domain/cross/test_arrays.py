import numpy as np
import pandas as pd
import pytest
import torch

from accelerator.errors import ConfigError, DataError
from domain.cross.data.arrays import arrays

N = 20
TABLE = pd.DataFrame(
    {
        "age": np.arange(N),
        "height": np.arange(N) / 2 + 100,
        "price": np.arange(N) * 1000.0,
        "kind": np.arange(N) % 3,
        "good": np.arange(N) % 2 == 0,
        "city": ["Ulm", "Bonn"] * (N // 2),
    }
)


@pytest.fixture(params=["csv", "parquet"])
def table(request, tmp_path):
    """Writes a table in each of the two formats."""

    def write(frame=TABLE, name="houses"):
        file = tmp_path / f"{name}.{request.param}"
        if request.param == "csv":
            frame.to_csv(file, index=False)
        else:
            frame.to_parquet(file)
        return str(file)

    return write


def whole(data):
    """All splits together, in the order of the first input."""
    x, y = (torch.cat([pair[i] for pair in data.values()]) for i in (0, 1))
    order = x.reshape(len(x), -1)[:, 0].argsort()
    return x[order], y[order]


def test_columns_of_a_table_keep_their_rows_together(table):
    x, y = whole(arrays(table(), ["age", "height"], "price"))
    assert x.tolist() == [[i, i / 2 + 100] for i in range(N)]
    assert y.tolist() == [[i * 1000.0] for i in range(N)]


def test_one_file_is_split_by_the_fractions(table):
    data = arrays(table(), "age", "price", val_fraction=0.25, test_fraction=0.1)
    assert [len(x) for x, _ in data.values()] == [13, 5, 2]


@pytest.mark.parametrize(("column", "labels"), [("kind", [0, 1, 2]), ("good", [1, 0, 1])])
def test_a_single_column_of_integers_or_booleans_holds_class_labels(table, column, labels):
    _, y = whole(arrays(table(), "age", column))
    assert y.dtype == torch.int64
    assert y.shape == (N,)
    assert y[:3].tolist() == labels


def test_whole_numbers_are_regression_targets_when_told_so(table):
    _, y = whole(arrays(table(), "age", "kind", task="regression"))
    assert y.dtype == torch.float32
    assert y[:3].tolist() == [[0.0], [1.0], [2.0]]


def test_several_integer_columns_are_regression_targets(table):
    _, y = whole(arrays(table(), "height", ["kind", "age"]))
    assert y.dtype == torch.float32
    assert y.shape == (N, 2)


def test_whole_valued_floats_are_labels_when_told_so(table):
    _, y = whole(arrays(table(TABLE.astype({"kind": float})), "age", "kind", task="classification"))
    assert y[:3].tolist() == [0, 1, 2]


def test_three_files_are_taken_as_they_are(table):
    parts = {"train": TABLE[:10], "val": TABLE[10:13], "test": TABLE[13:]}
    data = arrays({split: table(frame, split) for split, frame in parts.items()}, "age", "kind")
    assert {split: x.flatten().tolist() for split, (x, _) in data.items()} == {
        "train": list(range(10)),
        "val": [10, 11, 12],
        "test": list(range(13, 20)),
    }


def test_a_class_may_be_missing_from_one_of_three_files(table):
    parts = {"train": TABLE, "val": TABLE[TABLE.kind == 2], "test": TABLE[TABLE.kind == 1]}
    data = arrays({split: table(frame, split) for split, frame in parts.items()}, "age", "kind")
    assert data["val"][1].unique().tolist() == [2]


def test_npz_arrays_keep_their_shape(tmp_path):
    file = tmp_path / "fields.npz"
    field = np.arange(N * 6).reshape(N, 1, 2, 3)
    np.savez(file, field=field, flux=np.arange(N) / 7)
    x, y = whole(arrays(str(file), "field", "flux"))
    assert np.array_equal(x.numpy(), field)
    assert y.shape == (N, 1)


def test_npz_keys_in_a_list_are_joined_along_the_last_dimension(tmp_path):
    file = tmp_path / "two.npz"
    np.savez(file, a=np.arange(N), b=np.ones((N, 2)), y=np.ones((N, 4)))
    x, _ = whole(arrays(str(file), ["a", "b"], "y"))
    assert x[5].tolist() == [5, 1, 1]


@pytest.mark.parametrize(
    ("inputs", "targets", "first", "last"),
    [("0:3", 3, [0, 1, 2], [3]), (":-1", -1, [0, 1, 2], [3]), ([2, 0], "-1:", [2, 0], [3]), (1, [0, 3], [1], [0, 3])],
)
def test_npy_columns_are_numbers_and_slices(tmp_path, inputs, targets, first, last):
    file = tmp_path / "matrix.npy"
    np.save(file, np.arange(4.0) + 10 * np.arange(N)[:, None])
    x, y = whole(arrays(str(file), inputs, targets))
    assert x[0].tolist() == first
    assert y[0].tolist() == last


def test_a_home_folder_is_expanded(table, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    name = table().rsplit("/", 1)[1]
    assert len(whole(arrays(f"~/{name}", "age", "price"))[0]) == N


def test_missing_file_is_refused_with_the_nearest_in_its_folder(table, tmp_path):
    table()
    with pytest.raises(DataError, match=r"there is no file .*/house\.\w+ — did you mean 'houses\.\w+'"):
        arrays(table().replace("houses", "house"), "age", "price")
    with pytest.raises(DataError, match=r"the folder .*/nowhere does not exist"):
        arrays(str(tmp_path / "nowhere" / "a.csv"), "age", "price")


def test_unknown_columns_are_refused_with_the_nearest_all_at_once(table):
    with pytest.raises(DataError) as caught:
        arrays(table(), ["age", "hight"], "prise")
    first, second = str(caught.value).splitlines()
    assert first.endswith("has no column 'hight' — did you mean 'height'?")
    assert second.endswith("has no column 'prise' — did you mean 'price'?")


def test_column_of_words_is_refused_with_its_first_bad_row(table):
    with pytest.raises(DataError, match=r"column 'city' is not numeric .* row 1 holds 'Ulm'"):
        arrays(table(), "city", "price")
    mixed = TABLE.assign(price=["1.5"] * 6 + ["cheap"] + ["2.5"] * 13)
    with pytest.raises(DataError, match=r"column 'price' is not numeric .* row 7 holds 'cheap'"):
        arrays(table(mixed), "age", "price")


def test_column_of_dates_is_refused(tmp_path):
    file = tmp_path / "dates.parquet"
    TABLE.assign(day=pd.Timestamp("2026-01-02")).to_parquet(file)
    with pytest.raises(DataError, match=r"column 'day' is not numeric \(datetime64.* row 1 holds Timestamp"):
        arrays(str(file), "day", "price")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, "column 'price' is empty or NaN in row 4"),
        (np.inf, "column 'price' holds inf in row 4"),
        (1e300, r"column 'price' holds 1e\+300 in row 4; training needs finite 32-bit numbers"),
    ],
)
def test_value_that_is_not_finite_is_refused_with_row_and_column(table, value, message):
    frame = TABLE.copy()
    frame.loc[3, "price"] = value
    with pytest.raises(DataError, match=message):
        arrays(table(frame), "age", "price")


def test_nan_in_an_array_is_refused_with_its_place(tmp_path):
    file = tmp_path / "a.npz"
    x = np.zeros((N, 5))
    x[6, 2] = np.nan
    np.savez(file, x=x, y=np.zeros(N))
    with pytest.raises(DataError, match="array 'x' holds nan in row 7, column 2"):
        arrays(str(file), "x", "y")


def test_tables_without_rows_and_files_without_content_are_refused(table, tmp_path):
    with pytest.raises(DataError, match="has no rows"):
        arrays(table(TABLE[:0]), "age", "price")
    (tmp_path / "empty.csv").touch()
    with pytest.raises(DataError, match=r"empty\.csv is empty"):
        arrays(str(tmp_path / "empty.csv"), "age", "price")


@pytest.mark.parametrize("suffix", ["parquet", "npz", "npy"])
def test_damaged_files_are_refused(tmp_path, suffix):
    file = tmp_path / f"damaged.{suffix}"
    file.write_bytes(b"PK\x03\x04 nothing of the kind")
    with pytest.raises(DataError, match=rf"damaged\.{suffix} cannot be read as {suffix}"):
        arrays(str(file), "0", "1")


def test_file_of_unknown_kind_is_refused_with_the_known_ones(tmp_path):
    (tmp_path / "data.xlsx").write_text("x")
    with pytest.raises(DataError, match=r"unknown kind '\.xlsx'; use one of \.csv, \.parquet, \.npz, \.npy"):
        arrays(str(tmp_path / "data.xlsx"), "a", "b")


def test_arrays_of_unequal_length_are_refused_with_both(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((5, 2)), y=np.zeros(4))
    with pytest.raises(DataError, match="inputs have 5 rows and targets 4"):
        arrays(str(tmp_path / "a.npz"), "x", "y")


def test_objects_and_words_in_arrays_are_refused(tmp_path):
    np.savez(tmp_path / "words.npz", x=np.array(["a", "b"]), y=np.zeros(2))
    with pytest.raises(DataError, match="array 'x' has dtype <U1"):
        arrays(str(tmp_path / "words.npz"), "x", "y")
    np.savez(tmp_path / "objects.npz", x=np.array([{}, 1], dtype=object), y=np.zeros(2))
    with pytest.raises(DataError, match=r"objects\.npz cannot be read as npz: Object arrays cannot be loaded"):
        arrays(str(tmp_path / "objects.npz"), "x", "y")


def test_labels_that_do_not_count_from_zero_are_refused_with_both_remedies(table):
    with pytest.raises(DataError, match=r"must be 0, 1, …, C−1 .* holds 1, 2, 3; .* set data.task=regression"):
        arrays(table(TABLE.assign(kind=TABLE.kind + 1)), "age", "kind")


def test_files_whose_samples_differ_in_shape_are_refused(tmp_path):
    for split, width in (("train", 3), ("val", 3), ("test", 2)):
        np.savez(tmp_path / f"{split}.npz", x=np.zeros((4, width)), y=np.zeros(4))
    with pytest.raises(DataError, match=r"data\.path\.test have shapes \(2,\) → \(1,\), .* \(3,\) → \(1,\)"):
        arrays({split: str(tmp_path / f"{split}.npz") for split in ("train", "val", "test")}, "x", "y")


def test_too_few_rows_to_split_are_refused(table):
    with pytest.raises(DataError, match=r"3 rows with .* leave 3 to train, 0 to validate and 0 to test on"):
        arrays(table(TABLE[:3]), "age", "price")


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"task": "regresion"}, "unknown data.task 'regresion' — did you mean 'regression'"),
        ({"inputs": ["age", "price"]}, "'price' in both data.inputs and data.targets"),
        ({"inputs": []}, "must each name at least one"),
        ({"path": {"train": "a.csv"}}, "a file for each of train, val and test"),
    ],
)
def test_knobs_without_a_meaning_are_refused(table, knobs, message):
    with pytest.raises(ConfigError, match=message):
        arrays(**{"path": table(), "inputs": "age", "targets": "price"} | knobs)


@pytest.mark.parametrize(
    ("inputs", "targets", "error", "message"),
    [
        ("0:4", -1, ConfigError, "3 in both data.inputs and data.targets"),
        (0, 4, DataError, "has no column 4: it has 4, numbered from 0"),
        ("4:", 0, DataError, "the slice '4:' takes none of its 4 columns"),
        ("age", 0, ConfigError, "'age' does not choose columns of .* an .npy has no names"),
    ],
)
def test_npy_columns_that_do_not_exist_are_refused(tmp_path, inputs, targets, error, message):
    np.save(tmp_path / "a.npy", np.zeros((N, 4)))
    with pytest.raises(error, match=message):
        arrays(str(tmp_path / "a.npy"), inputs, targets)
