import numpy as np
import pytest
import torch
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    IterableDataset,
    SequentialSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)
from toy_problem import Items

from accelerator.errors import DataError
from accelerator.runtime.data.splits import as_splits, check_tensors, imitate

EVERYTHING = (1.0, 0.0, 0.0)


def pairs(count, start=0):
    numbers = torch.arange(start, start + count)
    return numbers.float()[:, None], numbers


def targets(split):
    return split[1].tolist()


def test_a_mapping_of_tensors_or_arrays_is_taken_as_it_is():
    splits = as_splits({"val": pairs(2), "train": [np.zeros((3, 1)), np.arange(3)]}, EVERYTHING, 0)
    assert list(splits) == ["train", "val"]
    assert splits["train"][0].dtype == torch.float64
    assert targets(splits["train"]) == [0, 1, 2]


def test_a_split_set_to_none_is_not_there():
    assert list(as_splits({"train": pairs(3), "val": None}, EVERYTHING, 0)) == ["train"]


def test_a_tensor_dataset_and_a_part_of_one_are_served_from_memory():
    whole = TensorDataset(*pairs(6))
    splits = as_splits({"train": whole, "val": Subset(whole, [4, 1]), "test": Subset(whole, [])}, EVERYTHING, 0)
    assert targets(splits["train"]) == list(range(6))
    assert splits["val"][0].tolist() == [[4.0], [1.0]]
    assert targets(splits["val"]) == [4, 1]
    assert targets(splits["test"]) == []


@pytest.mark.parametrize("fractions", [(0.5, 0.3, 0.2), (0.7, 0.0, 0.3), (1.0, 0.0, 0.0), (0.3333333,) * 3])
def test_one_data_set_is_divided_by_the_fractions_without_overlap(fractions):
    splits = as_splits(TensorDataset(*pairs(20)), fractions, 3)
    sizes = [len(splits[name][1]) if name in splits else 0 for name in ("train", "val", "test")]
    assert all(abs(size - 20 * share) <= 1 for size, share in zip(sizes, fractions, strict=True))
    assert all(name in splits for name, share in zip(("train", "val", "test"), fractions, strict=True) if share)
    assert sorted(i for part in splits.values() for i in targets(part)) == list(range(20))


def test_the_division_depends_on_the_seed_alone():
    def train(seed):
        return targets(as_splits(TensorDataset(*pairs(20)), (0.5, 0.3, 0.2), seed)["train"])

    first = train(0)
    torch.manual_seed(99)
    assert train(0) == first
    assert train(1) != first


def test_a_data_set_on_disk_is_divided_but_not_read():
    class Counted(Items):
        reads = 0

        def __getitem__(self, index):
            self.reads += 1
            return super().__getitem__(index)

    dataset = Counted(*pairs(10))
    splits = as_splits(dataset, (0.6, 0.2, 0.2), 0)
    assert [len(part) for part in splits.values()] == [6, 2, 2]
    assert dataset.reads == 0


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (0.5, 0.6, 0.1), (0.0, 0.5, 0.5), (1.2, -0.1, -0.1)])
def test_fractions_that_do_not_divide_are_told(fractions):
    with pytest.raises(DataError, match="loader.split=.*three shares"):
        as_splits(TensorDataset(*pairs(20)), fractions, 0)


class Module:
    """What a LightningDataModule looks like from outside."""

    def __init__(self):
        self.calls = []

    def prepare_data(self):
        self.calls.append("prepare_data")

    def setup(self, stage):
        self.calls.append(f"setup {stage}")

    def train_dataloader(self):
        self.calls.append("train_dataloader")
        return DataLoader(TensorDataset(*pairs(6)), batch_size=2, shuffle=True)

    def val_dataloader(self):
        return None


def test_a_data_module_is_set_up_and_its_loaders_are_taken():
    module = Module()
    splits = as_splits(module, EVERYTHING, 0)
    assert list(splits) == ["train"]
    assert isinstance(splits["train"], DataLoader)
    assert module.calls == ["prepare_data", "setup fit", "setup test", "train_dataloader"]


