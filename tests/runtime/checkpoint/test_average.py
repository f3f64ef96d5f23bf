"""The average of networks, by numbers worked out by hand."""

import pytest
import torch

from accelerator.errors import CheckpointError
from accelerator.runtime.checkpoint.average import average


def state(weight, *, seen=0, network=False, **others):
    tensors = {"weight": torch.tensor(weight), "seen": torch.tensor(seen)}
    levels = {"levels": {"0": tensors, "1": {"weight": torch.tensor([float(seen)])}}, "transfer": "average"}
    return {
        "state": {"step": seen, "metrics": {"val/loss": 1.0}, "validated": seen},
        "level": 0,
        "model": None if network else tensors,
        "network": levels if network else None,
        "transforms": {"mean": torch.tensor(float(seen))},
        "facts": {"input_shape": [seen]},
        "optimizer": {"state": {0: {}}, "param_groups": [{"lr": 0.1}]},
        "cycle": None,
        "plateau": None,
        "scheduler": {"ticks": seen},
        "callbacks": {"logger": {}},
        "rng": seen,
    } | others


def test_equal_weights_give_the_mean_and_integers_are_the_lasts():
    result = average([state([1.0, 8.0], seen=3), state([3.0, 2.0], seen=5)])
    assert result["model"]["weight"].tolist() == [2.0, 5.0]
    assert result["model"]["seen"].item() == 5
    assert result["network"] is None


def test_weights_are_divided_by_their_sum():
    result = average([state([0.0, 4.0]), state([8.0, 0.0])], [3, 1])
    assert result["model"]["weight"].tolist() == [2.0, 3.0]


def test_the_average_of_equals_is_each_to_the_last_bit():
    values = torch.rand(1000, generator=torch.Generator().manual_seed(0)).tolist()
    mean = average([state(values)] * 3)["model"]["weight"]
    assert torch.equal(mean, torch.tensor(values))


def test_data_facts_are_the_firsts_counters_the_lasts_and_the_optimizer_is_left_out():
    result = average([state([1.0], seen=3), state([1.0], seen=5)])
    assert (result["transforms"]["mean"].item(), result["facts"]) == (3.0, {"input_shape": [3]})
    assert (result["state"], result["rng"]) == ({"step": 5, "metrics": {}, "validated": -1}, 5)
    assert result["optimizer"] == {"state": {}, "param_groups": []}
    assert (result["scheduler"], result["callbacks"]) == ({}, {})


def test_of_a_hierarchy_the_finest_level_is_averaged_and_the_rest_is_the_lasts():
    result = average([state([1.0], network=True, seen=1), state([3.0], network=True, seen=2)])
    assert result["network"]["levels"]["0"]["weight"].tolist() == [2.0]
    assert result["network"]["levels"]["1"]["weight"].tolist() == [2.0]
    assert result["network"]["transfer"] == "average"


def test_what_a_run_averaged_itself_is_what_counts():
    averaged = state([1.0], average={"weight": torch.tensor([10.0]), "seen": torch.tensor(0)})
    result = average([averaged, state([2.0], average=None)])
    assert result["model"]["weight"].tolist() == [6.0]
    assert result["average"] is None


def test_other_shapes_names_and_types_are_refused():
    with pytest.raises(CheckpointError, match=r"weight is float32 \(1,\) there and float32 \(2,\) in the first"):
        average([state([1.0, 2.0]), state([1.0])])
    with pytest.raises(CheckpointError, match=r"checkpoint 2 holds another network.*weight is int64 \(1,\)"):
        average([state([1.0]), state([1])])
    larger = state([1.0])
    larger["model"] = larger["model"] | {"bias": torch.zeros(1)}
    with pytest.raises(CheckpointError, match="only one has bias"):
        average([state([1.0]), larger])


@pytest.mark.parametrize("weights", [[1.0, -1.0], [0.0, 0.0], [float("nan"), 1.0], [1.0]])
def test_weights_that_make_no_mean_are_refused(weights):
    with pytest.raises(CheckpointError, match="weights"):
        average([state([1.0]), state([1.0])], weights)
