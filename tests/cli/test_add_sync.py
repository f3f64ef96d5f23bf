"""``accelerator add --sync``: what is new, stale or different is told, and what nobody edited is brought up to date."""

import pytest
import yaml

from accelerator.cli.app import main

MINE = """
from accelerator import register


@register("loss", "cubic")
def cubic(prediction, target, {arguments}):
    return (prediction - target).abs().pow(3).mean()
"""
FILE = "configs/training_components/loss/cubic.yaml"


@pytest.fixture
def synced(workplace, capsys):
    """A project with a loss of its own, everything registered in its config tree."""
    (workplace / "mine.py").write_text(MINE.format(arguments="scale=1.0"))
    assert main(["add", "loss", "cubic"]) == 0
    capsys.readouterr()
    return workplace


def sync(capsys, *arguments):
    assert main(["add", "--sync", *arguments]) == 0
    return capsys.readouterr().out


ALL_IS_WELL = "every component of this project is in the config tree, with the arguments it takes\n"


def test_what_no_file_names_gets_one(workplace, capsys):
    (workplace / "mine.py").write_text(MINE.format(arguments="scale=1.0"))
    (workplace / "configs/project").mkdir(parents=True)
    (workplace / "configs/project/default.yaml").write_text("# @package _global_\nimports: [mine]\n")
    shown = sync(capsys, "--dry-run")
    assert shown == f"new  {FILE}  mine:cubic\n\nnext: accelerator add --sync  writes 1 file\n"
    assert not (workplace / FILE).exists()
    assert sync(capsys) == f"new  {FILE}  mine:cubic\n"
    assert yaml.safe_load((workplace / FILE).read_text()) == {"name": "cubic", "scale": 1.0}
    assert sync(capsys) == ALL_IS_WELL


def test_in_an_empty_folder_there_is_nothing_to_do(workplace, capsys):
    assert sync(capsys) == ALL_IS_WELL
    assert list(workplace.iterdir()) == []


def test_what_the_platform_brings_gets_a_file_where_it_is_asked_for(workplace, capsys):
    shown = sync(capsys, "callback", "--dry-run")
    assert "new  configs/callbacks/ema.yaml  accelerator.runtime.callbacks.averaging:EMA" in shown
    assert "next: accelerator add --sync callback  writes " in shown
    assert list(workplace.iterdir()) == []
    assert sync(capsys, "callback", "ema") == (
        "new  configs/callbacks/ema.yaml  accelerator.runtime.callbacks.averaging:EMA\n"
    )
    assert yaml.safe_load((workplace / "configs/callbacks/ema.yaml").read_text())["ema"]["decay"] == 0.999
    assert sync(capsys, "callback", "ema") == (
        "the callback 'ema' is in the config tree, with the arguments it takes\n"
    )
    assert sync(capsys, "model") == "every model is in the config tree, with the arguments it takes\n"
    assert main(["add", "--sync", "callback", "emma"]) == 3
    assert "there is no callback 'emma' — did you mean 'ema'" in capsys.readouterr().err


def test_one_component_alone_is_brought_up_to_date(synced, capsys):
    (synced / "configs/model").mkdir()
    (synced / "configs/model/net.yaml").write_text("_target_: mine.Net\n")
    (synced / "mine.py").write_text(MINE.format(arguments="scale=2.0"))
    said = "the default of 'scale' was 1.0, and is 2.0"
    assert sync(capsys, "loss", "cubic") == f"updated  {FILE}  {said}\n"
    assert "stale  configs/model/net.yaml" in sync(capsys, "model")


def test_a_changed_signature_is_told_and_a_file_nobody_edited_follows(synced, capsys):
    (synced / "mine.py").write_text(MINE.format(arguments="scale=2.0, *, power=3"))
    said = "the default of 'scale' was 1.0, and is 2.0; 'power' has come since, with the default 3"
    assert f"updated  {FILE}  {said}" in sync(capsys, "--dry-run")
    assert yaml.safe_load((synced / FILE).read_text())["scale"] == 1.0
    assert f"updated  {FILE}  {said}" in sync(capsys)
    assert yaml.safe_load((synced / FILE).read_text()) == {"name": "cubic", "scale": 2.0, "power": 3}
    assert sync(capsys) == ALL_IS_WELL


def test_a_file_that_somebody_edited_is_reported_and_left(synced, capsys):
    (synced / FILE).write_text("# @package loss\nname: cubic\nscale: 5.0\nold: 1\n")
    (synced / "mine.py").write_text(MINE.format(arguments="scale=2.0"))
    printed = sync(capsys)
    assert (
        f"different  {FILE}  it sets 'old', which mine:cubic does not take; the default of 'scale' was 1.0" in printed
    )
    assert "1 of these are for you to mend" in printed
    assert (synced / FILE).read_text().endswith("old: 1\n")


def test_a_component_that_is_gone_leaves_a_stale_file(synced, capsys):
    (synced / "mine.py").write_text("")
    assert f"stale  {FILE}  there is no loss 'cubic' (any more)" in sync(capsys)
    assert (synced / FILE).exists()


def test_a_target_that_is_gone_is_stale_too(synced, capsys):
    (synced / "configs/model").mkdir()
    (synced / "configs/model/net.yaml").write_text("_target_: mine.Net\n")
    assert "stale  configs/model/net.yaml  mine.Net: no 'Net' in mine" in sync(capsys)


def test_a_required_argument_that_came_is_told(synced, capsys):
    (synced / "mine.py").write_text(MINE.format(arguments="power"))
    assert f"{FILE}  it sets 'scale', which mine:cubic does not take; mine:cubic needs 'power'" in sync(
        capsys, "--dry-run"
    )
    sync(capsys)
    assert yaml.safe_load((synced / FILE).read_text()) == {"name": "cubic", "power": "???"}


def test_a_file_that_cannot_be_read_is_broken(synced, capsys):
    (synced / FILE).write_text("name: NO\n")
    assert f"broken  {FILE}  line 1: YAML reads NO as false" in sync(capsys)
