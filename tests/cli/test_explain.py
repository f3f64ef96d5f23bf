"""``--explain``: each value with the file that set it, what it builds, and after the table what is wrong."""

import sys

import pytest

from accelerator.cli.app import main
from accelerator.cli.compose.compose import composer
from accelerator.cli.compose.explain import Sources

MODULE = """
from accelerator import register


@register("loss", "explained")
def explained(prediction, target, weight: float = 1.0, power: float = 2.0):
    return weight * (prediction - target).abs().pow(power).mean()
"""


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "explained_parts", raising=False)
    (tmp_path / "explained_parts.py").write_text(MODULE)
    for file, text in {
        "project/default": "# @package _global_\nimports: [explained_parts]\n",
        "training_components/loss/explained": "# @package loss\nname: explained\nweight: 1.0\n",
        "experiment/mine": "# @package _global_\ndefaults:\n  - override /training_components/loss: explained\n"
        "optimizer: {lr: 0.5}\n",
    }.items():
        path = tmp_path / f"configs/{file}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def rows(capfd, *overrides, code=0):
    assert main(["train", "experiment=mine", *overrides, "--explain"]) == code
    printed = capfd.readouterr()
    return {line.split("  ")[0]: line.split("  ")[-1].strip() for line in printed.out.splitlines()}, printed


def test_a_component_of_the_projects_own_is_found_and_each_file_is_the_projects_or_packaged(capfd):
    found, printed = rows(capfd, "seed=3")
    assert " → explained_parts:explained " in printed.out
    assert {key: found[key] for key in ("loss.weight", "loss.power", "optimizer.lr", "optimizer.name", "seed")} == {
        "loss.weight": "configs/training_components/loss/explained.yaml",
        "loss.power": "default of explained",
        "optimizer.lr": "configs/experiment/mine.yaml",
        "optimizer.name": "accelerator/configs/training_components/optimizer/adam.yaml",
        "seed": "command line",
    }


def test_what_is_wrong_follows_the_table(capfd):
    found, printed = rows(capfd, "loss.weight=abc", "loss.powr=3", code=3)
    assert found["loss.weight"] == "command line"
    assert printed.err == (
        "2 errors: \n"
        "  • loss.weight='abc': expected float: Input should be a valid number\n"
        "  • loss.powr: 'explained' has no such argument — did you mean 'power'?\n"
    )


def test_a_module_that_does_not_import_is_told_after_the_table(capfd):
    _, printed = rows(capfd, "imports=[nowhere_to_be_found]", code=3)
    assert "→ nothing of that name" in printed.out
    assert "imports: nowhere_to_be_found could not be imported" in printed.err


def test_of_a_sweep_the_first_job_is_explained(capfd):
    found, printed = rows(capfd, "-m", "loss.power=2.5,3")
    assert printed.out.startswith("the sweep's first job: experiment=mine loss.power=2.5\n")
    assert found["loss.power"] == "command line"


def test_a_later_file_and_the_command_line_come_after():
    with composer():
        sources = Sources(["experiment=mine", "loss.weight=2"])
    assert sources.is_later("optimizer.lr", "optimizer.name")
    assert sources.is_later("loss.weight", "loss.name")
    assert not sources.is_later("loss.name", "optimizer.lr")
    assert not sources.is_later("optimizer.name", "optimizer.eps")
