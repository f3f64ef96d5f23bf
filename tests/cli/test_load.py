"""``load=``: a new training that begins with a trained network, and what does not fit it."""

import json
import shutil

import pytest
import torch

import accelerator
from accelerator.cli.app import main
from accelerator.runtime.checkpoint.operation import decode

SMALL = ["data.train=64", "data.val=16", "data.test=16", "data.grid=8", "engine.threads=1"]
QUIET = ["tracking=none", "callbacks.pictures=null", "callbacks.progress=null"]
SOURCE = [
    "train",
    *SMALL,
    *QUIET,
    "model=mlp",
    "model.hidden=[24,16]",
    "trainer.max_epochs=2",
    "callbacks.ema.name=ema",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A training that kept averaged weights, and the same network pruned."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main([*SOURCE, "hydra.run.dir=outputs/day/whole"]) == 0
        assert main(["accelerate", "load=last", "acceleration=prune", "hydra.run.dir=outputs/day/pruned"]) == 0
    return folder


@pytest.fixture
def here(finished, tmp_path, monkeypatch):
    shutil.copytree(finished / "outputs", tmp_path / "outputs")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "outputs/day"


def refused(capsys, *arguments):
    assert main(list(arguments)) == 3
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    return printed


def newest(run):
    return decode(sorted((run / "checkpoints").glob("*.safetensors"))[-1])


def test_a_training_begins_with_the_weights_statistics_and_config_of_another(here):
    (file,) = (here / "whole/checkpoints").glob("*04.safetensors")
    source = decode(file)
    # Without a step to speak of, what is left is what was loaded: the averaged weights.
    options = ["optimizer=sgd", "optimizer.lr=1e-30", "scheduler=constant", "trainer.max_steps=1", "data.seed=5"]
    assert main(["train", f"load={here / 'whole'}", *options, "hydra.run.dir=outputs/day/new"]) == 0
    found = newest(here / "new")
    assert all(torch.equal(tensor, found["model"][name]) for name, tensor in source["average"].items())
    assert any(not torch.equal(tensor, found["model"][name]) for name, tensor in source["model"].items())
    assert all(torch.equal(tensor, found["transforms"][name]) for name, tensor in source["transforms"].items())
    assert (found["state"]["step"], found["state"]["epoch"]) == (1, 0)
    overrides = (here / "new/overrides.yaml").read_text()
    assert f"- load='{file}'" in overrides
    assert overrides.count("optimizer=sgd") == 1
    assert "model.hidden=[24,16]" in overrides


def test_a_pruned_network_is_trained_on_resumed_and_loaded_as_it_is(here):
    # Other data: the statistics are not those that fitting would find.
    options = ["data.seed=5", "trainer.max_epochs=3", "checkpoint.keep=9", "hydra.run.dir=outputs/day/tuned"]
    assert main(["train", "load=last", *options]) == 0
    whole = json.loads((here / "tuned/result.json").read_text())["metrics"]
    assert [layer.out_features for layer in accelerator.load_model(here / "tuned").network.layers[:4:2]] == [12, 8]
    # The network it began with is gone: a run that goes on has its sizes and statistics in its own checkpoints.
    shutil.rmtree(here / "pruned")
    shutil.rmtree(here / "whole")
    for file in sorted((here / "tuned/checkpoints").glob("step-*"))[2:]:
        file.unlink()
    assert main(["train", f"resume={here / 'tuned'}"]) == 0
    assert json.loads((here / "tuned/result.json").read_text())["metrics"] == whole
    out = here / "tuned.safetensors"
    assert main(["checkpoint", "export", str(here / "tuned"), "-o", str(out)]) == 0
    inputs = torch.randn(3, 32)
    assert torch.equal(accelerator.load_model(out)(inputs), accelerator.load_model(here / "tuned")(inputs))


def test_a_hierarchy_is_made_of_the_network_that_was_loaded(here):
    options = ["multilevel=cascade", "multilevel.levels=2", "multilevel.min_width=4", "trainer.max_epochs=4"]
    assert main(["train", "load=last", *options, "callbacks.ema=null", "hydra.run.dir=outputs/day/levels"]) == 0
    first = decode(sorted((here / "levels/checkpoints").glob("*.safetensors"))[0])
    shapes = [tuple(first["network"]["levels"][level]["layers.0.weight"].shape) for level in ("0", "1")]
    assert shapes == [(12, 32), (6, 32)]


def test_weights_that_do_not_fit_are_named(here, capsys):
    printed = refused(capsys, "train", f"load={here / 'whole'}", "model.hidden=[24,12]")
    assert (
        "step-00000004.safetensors holds another network than this config describes: 'layers.2.bias' is [16] "
        in printed
    )
    assert "there and [12] here; 'layers.2.weight' is [16, 24] there and [12, 24] here; 'layers.4.weight'" in printed
    assert "give it the model=… and data=… it was trained with" in printed
    printed = refused(capsys, "train", f"load={here / 'whole'}", "model.hidden=[24]", "--dry-run")
    assert "'layers.4.bias' is in the checkpoint alone" in printed
    printed = refused(capsys, "train", f"load={here / 'pruned'}", "model.hidden=[24,12]")
    assert "'layers.2.weight' is [12, 24] here, and was [16, 24] in the network that was pruned" in printed
    assert {path.name for path in here.iterdir()} == {"whole", "pruned"}, "nothing was written"


def test_transforms_and_data_that_do_not_fit_are_told(here, capsys):
    printed = refused(capsys, "train", f"load={here / 'whole'}", "transform=none")
    assert "the checkpoint's transforms are not those of this config: only one of the two has input.0.mean" in printed
    printed = refused(capsys, "train", f"load={here / 'whole'}", "data.grid=16")
    assert "the data is not of the kind the checkpoint's transforms were fitted to" in printed


def test_what_cannot_be_loaded_is_told(here, capsys):
    assert "load=nosuch: no such file or folder" in refused(capsys, "train", "load=nosuch")
    assert "give one of the two" in refused(capsys, "train", "load=last", "resume=last")
    (here / "note.txt").write_text("no checkpoint")
    assert "is not a checkpoint of this platform" in refused(capsys, "train", f"load={here / 'note.txt'}")
    printed = refused(capsys, "train", f"resume={here / 'pruned'}")
    assert "acceleration=prune is for accelerator accelerate" in printed


def test_a_checkpoint_of_a_coarse_level_is_refused(here, capsys):
    options = ["multilevel=cascade", "multilevel.levels=2", "trainer.max_epochs=4", "checkpoint.keep=9"]
    assert main([*SOURCE[:-1], *options, "hydra.run.dir=outputs/day/levels"]) == 0
    file = sorted((here / "levels/checkpoints").glob("*.safetensors"))[0]
    for command in ("train", "evaluate"):
        printed = refused(capsys, command, f"load='{file}'")
        assert "was saved while level 1 was trained: the full network is not trained yet" in printed
