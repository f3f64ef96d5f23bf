"""Every sample is read once, whatever a split is; what cannot be read is counted."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Subset, TensorDataset
from toy_problem import Items

from accelerator.analysis import reading as module
from accelerator.analysis.reading import Reading, check_readable, spread
from accelerator.errors import DataError
from domain.cross.data.mapped import MappedRows, MappedTable


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(module, "CHUNK_BYTES", 64)


def gathered(reading):
    found = {}
    for chunk in reading.chunks():
        found.setdefault(chunk.split, []).append(chunk)
    return {
        split: tuple(
            np.concatenate([np.asarray(getattr(chunk, name)) for chunk in chunks])
            for name in ("rows", "inputs", "targets")
        )
        for split, chunks in found.items()
    }


def pairs(count, start=0):
    x = torch.arange(start, start + count, dtype=torch.float32)
    return torch.stack([x, -x], 1), x[:, None]


def as_dataset(inputs, targets):
    return Items(inputs, targets)


@pytest.mark.parametrize("kind", [tuple, as_dataset, lambda *pair: DataLoader(TensorDataset(*pair), batch_size=3)])
def test_all_samples_come_once_in_order_in_pieces(kind):
    make = (lambda *pair: pair) if kind is tuple else kind
    reading = Reading({"train": make(*pairs(50)), "val": make(*pairs(7, 100))})
    found = gathered(reading)
    for split, expected in (("train", pairs(50)), ("val", pairs(7, 100))):
        rows, inputs, targets = found[split]
        np.testing.assert_array_equal(rows, np.arange(len(expected[0])))
        np.testing.assert_array_equal(inputs, expected[0])
        np.testing.assert_array_equal(targets, expected[1])
    assert reading.counts == {"train": 50, "val": 7}


def test_a_part_of_a_dataset_is_read_in_the_order_of_the_whole_under_its_own_numbers():
    order = []

    class Watched(Items):
        def __getitem__(self, index):
            order.append(index)
            return super().__getitem__(index)

    found = gathered(Reading({"train": Subset(Watched(*pairs(9)), [7, 2, 5])}))
    rows, inputs, _ = found["train"]
    assert rows.tolist() == [1, 2, 0]
    assert inputs[:, 0].tolist() == [2, 5, 7]
    assert order[-3:] == [2, 5, 7]


def test_splits_of_one_file_are_read_together_from_its_beginning_to_its_end(tmp_path, monkeypatch):
    table = np.arange(120, dtype=np.float32).reshape(40, 3)
    np.save(tmp_path / "table.npy", table)
    store = MappedTable(tmp_path / "table.npy", [0, 1], [2])
    order = np.random.default_rng(0).permutation(40)
    begins = []
    read = store.read
    monkeypatch.setattr(store, "read", lambda begin, end: begins.append(begin) or read(begin, end))
    reading = Reading({"train": MappedRows(store, order[:30]), "val": MappedRows(store, order[30:])})
    found = gathered(reading)
    assert begins == sorted(set(begins))
    assert len(begins) == 8  # 5 rows of 12 bytes fit into 64
    for split, rows in (("train", order[:30]), ("val", order[30:])):
        np.testing.assert_array_equal(found[split][0], np.sort(rows))
        np.testing.assert_array_equal(found[split][1], table[np.sort(rows), :2])
        np.testing.assert_array_equal(found[split][2], table[np.sort(rows), 2:])
    assert reading.files


def test_so_many_samples_are_spread_in_blocks_of_neighbours():
    rows = spread(np.arange(1000), 96)
    assert len(rows) == 96
    assert rows.tolist() == [*range(32), *range(484, 516), *range(968, 1000)]
    assert spread(np.arange(10), 96).tolist() == list(range(10))
    assert Reading({"train": pairs(1000)}, 96).looked_at == {"train": 96}


def test_samples_that_raise_or_have_another_shape_are_counted_and_left_out():
    class Torn(Items):
        def __getitem__(self, index):
            if index == 4:
                raise OSError("scan 4 is torn")
            inputs, targets = super().__getitem__(index)
            return (inputs[:1] if index == 6 else inputs), targets

    reading = Reading({"train": Torn(*pairs(10))})
    rows, _, _ = gathered(reading)["train"]
    assert rows.tolist() == [0, 1, 2, 3, 5, 7, 8, 9]
    unreadable = reading.unreadable["train"]
    assert unreadable.rows == {4, 6}
    assert unreadable.examples[0] == (4, "OSError: scan 4 is torn")
    assert "its shapes are (1,) → (1,), those of the first sample (2,) → (1,)" in unreadable.examples[1][1]
    reading.take("train", np.arange(10))
    assert len(unreadable.rows) == 2, "each is counted once"
    check_readable(reading)


def test_a_split_of_which_nothing_can_be_read_is_refused():
    class Gone(Items):
        def __getitem__(self, index):
            if index == 0 and not self.seen:
                self.seen = True
                return super().__getitem__(index)
            raise OSError("the disk is gone")

    dataset = Gone(*pairs(3))
    dataset.seen = False
    reading = Reading({"train": dataset})
    list(reading.chunks())
    with pytest.raises(
        DataError, match="no sample of the train split can be read; sample 0: OSError: the disk is gone"
    ):
        check_readable(reading)
