"""A trained network among its data, loss and metrics, measured without being trained."""

import pytest
import torch

from accelerator.errors import CheckpointError, ConfigError, DataError
from accelerator.runtime.loaded import loaded_context, measure
from accelerator.runtime.run import execute
from accelerator.runtime.start import start_of


@pytest.fixture
def trained(tiny_config, tmp_path):
    config = tiny_config()
    return config, execute(config, tmp_path)


def test_the_numbers_are_those_of_the_training(trained):
    config, result = trained
    context = loaded_context(config, start_of(result.best))
    assert measure(context, "test") == {k: v for k, v in result.metrics.items() if k.startswith("test/")}


def test_a_split_the_data_lacks_is_told(trained):
    config, result = trained
    context = loaded_context(config, start_of(result.best))
    del context.data.feeds["val"]
    with pytest.raises(ConfigError, match=r"evaluate\.split=val: the data has no such split; it has train, test"):
        measure(context, "val")


def test_what_it_is_monitored_by_and_how_many_ranks_trained_it_do_not_matter(trained):
    config, result = trained
    config["engine"]["devices"] = 2
    config["checkpoint"]["monitor"] = "val/gone"
    assert "test/loss" in measure(loaded_context(config, start_of(result.best)), "test")


def test_the_training_split_is_served_in_order_and_whole(trained):
    config, result = trained
    config["loader"] |= {"drop_last": True, "batch_size": 8}
    feed = loaded_context(config, start_of(result.best)).data.train
    inputs = torch.cat([batch[0] for batch in feed.epoch(0)])
    assert len(inputs) == 20
    again = torch.cat([batch[0] for batch in feed.epoch(1)])
    assert torch.equal(inputs, again)


def test_statistics_of_other_transforms_or_data_are_refused(tiny_config, tmp_path):
    config = tiny_config(transform={"input": {"normalize": {"name": "normalize"}}})
    start = start_of(execute(config, tmp_path).best)
    with pytest.raises(CheckpointError, match=r"only one of the two has input\.0\.mean, input\.0\.std; take the"):
        loaded_context(tiny_config(), start)
    wide = {name: tensor.repeat(2) for name, tensor in start.transforms.items()}
    with pytest.raises(
        DataError, match=r"the data is not of the kind the checkpoint's transforms were fitted to: norm"
    ):
        loaded_context(config, type(start)(transforms=wide))
