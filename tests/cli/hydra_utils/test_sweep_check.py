"""A sweep is looked at before its first job."""

import pytest

from accelerator.cli.hydra_utils import sweep_check
from accelerator.cli.hydra_utils.sweep_check import _variants, check_sweep
from accelerator.errors import ConfigError


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_each_value_is_tried_once_and_not_each_combination():
    assert _variants(["-m", "seed=1", "model=mlp,cnn,fno", "optimizer.lr=0.1,0.2"]) == [
        ["seed=1", "model=mlp", "optimizer.lr=0.1"],
        ["seed=1", "model=cnn", "optimizer.lr=0.1"],
        ["seed=1", "model=fno", "optimizer.lr=0.1"],
        ["seed=1", "model=mlp", "optimizer.lr=0.2"],
    ]


def test_what_a_sweeper_draws_is_left_to_it():
    assert _variants(["-m", "optimizer.lr=interval(0.1,1)", "trainer.max_epochs=range(1,3)"]) == [[]]


def test_every_wrong_value_is_told_once():
    arguments = ["-m", "model=mlp,mpl", "optimizer.lr=0.1,abc", "optimizer.name=Adam,Adan", "seed=1,2"]
    with pytest.raises(ConfigError) as caught:
        check_sweep(arguments, signatures=True)
    assert [problem.split(" — ")[0] for problem in caught.value.problems] == [
        "optimizer.lr='abc': expected float | torch.Tensor: Input should be a valid number",
        "optimizer.name: unknown optimizer 'Adan'",
        "model=mpl: no 'mpl' in configs/model/",
    ]


def test_commands_that_do_not_build_everything_are_not_compared_with_the_signatures():
    check_sweep(["-m", "optimizer.lr=0.1,abc"], signatures=False)


def test_a_long_sweep_is_not_held_up(monkeypatch):
    monkeypatch.setattr(sweep_check, "MOST", 2)
    check_sweep(["-m", "model=mlp,cnn,mpl"], signatures=False)  # its job tells it
