import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from run_outcomes import equal, last_state
from torch import nn

from accelerator.errors import ConfigError
from accelerator.runtime.callbacks import predictions
from accelerator.runtime.callbacks.predictions import PredictionWriter, SamplePredictions
from accelerator.runtime.journal import read
from accelerator.runtime.run import execute

STILL = {
    "imports": ["toy_problem", __name__],
    "optimizer": {"name": "SGD", "lr": 0.0},
    "transform": {"target": {"normalize": {"name": "normalize", "per": "all"}}},
}


def waves(samples=6, val=4, test=3):
    """(samples, 1, 8, 8) noise, and twice that."""
    generator = torch.Generator().manual_seed(0)
    inputs = {
        name: torch.randn(count, 1, 8, 8, generator=generator)
        for name, count in (("train", samples), ("val", val), ("test", test))
        if count
    }
    return {name: (values, 2 * values) for name, values in inputs.items()}


def signs(samples=12):
    """Points of the plane, and which half of it they are in."""
    x = torch.randn(samples, 2, generator=torch.Generator().manual_seed(0))
    return {name: (x, (x[:, 0] > 0).long()) for name in ("train", "val", "test")}


class Half(nn.Module):
    """x times a number that starts at 1, with a dropout."""

    def __init__(self):
        super().__init__()
        self.factor, self.dropout = nn.Parameter(torch.ones(())), nn.Dropout(0.5)

    def forward(self, x):
        return self.dropout(self.factor * x)


