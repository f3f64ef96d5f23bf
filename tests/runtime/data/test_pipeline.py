import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from toy_problem import Items, plane

from accelerator.errors import ConfigError, DataError
from accelerator.runtime.data.feed import InMemoryFeed, LoaderFeed
from accelerator.runtime.data.pipeline import Transforms, build_data, build_transforms

NORMALIZE = {"name": "normalize"}
NOISE = {"name": "noise", "std": 0.5}
LOADER = {
    "batch_size": 8,
    "eval_batch_size": None,
    "shuffle": True,
    "drop_last": False,
    "workers": 0,
    "split": [0.5, 0.25, 0.25],
    "seed": 0,
    "device": torch.device("cpu"),
}


def data_of(source, transform=None, **options):
    return build_data(source, build_transforms(transform or {}), **{**LOADER, **options})


def inputs_of(feed, epoch=0):
    return torch.cat([x for x, _ in feed.epoch(epoch)])


def targets_of(feed, epoch=0):
    return torch.cat([y for _, y in feed.epoch(epoch)])


def as_items(source):
    return {name: Items(*split) for name, split in source.items()}


class DataModule:
    def __init__(self, source):
        self.source = source

    def train_dataloader(self):
        return DataLoader(TensorDataset(*self.source["train"]), batch_size=8, shuffle=True)

    def val_dataloader(self):
        return DataLoader(TensorDataset(*self.source["val"]), batch_size=32)

    def test_dataloader(self):
        return DataLoader(TensorDataset(*self.source["test"]), batch_size=32)


