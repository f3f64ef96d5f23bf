"""An .npy on disk gives the same samples as one in memory, and rows with gaps are refused, dropped or kept."""

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from accelerator.errors import ConfigError, DataError
from domain.cross.data.arrays import arrays


@pytest.fixture
def table(tmp_path):
    values = np.random.default_rng(0).normal(size=(60, 5))
    np.save(tmp_path / "table.npy", values)
    return tmp_path / "table.npy"


@pytest.mark.parametrize("inputs", [":-1", [0, 3, 1], 2])
@pytest.mark.parametrize("order", ["C", "F"])
def test_the_samples_are_those_of_the_file_in_memory(tmp_path, inputs, order):
    np.save(tmp_path / "t.npy", np.asarray(np.random.default_rng(0).normal(size=(60, 5)), order=order))
    here = arrays(tmp_path / "t.npy", inputs, -1)
    there = arrays(tmp_path / "t.npy", inputs, -1, memory_map=True)
    for split, (x, y) in here.items():
        assert len(there[split]) == len(x)
        mapped = [there[split][index] for index in range(len(x))]
        assert torch.equal(torch.stack([each[0] for each in mapped]), x)
        assert torch.equal(torch.stack([each[1] for each in mapped]), y)
        assert torch.equal(there[split][-1][0], x[-1])


def test_channels_of_an_array_of_fields_are_chosen_like_columns(tmp_path):
    values = np.random.default_rng(0).normal(size=(20, 3, 4, 4)).astype(np.float32)
    np.save(tmp_path / "fields.npy", values)
    there = arrays(tmp_path / "fields.npy", "0:2", 2, memory_map=True)
    rows = there["train"].rows
    assert torch.equal(there["train"][0][0], torch.from_numpy(values[rows[0], :2]))
    assert torch.equal(there["train"].store.pair(there["train"].store.read(3, 5))[1], torch.from_numpy(values[3:5, 2:]))


def test_labels_are_whole_numbers_and_checked(tmp_path):
    np.save(tmp_path / "t.npy", np.arange(40).reshape(20, 2) % 4)
    there = arrays(tmp_path / "t.npy", 0, 1, memory_map=True, task="regression")
    assert there["train"][0][1].dtype == torch.float32
    with pytest.raises(DataError, match="class labels must be 0, 1, …, C−1 with none missing; the target holds 1, 3"):
        arrays(tmp_path / "t.npy", 0, 1, memory_map=True)
    np.save(tmp_path / "t.npy", np.arange(40).reshape(20, 2) // 2 % 2)
    label = arrays(tmp_path / "t.npy", 0, 1, memory_map=True)["train"][0][1]
    assert (label.dtype, label.shape) == (torch.int64, ())


def test_a_loaders_workers_are_not_sent_the_array(table):
    split = arrays(table, ":-1", -1, memory_map=True)["train"]
    assert len(pickle.dumps(split)) < 2000
    again = pickle.loads(pickle.dumps(split))
    assert torch.equal(again[3][0], split[3][0])
    assert len(next(iter(DataLoader(split, batch_size=7)))[0]) == 7


def test_reading_all_of_it_leaves_nothing_in_memory(table):
    store = arrays(table, ":-1", -1, memory_map=True)["train"].store
    np.testing.assert_array_equal(store.read(50, 99), np.load(table)[50:])
    assert store.read(0, 60).base is None or not isinstance(store.read(0, 60).base, np.memmap)
    (table.parent / "short").write_bytes(table.read_bytes()[:-100])
    (table.parent / "short").rename(table)
    with pytest.raises(DataError, match="table.npy has become shorter while it was read"):
        store.read(0, 60)


@pytest.mark.parametrize(
    ("change", "options", "error", "told"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:500]), {}, DataError, "cannot be read as npy"),
        (lambda path: np.save(path, np.arange(5.0)), {}, DataError, "left on disk, rows and columns of real numbers"),
        (
            lambda path: np.save(path, np.array([["a"]])),
            {},
            DataError,
            "left on disk, rows and columns of real numbers",
        ),
        (lambda path: np.save(path, np.empty((0, 5))), {}, DataError, "has no rows"),
        (lambda path: None, {"inputs": [0, 7]}, DataError, "has no column 7: it has 5"),
        (lambda path: None, {"inputs": [0, 4]}, ConfigError, "in both data.inputs and data.targets"),
        (lambda path: None, {"missing": "drop"}, ConfigError, "data.missing=drop needs the data in memory"),
        (lambda path: None, {"missing": "skip"}, ConfigError, "unknown data.missing 'skip'"),
    ],
)
def test_what_cannot_be_mapped_is_refused(table, change, options, error, told):
    change(table)
    with pytest.raises(error, match=told):
        arrays(table, **{"inputs": ":-1", "targets": -1, "memory_map": True, **options})


def test_auto_maps_what_can_be_and_reads_the_rest(table):
    assert hasattr(arrays(table, ":-1", -1, memory_map="auto")["train"], "store")
    assert isinstance(arrays(table, ":-1", -1, memory_map="auto", missing="drop")["train"], tuple)
    np.savez(table.with_suffix(".npz"), x=np.load(table)[:, :4], y=np.load(table)[:, 4])
    assert isinstance(arrays(table.with_suffix(".npz"), "x", "y", memory_map="auto")["train"], tuple)
    with pytest.raises(ConfigError, match="a .npz cannot be left on disk; numpy.save makes an .npy of it"):
        arrays(table.with_suffix(".npz"), "x", "y", memory_map=True)


@pytest.mark.parametrize("kind", ["csv", "parquet", "npz", "npy"])
def test_rows_with_gaps_are_refused_dropped_or_kept(tmp_path, kind):
    import pandas

    values = np.random.default_rng(0).normal(size=(60, 3))
    values[[4, 9], 0], values[30, 2], values[31, 1] = np.nan, np.inf, 1e300
    path, chosen = tmp_path / f"t.{kind}", {"inputs": ["a", "b"], "targets": "c"}
    frame = pandas.DataFrame(values, columns=list("abc"))
    if kind == "csv":
        frame.to_csv(path, index=False)
    elif kind == "parquet":
        frame.to_parquet(path)
    elif kind == "npz":
        np.savez(path, **{name: values[:, at] for at, name in enumerate("abc")})
    else:
        np.save(path, values)
        chosen = {"inputs": [0, 1], "targets": 2}
    with pytest.raises(DataError, match="row 5"):
        arrays(path, **chosen)
    kept = arrays(path, missing="keep", **chosen)
    assert sum(len(x) for x, _ in kept.values()) == 60
    assert sum(int((~torch.isfinite(x)).any(1).sum() + (~torch.isfinite(y)).sum()) for x, y in kept.values()) == 4
    dropped = arrays(path, missing="drop", **chosen)
    assert sum(len(x) for x, _ in dropped.values()) == 56
    assert all(torch.isfinite(x).all() and torch.isfinite(y).all() for x, y in dropped.values())


def test_a_file_with_a_gap_in_every_row_cannot_be_dropped(tmp_path):
    np.save(tmp_path / "t.npy", np.full((8, 2), np.nan))
    with pytest.raises(
        DataError, match="data.missing=drop: each of the 8 rows of .* holds a missing or infinite value"
    ):
        arrays(tmp_path / "t.npy", 0, 1, missing="drop")
