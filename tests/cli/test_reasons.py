"""What a config file has wrong, in a sentence with the file, the key and the remedy; never in Hydra's words."""

import pytest

from accelerator.cli.compose.compose import COMPOSITION_ERRORS, composer
from accelerator.cli.compose.reasons import of_type, reason

EXPERIMENTS = {
    "imports: p": "sets imports to p: expected a list, write [p]",
    "trainer: {max_epochs: 3.5}": "sets trainer.max_epochs to 3.5: expected a whole number",
    "trainer: {test: maybe}": "sets trainer.test to maybe: expected true or false",
    "trainer: {clip_norm: big}": "sets trainer.clip_norm to big: expected a number",
    "optimizer: null": "sets optimizer to null: give it a value, or take the line out",
    "model: [1, 2]": "sets model to a list: expected a mapping of its keys",
    "trainer: [1]": "sets trainer to [1]: expected a mapping of its keys",
    "model: mlp": "sets model to mlp: expected a mapping of its keys; an option is chosen in the defaults list, "
    "'- override /model: mlp'",
    "loss: huber": "sets loss to huber: expected a mapping of its keys; an option is chosen in the defaults list, "
    "'- override /training_components/loss: huber'",
    "loss: {3: 4}": "sets 'loss.3': a key is a word; a number in its place is often a comma in a number (1,5 for 1.5)",
    "trainer: {epochs: 3}": "sets 'trainer.epochs', and there is no such key — did you mean 'trainer.max_epochs'?",
}

# A file of a group, and the line it lacks.
HEADS = {
    "training_components/loss": "# @package loss",
    "training_components/optimizer": "# @package optimizer",
    "training_components/scheduler": "# @package scheduler",
    "training_components/transform": "# @package transform",
    "experiment": "# @package _global_",
}


def reason_of(tmp_path, file, text, override):
    path = tmp_path / f"configs/{file}.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with composer() as compose:
        with pytest.raises(COMPOSITION_ERRORS) as caught:
            compose([override])
        return reason(caught.value)


@pytest.mark.parametrize("text", EXPERIMENTS)
def test_what_a_file_has_wrong_is_told_with_its_remedy(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = reason_of(tmp_path, "experiment/e", f"# @package _global_\n{text}\n", "experiment=e")
    assert said == f"configs/experiment/e.yaml {EXPERIMENTS[text]}"


@pytest.mark.parametrize("group", HEADS)
def test_the_first_line_that_a_file_lacks_is_that_of_its_group(group, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = reason_of(tmp_path, f"{group}/mine", "name: huber\n", f"{group}=mine")
    key = group.split("/")[0]
    assert said == (
        f"configs/{group}/mine.yaml sets '{key}', and there is no such key; a file of this group starts with the line "
        f"'{HEADS[group]}'"
    )


def test_a_file_that_begins_with_a_byte_order_mark_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs/experiment").mkdir(parents=True)
    (tmp_path / "configs/experiment/e.yaml").write_bytes("\ufeff# @package _global_\nseed: 3\n".encode())
    with composer() as compose:
        assert compose(["experiment=e"]).seed == 3


def test_of_a_few_values_all_are_told():
    assert of_type("Invalid value 'tets', expected one of [test, val, train]") == "test or val or train"
    assert of_type("Invalid value 'rai', expected one of ['optuna', 'ray']") == "optuna or ray"


def test_what_is_no_matter_of_type_has_no_expectation():
    assert of_type("Key 'a' is not in struct") is None
