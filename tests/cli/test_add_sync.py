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
    assert main(["add", "--sync"]) == 0
    capsys.readouterr()
    return workplace


def sync(capsys, *arguments):
    assert main(["add", "--sync", *arguments]) == 0
    return capsys.readouterr().out


def test_what_no_file_names_gets_one(workplace, capsys):
    shown = sync(capsys, "--dry-run")
    assert "new  configs/callbacks/ema.yaml  accelerator.runtime.callbacks.averaging:EMA" in shown
    assert "next: accelerator add --sync  writes" in shown
    assert list(workplace.iterdir()) == []
    assert sync(capsys) == shown.partition("\n\nnext")[0] + "\n"
    assert yaml.safe_load((workplace / "configs/callbacks/ema.yaml").read_text())["ema"]["decay"] == 0.999
    assert not list((workplace / "configs").glob("model/*")), "every model has a packaged YAML"
    assert sync(capsys) == "every registered component is in the config tree, with the arguments it takes\n"


def test_a_changed_signature_is_told_and_a_file_nobody_edited_follows(synced, capsys):
    (synced / "mine.py").write_text(MINE.format(arguments="scale=2.0, *, power=3"))
    said = "the default of 'scale' was 1.0, and is 2.0; 'power' has come since, with the default 3"
    assert f"updated  {FILE}  {said}" in sync(capsys, "--dry-run")
    assert yaml.safe_load((synced / FILE).read_text())["scale"] == 1.0
    assert f"updated  {FILE}  {said}" in sync(capsys)
    assert yaml.safe_load((synced / FILE).read_text()) == {"name": "cubic", "scale": 2.0, "power": 3}
    assert "every registered component" in sync(capsys)


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