FORMS = {
    "mapping of tensors": lambda source: source,
    "mapping of arrays": lambda source: {k: tuple(t.numpy() for t in v) for k, v in source.items()},
    "TensorDatasets": lambda source: {k: TensorDataset(*v) for k, v in source.items()},
    "Datasets": as_items,
    "loaders": lambda source: {k: DataLoader(Items(*v), batch_size=8, shuffle=k == "train") for k, v in source.items()},
    "data module": DataModule,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("transform", [{}, {"input": {"n": NORMALIZE}, "target": {"n": NORMALIZE}}])
def test_every_form_of_the_same_data_gives_the_same_batches(form, transform):
    expected, found = data_of(plane(), transform), data_of(FORMS[form](plane()), transform)
    assert (found.input_shape, found.output_shape, found.classes) == ((3,), (1,), None)
    assert found.train.batches == 3
    for epoch in (0, 1):
        torch.testing.assert_close(inputs_of(found.train, epoch), inputs_of(expected.train, epoch), rtol=0, atol=0)
        torch.testing.assert_close(targets_of(found.train, epoch), targets_of(expected.train, epoch), rtol=0, atol=0)
    for split in ("val", "test"):
        torch.testing.assert_close(inputs_of(found.feeds[split]), inputs_of(expected.feeds[split]), rtol=0, atol=0)


def test_tensors_are_served_from_memory_and_files_by_a_loader():
    assert isinstance(data_of(plane()).train, InMemoryFeed)
    assert isinstance(data_of({"train": TensorDataset(*plane()["train"])}).train, InMemoryFeed)
    assert isinstance(data_of(as_items(plane())).train, LoaderFeed)


def test_a_single_data_set_is_split_by_the_loaders_fractions():
    data = data_of(TensorDataset(*plane()["train"]))
    assert {name: feed.samples for name, feed in data.feeds.items()} == {"train": 10, "val": 5, "test": 5}


def test_evaluation_is_in_order_whole_and_in_larger_batches():
    data = data_of(plane(val=40), drop_last=True)
    assert torch.equal(inputs_of(data.feeds["val"]), plane(val=40)["val"][0])
    assert [len(y) for _, y in data.feeds["val"].epoch(0)] == [32, 8]
    assert [len(y) for _, y in data_of(plane(), eval_batch_size=3).feeds["val"].epoch(0)] == [3, 3, 2]
    assert data.train.batches == 2


@pytest.mark.parametrize("form", ["mapping of tensors", "Datasets"])
def test_transforms_are_fitted_to_the_training_split_only(form):
    source = plane(samples=50)
    source["val"] = (source["val"][0] * 100 + 7, source["val"][1] - 30)
    data = data_of(FORMS[form](source), {"input": {"n": NORMALIZE}, "target": {"n": NORMALIZE}})
    x, y = source["train"]
    mean, std = x.mean(0), x.std(0, correction=0)
    seen = inputs_of(data.train)
    torch.testing.assert_close(seen.mean(0), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(seen.std(0, correction=0), torch.ones(3))
    torch.testing.assert_close(inputs_of(data.feeds["val"]), (source["val"][0] - mean) / std)
    expected = (source["val"][1] - y.mean(0)) / y.std(0, correction=0)
    torch.testing.assert_close(targets_of(data.feeds["val"]), expected)
    torch.testing.assert_close(data.transforms.original(targets_of(data.feeds["val"])), source["val"][1])


@pytest.mark.parametrize("form", ["mapping of tensors", "Datasets"])
def test_noise_is_added_in_training_only_and_anew_each_epoch(form):
    source = plane(samples=400)
    clean, noisy = data_of(FORMS[form](source)), data_of(FORMS[form](source), {"input": {"noise": NOISE}})
    first = inputs_of(noisy.train) - inputs_of(clean.train)
    second = inputs_of(noisy.train, 1) - inputs_of(clean.train, 1)
    assert first.std().item() == pytest.approx(0.5, abs=4 * 0.5 / (2 * 1200) ** 0.5)
    assert abs(first.mean().item()) < 4 * 0.5 / 1200**0.5
    assert not torch.equal(first, second)
    for split in ("val", "test"):
        assert torch.equal(inputs_of(noisy.feeds[split]), source[split][0])


def test_statistics_are_those_of_the_data_without_the_noise_wherever_it_stands():
    section = {"a": NOISE, "b": NORMALIZE}
    data = data_of(plane(samples=200), {"input": section})
    x = plane(samples=200)["train"][0]
    mean, std = x.mean(0), x.std(0, correction=0)
    torch.testing.assert_close(data.transforms.input[1].mean, mean)
    torch.testing.assert_close(inputs_of(data.feeds["val"]), (plane(samples=200)["val"][0] - mean) / std)
    # In training the noise comes first, and is scaled with the rest.
    noise = inputs_of(data.train) * std + mean - inputs_of(data_of(plane(samples=200)).train)
    assert noise.std().item() == pytest.approx(0.5, abs=4 * 0.5 / (2 * 600) ** 0.5)


def test_the_statistics_travel_in_the_state():
    section = {"input": {"n": NORMALIZE}, "target": {"n": NORMALIZE}}
    data, fresh = data_of(plane(), section), build_transforms(section)
    fresh.load_state_dict(data.transforms.state_dict())
    y = torch.tensor([[3.0]])
    assert torch.equal(fresh.original(y), data.transforms.original(y))


class Doubled(nn.Module):
    def forward(self, x):
        return 2 * x

    def inverse(self, x):
        return x / 2


class Shifted(Doubled):
    def forward(self, x):
        return x + 1

    def inverse(self, x):
        return x - 1


def test_targets_are_transformed_in_order_and_undone_in_reverse():
    transforms = Transforms([], [Doubled(), Shifted()], [])
    values = torch.tensor([3.0])
    assert transforms.targets(values).item() == 7.0
    assert transforms.original(transforms.targets(values)).item() == 3.0
    assert transforms.changes_targets
    assert not Transforms([Doubled()], [], []).changes_targets


class Pooled(nn.Module):
    def forward(self, x):
        return x[:, ::2]


def test_the_input_shape_is_that_after_the_transforms():
    transforms = Transforms([Pooled()], [], [])
    assert build_data(plane(), transforms, **LOADER).input_shape == (2,)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"inputs": {"n": NORMALIZE}}, "transform.inputs: a transform has one of the roles input, target, loss"),
        ({"target": {"n": NOISE}}, "transform.target: Noise has no inverse"),
        ({"loss": {"n": NOISE}}, "a random transform can stand under transform.input only"),
        ({"input": {"n": {"name": "normalise"}}}, "transform.input.n.name.*did you mean 'normalize'"),
    ],
)
def test_transforms_that_cannot_work_are_told(section, message):
    with pytest.raises(ConfigError, match=message):
        build_transforms(section)