def test_a_loader_is_imitated_in_size_order_workers_and_collation():
    dataset = Items(*pairs(6))
    loader = DataLoader(dataset, batch_size=4, drop_last=True, shuffle=True, collate_fn=list, num_workers=1)
    assert imitate(loader) == {
        "dataset": dataset,
        "batch_size": 4,
        "drop_last": True,
        "shuffle": True,
        "workers": 1,
        "collate": list,
    }
    assert imitate(DataLoader(dataset))["shuffle"] is False


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_sampler": [[0, 1], [2]]}, "own batch_sampler"),
        ({"batch_size": None}, "give batch_size"),
        ({"sampler": WeightedRandomSampler([1.0] * 6, 6)}, "WeightedRandomSampler of its own"),
        ({"sampler": torch.utils.data.RandomSampler(range(6), replacement=True)}, "RandomSampler of its own"),
        ({"sampler": [5, 4, 3]}, "list of its own"),
    ],
)
def test_a_loader_that_cannot_be_repeated_is_refused(options, message):
    with pytest.raises(DataError, match=message):
        imitate(DataLoader(Items(*pairs(6)), **options))


def test_a_sequential_sampler_is_no_sampler_of_ones_own():
    assert imitate(DataLoader(range(6), sampler=SequentialSampler(range(6))))["shuffle"] is False


class Stream(IterableDataset):
    def __iter__(self):
        yield from zip(*pairs(3), strict=True)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (7, "the data component returned int; expected a mapping"),
        ({"train": pairs(2), "valid": pairs(2)}, r"unknown split \['valid'\]; the splits are train, val, test"),
        ({"val": pairs(2)}, "there is no 'train' split"),
        ({"train": None}, "there is no 'train' split"),
        ({"train": 5}, "the train split is a int; expected tensors"),
        ({"train": (*pairs(2), pairs(2)[0])}, r"the train split has 3 tensors; expected \(inputs, targets\)"),
        ({"train": TensorDataset(pairs(2)[0])}, "the train split has 1 tensors"),
        ({"train": Stream()}, "the train split is an IterableDataset"),
        ({"train": pairs(2), "val": DataLoader(Stream())}, "the val split is an IterableDataset"),
    ],
)
def test_what_no_loop_can_draw_from_is_told(source, message):
    with pytest.raises(DataError, match=message):
        as_splits(source, EVERYTHING, 0)


def test_anything_with_length_and_items_will_do():
    dataset = ConcatDataset([Items(*pairs(2)), Items(*pairs(3))])
    assert as_splits({"train": dataset}, EVERYTHING, 0)["train"] is dataset
    listed = Items(*pairs(2))
    assert as_splits({"train": listed}, EVERYTHING, 0)["train"] is listed


def test_whole_finite_tensors_pass():
    check_tensors(pairs(4), "train")
    check_tensors((torch.ones(2, 3, 4), torch.ones(2)), "train")


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (torch.ones(0, 3), torch.ones(0), r"the val split is empty: inputs \(0, 3\), targets \(0,\)"),
        (torch.ones(4, 3), torch.ones(5), r"the val split has 4 inputs but 5 targets \(shapes \(4, 3\) and \(5,\)\)"),
    ],
)
def test_empty_and_unequal_splits_are_told_with_their_shapes(inputs, labels, message):
    with pytest.raises(DataError, match=message):
        check_tensors((inputs, labels), "val")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_the_first_value_that_is_not_finite_is_told_by_row_and_column(value):
    table = torch.ones(6, 4)
    table[3, 2] = table[5, 0] = value
    with pytest.raises(DataError, match=rf"the train inputs hold {value} at row 3, column 2 \(2 such values in 6 rows"):
        check_tensors((table, torch.ones(6)), "train")
    with pytest.raises(DataError, match=rf"the train targets hold {value} at row 1, column 0 \(1 such"):
        check_tensors((torch.ones(3, 2), torch.tensor([1.0, value, 1.0])), "train")


def test_columns_of_an_image_are_counted_over_the_flattened_sample():
    images = torch.zeros(2, 3, 4, 5)
    images[1, 2, 3, 4] = torch.nan
    with pytest.raises(DataError, match="at row 1, column 59"):
        check_tensors((images, torch.zeros(2)), "train")
