"""``accelerator init``: a project that trains, and whose tests pass, as it is."""

import os
import subprocess
import sys

import pytest
import torch

from accelerator.cli.app import main

FILES = {
    "README.md",
    "Makefile",
    ".gitignore",
    "pyproject.toml",
    "configs/project/default.yaml",
    "configs/experiment/first.yaml",
    "configs/training_components/loss/scaled_error.yaml",
    "my_project/__init__.py",
    "my_project/loss/__init__.py",
    "my_project/loss/scaled_error.py",
    "tests/test_loss_scaled_error.py",
    "tests/test_experiments.py",
}


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_project_is_begun_and_what_comes_next_is_printed(workplace, capsys):
    assert main(["init", "my-project"]) == 0
    assert files(workplace / "my-project") == FILES
    printed = capsys.readouterr().out
    assert "  cd my-project\n  accelerator train experiment=first" in printed


def test_it_trains_with_its_own_loss(workplace, capsys, monkeypatch):
    assert main(["init", "--package", "mine"]) == 0
    small = ["data.train=32", "data.val=8", "data.test=8", "data.grid=8", "trainer.max_epochs=1", "tracking=none"]
    assert main(["train", "experiment=first", *small, "engine.threads=1", "~callbacks.pictures"]) == 0
    assert "test/loss" in capsys.readouterr().out
    assert sys.modules["mine.loss.scaled_error"].__file__.startswith(str(workplace))


@pytest.mark.slow
def test_its_tests_pass_and_its_makefile_works(workplace):
    assert main(["init"]) == 0
    tests = subprocess.run([sys.executable, "-m", "pytest", "-q"], capture_output=True, text=True, check=False)
    assert tests.returncode == 0, tests.stdout
    assert "2 passed" in tests.stdout
    shown = subprocess.run(["make", "help"], capture_output=True, text=True, check=True).stdout
    assert "train the first experiment" in shown


def test_a_folder_with_something_in_it_is_refused_and_what_is_in_the_way_named(workplace, capsys):
    (workplace / "README.md").write_text("mine\n")
    (workplace / ".git").mkdir()
    assert main(["init"]) == 3
    said = "is not empty: README.md. --force adds what is absent, and changes none of them"
    assert said in capsys.readouterr().err
    assert files(workplace) == {"README.md"}
    assert main(["init", "--force", "--package", "my_project"]) == 0
    assert "README.md (is there already: left as it is)" in capsys.readouterr().out
    assert (workplace / "README.md").read_text() == "mine\n"
    assert files(workplace) == FILES


def test_what_is_a_link_out_of_the_folder_is_not_written_through(workplace, tmp_path, capsys):
    (tmp_path / "elsewhere").mkdir()
    (workplace / "configs").symlink_to(tmp_path / "elsewhere")
    assert main(["init", "--force"]) == 3
    assert "outside of .: nothing was written" in capsys.readouterr().err
    assert files(tmp_path / "elsewhere") == set()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["file"], "file is a file: give the name of a folder"),
        (["new", "--package", "my-package"], "'my-package' cannot be the name of a package (--package NAME)"),
        (["torch"], f"a package 'torch' here would hide {torch.__file__}: choose another name by --package NAME"),
        (
            ["new", "--package", "json"],
            "a package 'json' here would hide a module of Python's own: choose another name",
        ),
        ([""], "the folder's name is empty: accelerator init DIR"),
        (["new", "more"], "unrecognized arguments: more"),
    ],
)
def test_a_mistake_is_told_and_nothing_is_written(workplace, capsys, arguments, said):
    (workplace / "file").write_text("")
    assert main(["init", *arguments]) == 3
    assert said in capsys.readouterr().err
    assert files(workplace) == {"file"}


@pytest.mark.parametrize(
    ("folder", "package"), [("My project-2", "my_project_2"), ("2024", "project"), ("tests", "project")]
)
def test_the_package_is_called_as_the_folder_where_that_is_a_name(workplace, folder, package):
    assert main(["init", folder]) == 0
    assert (workplace / folder / package / "__init__.py").exists()


def test_a_name_that_a_package_cannot_have_is_told_and_the_way_there_is_quoted(workplace, capsys):
    assert main(["init", "my projekté"]) == 0
    printed = capsys.readouterr().out
    said = "its package is called my_projekt: a package cannot be called as the folder is; --package chooses a name\n"
    assert said in printed
    assert "\n  cd 'my projekté'\n" in printed


def test_ctrl_c_leaves_nothing(workplace, monkeypatch, capsys):
    calls = []
    sync = os.fsync

    def stopped(file):
        calls.append(file)
        if len(calls) == 5:
            raise KeyboardInterrupt
        sync(file)

    monkeypatch.setattr(os, "fsync", stopped)
    assert main(["init", "new"]) == 130
    assert list(workplace.iterdir()) == []
    assert capsys.readouterr().out == ""


def test_a_dry_run_writes_nothing(workplace, capsys):
    assert main(["init", "new", "--dry-run"]) == 0
    assert "new would have these files" in capsys.readouterr().out
    assert list(workplace.iterdir()) == []
