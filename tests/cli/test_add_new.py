"""``accelerator add --new`` and ``accelerator add domain``: what they begin runs as it is, and its test passes."""

import runpy

import pytest
from small_run import SMALL

from accelerator.cli.app import main
from accelerator.utilities.base_registry import registries

USED = {
    "loss": ["loss=mine"],
    "model": ["model=mine"],
    "transform": ["transform=mine"],
    "metric": ["metrics=mine"],
    "callback": ["callbacks=[none,mine]"],
    "data": ["data=mine", "metrics=none"],
    "optimizer": ["optimizer=mine"],
    "scheduler": ["scheduler=mine"],
}


def settings(kind):
    """What makes a run small: where the network or the data is the one that was begun, less can be said of it."""
    leave = {"model": ("model",), "data": ("data.",), "callback": ("~callbacks",)}.get(kind, ())
    return [setting for setting in SMALL if not setting.startswith(tuple(leave) or ("no",))]


@pytest.mark.parametrize("kind", USED)
def test_each_kind_begins_with_code_yaml_and_test_and_is_trained_with_at_once(workplace, capsys, kind):
    assert main(["add", kind, "mine", "--new"]) == 0
    printed = capsys.readouterr().out
    assert f"components/{kind}/mine.py: written" in printed
    assert f"edit components/{kind}/mine.py; python -m pytest tests/test_{kind}_mine.py tries it" in printed
    assert main(["train", *settings(kind), *USED[kind]]) == 0
    assert "test/loss" in capsys.readouterr().out
    assert "mine" in registries()[kind].names()


def test_their_tests_pass(workplace, capsys, monkeypatch):
    for kind in USED:
        assert main(["add", kind, "mine", "--new"]) == 0
    capsys.readouterr()
    monkeypatch.syspath_prepend(workplace)
    called = 0
    for kind in USED:
        for name, test in runpy.run_path(f"tests/test_{kind}_mine.py").items():
            if name.startswith("test_"):
                test(*[capsys] * test.__code__.co_argcount)
                called += 1
    assert called == 8


def test_a_package_that_does_not_import_its_modules_is_named_by_path(workplace):
    (workplace / "mine").mkdir()
    (workplace / "mine/__init__.py").write_text("'''Mine.'''\n")
    (workplace / "configs/project").mkdir(parents=True)
    (workplace / "configs/project/default.yaml").write_text("# @package _global_\nimports: [mine]\n")
    assert main(["add", "loss", "cube", "--new"]) == 0
    assert "_target_: mine.loss.cube.cube" in (workplace / "configs/training_components/loss/cube.yaml").read_text()
    assert (workplace / "mine/__init__.py").read_text() == "'''Mine.'''\n"
    assert main(["train", *SMALL, "loss=cube", "--dry-run"]) == 0


def test_code_that_is_there_is_not_written_over(workplace, capsys):
    assert main(["add", "loss", "mine", "--new"]) == 0
    code = workplace / "components/loss/mine.py"
    code.write_text("# edited\n")
    assert main(["add", "loss", "mine", "--new"]) == 3
    assert "components/loss/mine.py is there already: choose another name, or remove it" in capsys.readouterr().err
    assert code.read_text() == "# edited\n"


@pytest.mark.parametrize("way", ["tests", "configs/training_components"])
def test_where_one_file_cannot_be_written_none_is(workplace, capsys, way):
    assert main(["add", "loss", "first", "--new"]) == 0
    before = {path: path.read_bytes() for path in workplace.rglob("*") if path.is_file()}
    (workplace / way).rename(workplace / "away")
    (workplace / way).write_text("in the way")
    capsys.readouterr()
    assert main(["add", "loss", "mine", "--new"]) == 3
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"error: could not write {workplace / way}/")
    (workplace / way).unlink()
    (workplace / "away").rename(workplace / way)
    assert {path: path.read_bytes() for path in workplace.rglob("*") if path.is_file()} == before
    assert main(["add", "loss", "mine", "--new"]) == 0


def test_a_name_that_is_taken_is_refused(workplace, capsys):
    assert main(["add", "loss", "mse", "--new"]) == 3
    said = "there is a loss 'mse' already: domain.cross.loss.regression:mse; choose another name"
    assert said in capsys.readouterr().err
    assert list(workplace.iterdir()) == []


def test_a_dry_run_names_the_files_and_writes_none(workplace, capsys):
    assert main(["add", "model", "mine", "--new", "--dry-run"]) == 0
    assert "components/model/mine.py: would write" in capsys.readouterr().out
    assert list(workplace.iterdir()) == []


def test_a_domain_is_known_once_it_is_installed(workplace, capsys, monkeypatch):
    assert main(["add", "domain", "chemistry"]) == 0
    assert "next: pip install -e chemistry" in capsys.readouterr().out
    assert (
        '[project.entry-points."accelerator.domains"]\nchemistry = "chemistry"\n'
        in (workplace / "chemistry/pyproject.toml").read_text()
    )
    # What an installation leaves: a path, and the entry point.
    installed = workplace / "chemistry/accelerator_chemistry-0.1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: accelerator-chemistry\nVersion: 0.1.0\n")
    (installed / "entry_points.txt").write_text("[accelerator.domains]\nchemistry = chemistry\n")
    monkeypatch.syspath_prepend(workplace / "chemistry")
    assert main(["add", "loss", "chemistry_loss"]) == 0
    assert "component: chemistry.loss:chemistry_loss" in capsys.readouterr().out
    registries.cache_clear()
    try:
        assert main(["train", *SMALL, "loss=chemistry_loss", "--dry-run"]) == 0
    finally:
        registries.cache_clear()
