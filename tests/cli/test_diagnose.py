"""Each mistake of a command line has a sentence with its remedy."""

import sys

import pytest

from accelerator.cli.app import main
from accelerator.cli.compose.compose import COMPOSITION_ERRORS, composer
from accelerator.cli.compose.mistakes import diagnose, located, split_by_spaces
from accelerator.errors import ConfigError

MODULE = """
from accelerator import register


@register("loss", "boom")
def boom(prediction, target, scale: float = 1.0):
    return prediction.sum()
"""

CASES = {
    "a key without a value": (["optimizer.lr"], ["optimizer.lr is given no value: write optimizer.lr=…"]),
    "a word": (["seed=3", "mlp"], ["'mlp' is no override: write key=value, or group=option such as model=mlp"]),
    "spaces in one argument": (
        ["optimizer.lr = 0.1"],
        ["optimizer.lr = 0.1: no space around '=': write optimizer.lr=0.1"],
    ),
    "values without a sweep": (
        ["seed=3,4,5"],
        [
            "seed=3,4,5 is a sweep: -m (--multirun) tries one value after the other; seed=[3,4,5] is a list, "
            "seed='3,4,5' a text"
        ],
    ),
    "a comma in a number": (
        ["optimizer.lr=0,1"],
        [
            "optimizer.lr=0,1 is a sweep: -m (--multirun) tries one value after the other; "
            "optimizer.lr=[0,1] is a list, optimizer.lr='0,1' a text, optimizer.lr=0.1 one number"
        ],
    ),
    "a component without a file, in a list": (
        ["callbacks=[default,early_stopping]"],
        [
            "callbacks=[default,early_stopping]: no 'early_stopping' in configs/callbacks/, but the callback is there: "
            "callbacks.early_stopping.name=early_stopping adds it, and accelerator add callback early_stopping "
            "writes a file of it"
        ],
    ),
    "no component, in a list": (
        ["callbacks=[default,nonsense]"],
        ["callbacks=[default,nonsense]: no 'nonsense' in configs/callbacks/ — did you mean 'none'?"],
    ),
    "a component of the user's own without a file": (
        ["loss=boom", "imports=[diagnosed_parts]"],
        [
            "loss=boom: no 'boom' in configs/training_components/loss/, but the loss is there: "
            "loss=custom loss.name=boom takes it, and accelerator add loss boom writes a file of it"
        ],
    ),
    "a group without an option": (
        ["acceleration=null"],
        [
            "acceleration=null: acceleration is a group, and takes one of its options — choose from: none, prune, "
            "quantize"
        ],
    ),
    "a value for a list": (["imports=p"], ["imports=p: expected a list, imports=[p]"]),
    "a fraction": (["trainer.max_epochs=3.5"], ["trainer.max_epochs=3.5: expected a whole number"]),
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "diagnosed_parts", raising=False)
    (tmp_path / "diagnosed_parts.py").write_text(MODULE)
    return tmp_path


@pytest.mark.parametrize("case", CASES)
def test_each_mistake_has_its_remedy(case):
    arguments, told = CASES[case]
    with pytest.raises(COMPOSITION_ERRORS) as caught, composer() as compose:
        compose(arguments)
    assert diagnose(arguments, caught.value).problems == told


@pytest.mark.parametrize(
    ("words", "whole", "joined"),
    [
        (["seed=1", "optimizer.lr", "=", "0.1"], ["seed=1"], "optimizer.lr = 0.1: no space around '='"),
        (["optimizer.lr", "=0.1", "seed=1"], ["seed=1"], "optimizer.lr =0.1: no space around '='"),
        (["optimizer.lr=", "0.1"], [], "optimizer.lr= 0.1: no space around '='"),
    ],
)
def test_an_argument_that_spaces_took_apart_is_put_together(words, whole, joined):
    assert split_by_spaces(words) == (whole, [f"{joined}: write optimizer.lr=0.1"])


@pytest.mark.parametrize("words", [["optimizer.lr=", "seed=1"], ["--cfg", "job"], ["digits", "train:seed=1"]])
def test_what_stands_alone_is_not_put_together(words):
    assert split_by_spaces(words) == (words, [])


def test_a_number_of_another_component_is_told_with_both_ways_out(folder):
    overrides = ["experiment=digits", "loss.name=boom", "imports=[diagnosed_parts]"]
    problem = "loss.label_smoothing: 'boom' has no such argument — choose from: scale"
    assert located(ConfigError(problem), overrides).problems == [
        f"{problem} (it is of another component, in accelerator/configs/training_components/loss/cross_entropy.yaml: "
        "write loss=custom loss.name=boom, or ~loss.label_smoothing)"
    ]
    problem = "model.hidden: 'cnn' has no such argument"
    assert located(ConfigError(problem), ["model=mlp", "model.name=cnn"]).problems == [
        f"{problem} (it is of another component, in accelerator/configs/model/mlp.yaml: "
        "write model=cnn, or ~model.hidden)"
    ]


def test_a_registered_loss_without_a_file_is_chosen_by_custom_and_its_name(capfd):
    arguments = ["imports=[diagnosed_parts]", "loss=custom", "loss.name=boom", "loss.scale=2"]
    assert main(["train", *arguments, "--explain"]) == 0
    assert " → diagnosed_parts:boom " in capfd.readouterr().out


def test_a_generated_file_that_no_longer_fits_is_written_anew_by_sync(folder, capfd):
    assert main(["add", "loss", "huber"]) == 0
    file = folder / "configs/training_components/loss/huber.yaml"
    problem = "loss.delta: 'huber' has no such argument"
    told = f"{problem} (in configs/training_components/loss/huber.yaml; accelerator add --sync writes it anew)"
    assert located(ConfigError(problem), ["loss=huber"]).problems == [told]
    file.write_text(file.read_text() + "# mine\n")
    told = f"{problem} (in configs/training_components/loss/huber.yaml)"
    assert located(ConfigError(problem), ["loss=huber"]).problems == [told]