class Sure(nn.Module):
    """Scores (2 x₀, 0): the wrong way round."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        return torch.stack([self.factor * x[:, 0], torch.zeros(len(x))], 1)


WAVES = {**STILL, "data": {"_target_": f"{__name__}.waves"}, "model": {"_target_": f"{__name__}.Half"}}
SIGNS = {
    **STILL,
    "data": {"_target_": f"{__name__}.signs"},
    "model": {"_target_": f"{__name__}.Sure"},
    "loss": {"name": "cross_entropy"},
    "transform": {},
}


def expected_waves(split):
    truth = waves()["train"][1]
    return waves()[split][0] * truth.std(unbiased=False) + truth.mean()


def files(folder, name):
    return sorted(path.name for path in (folder / name).glob("*")) if (folder / name).exists() else []


def artifacts(folder):
    lines = [line for line, _ in read(folder / "journal.jsonl")]
    return [(line["path"], line["artifact_path"]) for line in lines if line.get("event") == "artifact"]


def with_callback(name, **options):
    return {"callbacks": {name: {"name": name, **options}}}


@pytest.mark.parametrize("splits", [["test"], ["val", "test"]])
def test_the_predictions_of_a_split_are_all_there_in_order_and_in_their_units(tiny_config, tmp_path, splits):
    config = tiny_config(**WAVES, loader={"eval_batch_size": 2}, **with_callback("prediction_writer", splits=splits))
    execute(config, tmp_path)
    assert files(tmp_path, "predictions") == sorted(f"{split}.npz" for split in splits)
    assert artifacts(tmp_path) == [(f"predictions/{split}.npz", "predictions") for split in splits]
    for split in splits:
        with np.load(tmp_path / "predictions" / f"{split}.npz") as found:
            torch.testing.assert_close(torch.from_numpy(found["target"]), waves()[split][1])
            torch.testing.assert_close(torch.from_numpy(found["prediction"]), expected_waves(split))


def test_without_a_test_the_network_predicts_as_it_is(tiny_config, tmp_path):
    config = tiny_config(**WAVES, trainer={"test": False}, **with_callback("prediction_writer"))
    execute(config, tmp_path)
    assert files(tmp_path, "predictions") == ["test.npz"]


def test_a_split_that_is_not_there_is_left_out(tiny_config, tmp_path):
    data = {"_target_": f"{__name__}.waves", "test": 0}
    config = tiny_config(**{**WAVES, "data": data}, **with_callback("prediction_writer", splits=["val", "test"]))
    execute(config, tmp_path)
    assert files(tmp_path, "predictions") == ["val.npz"]


def test_the_shares_of_several_ranks_are_put_together_in_the_order_of_the_data(tiny_config, tmp_path, monkeypatch):
    def two_ranks(parts):
        shares = [[], []]
        for pair in parts:
            middle = (len(pair[0]) + 1) // 2
            shares[0].append(tuple(values[:middle] for values in pair))
            shares[1].append(tuple(values[middle:] for values in pair))
        return shares

    monkeypatch.setattr(predictions, "distributed", SimpleNamespace(of_all=two_ranks))
    config = tiny_config(**WAVES, loader={"eval_batch_size": 2}, **with_callback("prediction_writer"))
    execute(config, tmp_path)
    with np.load(tmp_path / "predictions" / "test.npz") as found:
        torch.testing.assert_close(torch.from_numpy(found["target"]), waves()["test"][1])


@pytest.mark.parametrize(("every", "steps"), [(1, [1, 2, 3, 4]), (2, [2, 4]), (3, [3])])
def test_samples_are_written_every_so_many_validations(tiny_config, tmp_path, every, steps):
    config = tiny_config(**WAVES, trainer={"max_epochs": 4}, **with_callback("sample_predictions", every=every))
    execute(config, tmp_path)
    expected = [f"step-{step:08d}" for step in steps]
    assert files(tmp_path, "samples") == sorted(f"{name}.{kind}" for name in expected for kind in ("json", "png"))
    assert artifacts(tmp_path) == [
        (f"samples/{name}.{kind}", "samples") for name in expected for kind in ("json", "png")
    ]


def test_samples_are_listed_in_the_units_of_the_data(tiny_config, tmp_path):
    config = tiny_config(**WAVES, **with_callback("sample_predictions", samples=2))
    execute(config, tmp_path)
    found = json.loads((tmp_path / "samples" / "step-00000002.json").read_text())
    assert {key: found[key] for key in ("step", "epoch", "level", "split")} == {
        "step": 2,
        "epoch": 1,
        "level": 0,
        "split": "val",
    }
    assert len(found["samples"]) == 2
    for sample, prediction, target in zip(found["samples"], expected_waves("val"), waves()["val"][1], strict=False):
        torch.testing.assert_close(torch.tensor(sample["prediction"]), prediction)
        torch.testing.assert_close(torch.tensor(sample["target"]), target)


def test_of_class_scores_the_likely_class_is_listed(tiny_config, tmp_path):
    config = tiny_config(**SIGNS, **with_callback("sample_predictions", samples=3))
    execute(config, tmp_path)
    found = json.loads((tmp_path / "samples" / "step-00000002.json").read_text())["samples"]
    inputs, targets = signs()["val"]
    for sample, x, target in zip(found, inputs[:, 0], targets, strict=False):
        assert sample["target"] == target
        assert sample["prediction"] == (0 if x > 0 else 1)
        assert sample["probability"] == pytest.approx(torch.sigmoid(2 * x.abs() if x > 0 else -2 * x).item())


def test_predicting_changes_nothing_that_is_trained(tiny_config, tmp_path):
    folders = [tmp_path / "with", tmp_path / "without"]
    both = {"one": {"name": "sample_predictions"}, "two": {"name": "prediction_writer", "splits": ["val", "test"]}}
    states = []
    for folder, callbacks in zip(folders, (both, {}), strict=True):
        folder.mkdir()
        config = tiny_config(**{**WAVES, "optimizer": {"name": "SGD", "lr": 0.1}}, callbacks=callbacks)
        execute(config, folder)
        state = last_state(folder)
        del state["callbacks"]
        states.append(state)
    assert equal(*states)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SamplePredictions(every=0), "every=0: expected at least 1"),
        (lambda: SamplePredictions(samples=0), "samples=0: expected at least 1"),
        (lambda: PredictionWriter(splits=["train"]), r"splits=\['train'\]: expected a list of val and test"),
        (lambda: PredictionWriter(splits=[]), "expected a list"),
        (lambda: PredictionWriter(splits="test"), "splits=test: expected a list"),
    ],
)
def test_settings_out_of_range_are_told(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
