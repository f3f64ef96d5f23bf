"""``accelerator doctor``: verify and status in one."""

import json

import pytest

from accelerator.cli.app import main
from accelerator.cli.machine import verify


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(verify, "CHECKS", {"good": lambda folder: "1 + 1 = 2"})
    return tmp_path


def break_the_machine(monkeypatch):
    def broken(folder):
        raise OSError("disk on fire")

    monkeypatch.setitem(verify.CHECKS, "disk", broken)


def break_the_configs(folder):
    (folder / "configs/project").mkdir(parents=True)
    (folder / "configs/project/default.yaml").write_text("# @package _global_\nimports: [nowhere]\n")


def test_both_are_told_and_all_is_well(capsys):
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "configs"
    assert lines[-3:] == ["machine", "✓ good               1 + 1 = 2  (0.0 s)", "all that a run needs works here"]


def test_a_broken_machine_is_1_and_a_broken_config_3(folder, monkeypatch, capsys):
    break_the_configs(folder)
    assert main(["doctor"]) == 3
    printed = capsys.readouterr().out
    assert "imports 'nowhere', and there is no such module here" in printed
    assert printed.endswith("all that a run needs works here\n./configs: broken, as told above\n")
    break_the_machine(monkeypatch)
    assert main(["doctor"]) == 1
    assert "✗ disk               OSError: disk on fire" in capsys.readouterr().out


def test_a_project_file_that_cannot_be_read_is_a_finding(folder, capsys):
    break_the_configs(folder)
    (folder / "configs/project/default.yaml").write_text("imports: [a\n")
    assert main(["doctor"]) == 3
    printed = capsys.readouterr().out
    assert "not valid YAML" in printed
    assert "all that a run needs works here" in printed


def test_for_programs(folder, monkeypatch, capsys):
    break_the_machine(monkeypatch)
    assert main(["doctor", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert [(check["name"], check["status"]) for check in told["checks"]] == [("good", "works"), ("disk", "broken")]
    assert told["configs"]["project"] == str(folder)
