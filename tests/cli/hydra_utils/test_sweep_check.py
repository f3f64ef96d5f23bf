"""A sweep is looked at before its first job."""

from pathlib import Path

import pytest

from accelerator.cli.compose.compose import composer, plain
from accelerator.cli.hydra_utils import sweep_check
from accelerator.cli.hydra_utils.sweep_check import _changed, _variants, check_sweep, first_job
from accelerator.errors import ConfigError


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_each_value_is_tried_once_and_not_each_combination():
    variants = _variants(["-m", "seed=1", "model=mlp,cnn,fno", "optimizer.lr=0.1,0.2"])
    assert [(overrides, changed and changed.input_line) for overrides, changed in variants] == [
        (["seed=1", "model=mlp", "optimizer.lr=0.1"], None),
        (["seed=1", "model=cnn", "optimizer.lr=0.1"], "model=cnn"),
        (["seed=1", "model=fno", "optimizer.lr=0.1"], "model=fno"),
        (["seed=1", "model=mlp", "optimizer.lr=0.2"], "optimizer.lr=0.2"),
    ]


@pytest.mark.parametrize(
    "swept",
    [
        "seed=1,2",
        "model.hidden=[8],[8,16,32]",
        "optimizer.amsgrad=false,true",
        "trainer.max_steps=null,5",
        "trainer.max_epochs=3,20",  # what others refer to
    ],
)
def test_a_value_set_in_the_first_jobs_config_is_what_its_own_composition_has(swept):
    (one, _), (other, changed) = _variants(["-m", "model=mlp", swept])
    with composer() as compose:
        first = compose(one)
        assert changed is not None
        assert plain(_changed(first, changed, {"model"})) == plain(compose(other)) != plain(first)


@pytest.mark.parametrize("swept", ["model=mlp,cnn", "+vars.a=1,2", "hydra.job.name=a,b", "vars={a:1},{b:2}"])
def test_what_it_takes_a_composition_to_tell_is_composed(swept):
    (one, _), (_, changed) = _variants(["-m", swept])
    with composer() as compose:
        assert changed is not None
        assert _changed(compose(one), changed, {"model"}) is None


def test_what_a_sweeper_draws_is_left_to_it():
    assert _variants(["-m", "optimizer.lr=interval(0.1,1)", "trainer.max_epochs=range(1,3)"]) == [([], None)]


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


def test_a_single_value_is_checked_too():
    with pytest.raises(ConfigError, match="^optimizer.lr='': expected float"):
        check_sweep(["-m", "optimizer.lr="], signatures=True)


def test_what_only_the_sweeper_draws_is_not_missed():
    arguments = ["-m", "data=arrays", "data.inputs=[a]", "data.targets=b", "data.path=choice(x.csv,y.csv)"]
    check_sweep(arguments, signatures=True)
    (folder := Path("configs/experiment")).mkdir(parents=True)
    (folder / "drawn.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /training_components/optimizer: torch\n"
        "optimizer: {name: Adam}\nhydra: {sweeper: {params: {optimizer.lr: '0.1,0.2'}}}\n"
    )
    check_sweep(["-m", "experiment=drawn"], signatures=True)
    check_sweep(["-m", "optimizer=torch", "optimizer.name=Adam", "optimizer.lr=interval(0.1,1)"], signatures=True)
    with pytest.raises(ConfigError, match="^optimizer.lr is required"):
        check_sweep(["-m", "optimizer=torch", "optimizer.name=Adam"], signatures=True)


def test_the_first_job_has_the_first_of_each_value():
    assert first_job(["-m", "seed=3", "model=mlp,cnn", "optimizer.lr=0.1,0.2"]) == [
        "seed=3",
        "model=mlp",
        "optimizer.lr=0.1",
    ]