def test_a_transform_that_cannot_be_fitted_is_told_with_its_role():
    source = {"train": (torch.zeros(4, 2), torch.arange(4))}
    with pytest.raises(ConfigError, match=r"transform\.target: normalize needs floating-point data"):
        data_of(source, {"target": {"n": NORMALIZE}})


def test_classes_are_one_more_than_the_largest_label_of_any_split():
    def labelled(*labels):
        return torch.zeros(len(labels), 2), torch.tensor(labels)

    data = data_of({"train": labelled(0, 1, 2), "val": labelled(4, 0)})
    assert (data.classes, data.output_shape) == (5, (5,))
    assert data.facts == {"input_shape": (2,), "output_shape": (5,), "num_classes": 5}
    with pytest.raises(DataError, match="class labels start at 0; the smallest here is -1"):
        data_of({"train": labelled(0, -1)})


def test_classes_are_not_guessed_from_labels_that_are_not_in_memory():
    data = data_of({"train": Items(torch.zeros(4, 2), torch.arange(4))})
    assert data.classes is None
    assert data.facts == {"input_shape": (2,)}


def test_integer_targets_of_any_shape_are_classes_whose_scores_come_first_in_a_prediction():
    data = data_of({"train": (torch.zeros(2, 5), torch.tensor([[0, 1, 2], [3, 2, 1]]))})
    assert data.facts == {"input_shape": (5,), "output_shape": (4, 3), "num_classes": 4}


def test_numbers_for_targets_are_no_classes():
    assert data_of({"train": (torch.zeros(4, 2), torch.zeros(4))}).output_shape == ()
    assert data_of({"train": (torch.zeros(4, 2), torch.zeros(4, 3))}).facts == {
        "input_shape": (2,),
        "output_shape": (3,),
    }


@pytest.mark.parametrize("form", ["mapping of tensors", "Datasets"])
def test_splits_of_different_shapes_are_told_with_both(form):
    source = plane()
    source["val"] = (source["val"][0][:, :2], source["val"][1])
    with pytest.raises(DataError, match=r"the val inputs have shape \(2,\) a sample, the training ones \(3,\)"):
        data_of(FORMS[form](source))


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (plane(val=0), {"batch_size": 0}, "loader.batch_size=0: expected at least 1"),
        (plane(val=0), {"workers": -1}, "loader.workers=-1: expected at least 0"),
        ({"train": (torch.full((2, 3), torch.nan), torch.ones(2))}, {}, "the train inputs hold nan at row 0, column 0"),
        ({"train": Items([], [])}, {}, "the train split is empty"),
        ({"train": Items([1.0], [{"a": 1}])}, {}, "a sample of the train split holds float and dict"),
        ({"train": [1, 2, 3]}, {}, "the train split has 3 tensors"),
        ({"train": np.zeros((4, 2))}, {}, r"a sample of the train split is a ndarray; expected \(input, target\)"),
        (plane(samples=5), {"drop_last": True}, "has 5 samples, fewer than loader.batch_size=8"),
    ],
)
def test_data_that_cannot_be_used_is_told(source, options, message):
    with pytest.raises((DataError, ConfigError), match=message):
        data_of(source, **options)
