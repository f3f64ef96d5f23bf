"""Two ranks with callbacks do what one process does with them."""

import numpy as np
import pytest
from forked_ranks import on_ranks
from run_outcomes import last_state, points

from accelerator.errors import ConfigError
from accelerator.runtime.callbacks.averaging import EMA
from accelerator.runtime.run import execute

CALLBACKS = {
    "ema": {"name": "ema", "decay": 0.8},
    "gap": {"name": "generalization_gap", "samples": 9},
    "gradient_norm": {"name": "gradient_norm", "per": "module"},
    "freeze": {"name": "freeze", "patterns": ["layers.0.*"], "until_epoch": 1},
    "parameter_statistics": {"name": "parameter_statistics"},
    "predictions": {"name": "prediction_writer", "splits": ["val", "test"]},
    "samples": {"name": "sample_predictions"},
    "stop": {"name": "early_stopping", "patience": 3},
    "step_time": {"name": "step_time"},
    "memory": {"name": "memory"},
}
# Float32 rounding of sums taken in another order.
NEAR = {"rel": 1e-4, "abs": 1e-6}


def close(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-4, atol=1e-6, err_msg=name)


def outcome(folder):
    curve = {
        (key, step): value
        for key, step, value in points(folder)
        if not key.startswith(("memory/", "step_time/", "parameters/std"))
    }
    arrays = {}
    for split in ("val", "test"):
        with np.load(folder / "predictions" / f"{split}.npz") as found:
            arrays |= {f"{split}/{name}": found[name] for name in found.files}
    return curve, arrays, last_state(folder)["average"], sorted(p.name for p in (folder / "samples").iterdir())


@pytest.mark.parametrize("method", ["single", "cascade"])
def test_two_ranks_measure_average_and_write_what_one_does(tiny_config, tmp_path, method):
    config = tiny_config(
        model={"name": "mlp", "hidden": [16, 16]},
        multilevel={"name": method} | ({} if method == "single" else {"levels": 2}),
        engine={"name": "vanilla_torch", "device": "cpu", "threads": 1},
        trainer={"max_epochs": 4},
        loader={"eval_batch_size": 3},  # three rows on two ranks, and a last batch of two
    )
    config["callbacks"] |= CALLBACKS
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    expected = execute(config, one)
    found = on_ranks(2, lambda rank: execute(config, two).metrics, tmp_path / "ranks")
    measured = [
        {k: v for k, v in metrics.items() if not k.startswith("speed")} for metrics in (*found, expected.metrics)
    ]
    assert measured[0] == measured[1] == pytest.approx(measured[2], **NEAR)
    ours, theirs = outcome(two), outcome(one)
    assert ours[0] == pytest.approx(theirs[0], **NEAR)
    close(ours[1], theirs[1])
    close(ours[2], theirs[2])
    assert ours[3] == theirs[3]


def test_gradients_in_shards_have_the_norm_of_the_whole_ones(tiny_config, tmp_path):
    for name, ranks, strategy in (("one", 1, "ddp"), ("two", 2, "fsdp")):
        config = tiny_config(
            engine={"name": "vanilla_torch", "device": "cpu", "threads": 1, "strategy": strategy},
            optimizer={"name": "Adam", "lr": 0.01},
            callbacks={name: CALLBACKS[name] for name in ("gradient_norm", "parameter_statistics", "predictions")}
            | {"pictures": {"name": "pictures"}},
        )
        folder = tmp_path / name
        folder.mkdir()
        on_ranks(ranks, lambda rank, c=config, f=folder: execute(c, f).steps, tmp_path / f"{name} ranks")
    for key in ("gradient_norm", "gradient_norm/layers", "parameters/norm/layers.0.weight"):
        expected = [(step, pytest.approx(value, **NEAR)) for step, value in points(tmp_path / "one", key)]
        assert points(tmp_path / "two", key) == expected
        assert expected


def test_an_average_of_a_network_in_shards_is_refused(tiny_config, tmp_path):
    config = tiny_config(engine={"name": "vanilla_torch", "device": "cpu", "threads": 1, "strategy": "fsdp"})

    def action(rank):
        with pytest.raises(ConfigError, match="need whole networks: train with engine.strategy=ddp"):
            execute(config, tmp_path, callbacks={"ema": EMA()})

    on_ranks(2, action, tmp_path / "ranks")
