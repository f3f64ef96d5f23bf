"""Defaults lists that Hydra cannot follow are told with their files, and never by a traceback."""

import pytest

from accelerator.cli.app import main
from accelerator.cli.compose.compose import COMPOSITION_ERRORS, composer
from accelerator.cli.compose.defaults_lists import CircleError
from accelerator.cli.compose.reasons import reason

ITSELF = "configs/experiment/bad.yaml names itself in its defaults list: take it out there"
CIRCLE = (
    "defaults lists lead in a circle (configs/experiment/one.yaml → configs/experiment/two.yaml → "
    "configs/experiment/one.yaml): take one of these out of the list that names it"
)


@pytest.fixture(autouse=True)
def experiments(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs/experiment").mkdir(parents=True)
    for name, chosen in {"bad": "bad", "one": "two", "two": "one", "into": "one"}.items():
        (tmp_path / f"configs/experiment/{name}.yaml").write_text(
            f"# @package _global_\ndefaults: [{chosen}, _self_]\n"
        )


@pytest.mark.parametrize(("name", "told"), [("bad", ITSELF), ("one", CIRCLE), ("into", CIRCLE)])
def test_a_circle_is_told_with_its_files(name, told):
    with composer() as compose:
        with pytest.raises(CircleError) as caught:
            compose([f"experiment={name}"])
        assert reason(caught.value) == told
        assert compose(["seed=3"]).seed == 3, "what is not in the circle composes"


@pytest.mark.parametrize("flags", [["--dry-run"], ["-m", "seed=1,2"]])
def test_no_command_ends_in_a_traceback(flags, tmp_path, capfd):
    assert main(["train", "experiment=bad", *flags]) == 3
    assert capfd.readouterr().err == f"error: experiment=bad: {ITSELF}\n"
    assert not list(tmp_path.glob("*/*/*/*.json"))


@pytest.mark.parametrize("value", ["null", "0.1"])
def test_a_group_set_to_what_is_no_name_is_told(value):
    with composer() as compose, pytest.raises(COMPOSITION_ERRORS) as caught:
        compose([f"optimizer={value}"])
    assert reason(caught.value) == "a group takes the name of an option, or of several in a list"
