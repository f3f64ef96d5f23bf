"""A trained network, loaded from its run, predicts what the run measured."""

import pytest
import torch

import accelerator
from accelerator.errors import CheckpointError
from accelerator.runtime.trained import build_model
from accelerator.utilities.base_registry import registry

SMALL = ["data.train=64", "data.val=16", "data.test=16", "data.grid=8", "engine.threads=1", "tracking=none"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "overrides",
    [["model=mlp"], ["model=multilevel_mlp", "model.hidden=[64,64]"], ["model=mlp", "transform=noise"]],
    ids=["plain", "cascade", "random transform"],
)
def test_predictions_are_in_the_datas_own_units_and_give_the_measured_error(overrides):
    result = accelerator.train([*SMALL, "trainer.max_epochs=3", *overrides])
    model = accelerator.load_model(result.run_dir)
    inputs, targets = registry("data").get("poisson")(train=64, val=16, test=16, grid=8)["test"]
    with torch.inference_mode():
        error = registry("loss").get("relative_l2")(model(inputs), targets)
    assert error.item() == pytest.approx(result.metrics["test/relative_l2"], rel=1e-5)


def test_a_classifier_gives_the_measured_accuracy():
    arguments = ["experiment=digits", "engine.threads=1", "tracking=none", "trainer.max_epochs=2"]
    result = accelerator.train(arguments)
    assert result.best is not None
    model = accelerator.load_model(result.best)
    inputs, labels = registry("data").get("digits")()["test"]
    accuracy = (model(inputs).argmax(1) == labels).float().mean().item()
    assert accuracy == pytest.approx(result.metrics["test/accuracy"], rel=1e-6)


def test_a_checkpoint_of_a_coarse_level_is_refused(tmp_path):
    arguments = ["model.hidden=[64,64]", "trainer.max_epochs=2", "checkpoint.keep=50", "trainer.test=false"]
    result = accelerator.train([*SMALL, *arguments])
    first = min((result.run_dir / "checkpoints").glob("*.safetensors"))
    with pytest.raises(CheckpointError, match=r"while level 2 was trained.*resume="):
        accelerator.load_model(first)


def test_inputs_of_a_wrong_shape_are_told_and_others_the_network_takes_are_taken():
    recipe = {"imports": [], "model": {"name": "mlp", "hidden": [4]}, "transform": {}}
    facts = {"input_shape": [32], "output_shape": [2], "num_classes": None}
    model = build_model(recipe | {"facts": facts})
    assert model(torch.zeros(2, 5, 32)[:, 0]).shape == (2, 2)
    with pytest.raises(ValueError, match=r"takes no inputs of shape \(2, 31\): it was trained with \(batch, 32\); mat"):
        model(torch.zeros(2, 31))
    with pytest.raises(RuntimeError, match="dtype"):  # no matter of shapes
        model(torch.zeros(2, 32, dtype=torch.complex64))
    model.network = torch.nn.Identity()  # trained on 32, it takes all grids
    assert model(torch.zeros(2, 64)).shape == (2, 64)


def test_a_folder_without_a_run_is_told(tmp_path):
    with pytest.raises(CheckpointError, match="no run directory"):
        accelerator.load_model(tmp_path)
