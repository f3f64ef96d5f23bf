"""Help at every level, exit codes of every command, output without colour."""

import json
import os
import subprocess
import sys

import pytest

from accelerator.cli.app import _found, main
from accelerator.cli.commands import COMMANDS, SECTIONS

LEVELS = [(name,) for name in COMMANDS] + [
    (name, action) for name, command in COMMANDS.items() if command.actions for action in _found(command.actions)
]

WALK = """
import contextlib, io, json, sys
from accelerator.cli.app import main

told = {}
for level in json.loads(sys.argv[1]):
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        try:
            code = main([*level, "--help"])
        except SystemExit as left:
            code = left.code or 0
    told[" ".join(level)] = [code, text.getvalue()]
heavy = sorted({"torch", "hydra", "mlflow", "pandas", "optuna", "sklearn"} & sys.modules.keys())
print(json.dumps([told, heavy]))
"""


def test_help_at_every_level_has_examples_and_imports_nothing_that_trains():
    arguments = [sys.executable, "-c", WALK, json.dumps(LEVELS)]
    told, heavy = json.loads(subprocess.run(arguments, capture_output=True, text=True, check=True).stdout)
    assert len(told) == len(LEVELS) > 45
    assert {level: code for level, (code, _) in told.items() if code != 0} == {}
    assert [level for level, (_, text) in told.items() if "example" not in text] == []
    for level, (_, text) in told.items():
        assert f"accelerator {level}" in text, "its examples are of another command"
    assert heavy == []


def test_every_command_stands_in_one_section_of_the_help(capsys):
    assert sorted(name for names in SECTIONS.values() for name in names) == sorted(COMMANDS)
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert printed.index("  train  ") < printed.index("  evaluate  ") < printed.index("  doctor  ")


MISTAKES = [
    (["--nothing"], "there is no flag '--nothing'; accelerator --help lists what there is"),
    (["zzz"], "there is no command 'zzz'; accelerator --help lists what there is"),
    (["train", "modle=mlp"], "did you mean 'model'"),
    (["tune", "tune=zzz"], "tune=zzz: no 'zzz' in configs/tune/ — choose from: default"),
    (["evaluate"], "name it with load=last"),
    (["accelerate", "load=nowhere"], "load=nowhere: no such file or folder"),
    (["pipeline", "digit"], "did you mean 'digits'"),
    (["analyze-data", "data=digit"], "did you mean 'digits'"),
    (["analyze-model", "model=mpl"], "did you mean 'mlp'"),
    (["run"], "the following arguments are required: --train-fn; see accelerator run --help"),
    (["init", "a", "b"], "unrecognized arguments: b; see accelerator init --help"),
    (["list", "zzz"], "there is no kind of component 'zzz' — choose from: acceleration, callback, data"),
    (["add", "loss", "zzz"], "there is no loss 'zzz'"),
    (["configure", "model=mpl"], "did you mean 'mlp'"),
    (["status", "zzz"], "unrecognized arguments: zzz; see accelerator status --help"),
    (["clean", "--zzz"], "there is no flag --zzz; see accelerator clean --help"),
    (["checkpoint", "list", "zzz"], "zzz: no such file or folder"),
    (["model", "show", "zzz"], "no run was recorded here yet (accelerator train makes one)"),
    (["runs", "list", "--limit", "few"], "argument --limit: expected a whole number, got 'few'"),
    (["report", "zzz"], "no run was recorded here yet"),
    (["tracking", "sync", "zzz"], "zzz: no such folder; give a run's folder, or one with runs below it"),
    (["mlflow-ui", "--port", "many"], "--port many: expected a number from 0 to 65535"),
    (["verify", "zzz"], "unrecognized arguments: zzz; see accelerator verify --help"),
    (["doctor", "--jsn"], "did you mean '--json'"),
    (["gpu-info", "zzz"], "unrecognized arguments: zzz; see accelerator gpu-info --help"),
    (["memory", "--limit", "-3"], "--limit -3.0: expected gigabytes, 0 for all there is"),
    (["completion", "csh"], "there is no completion for 'csh'"),
]


def test_every_command_has_a_mistake_in_the_table():
    assert {arguments[0] for arguments, _ in MISTAKES if arguments[0] in COMMANDS} == set(COMMANDS)


@pytest.mark.parametrize(("arguments", "fragment"), MISTAKES, ids=lambda value: value[0] if len(value) < 5 else "")
def test_a_mistake_is_exit_code_3_and_a_sentence(arguments, fragment, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert main(arguments) == 3
    printed = capfd.readouterr().err
    assert fragment in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize("command", ["add", "completion"])
def test_a_command_that_needs_words_and_has_none_prints_its_help(command, capsys):
    assert main([command]) == 0
    alone = capsys.readouterr().out
    assert main([command, "--help"]) == 0
    assert alone == capsys.readouterr().out
    assert alone.startswith(f"usage: accelerator {command} ")


def test_words_and_flags_stand_in_any_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    found = []
    for arguments in (["loss", "mse", "--json"], ["loss", "--json", "mse"], ["--json", "loss", "mse"]):
        assert main(["list", *arguments]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert [each["name"] for each in found[0]] == ["mse"]
    assert found == [found[0]] * 3


def test_nothing_is_coloured_where_nobody_wants_it(tmp_path):
    environment = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR")}
    command = [sys.executable, "-m", "accelerator", "list", "loss"]

    def printed(**variables):
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, check=True, env={**environment, "TERM": "xterm", **variables}
        ).stdout

    assert b"\x1b[36m" in printed(FORCE_COLOR="1")
    assert b"\x1b[3" not in printed(FORCE_COLOR="1", NO_COLOR="1")
    assert b"\x1b" not in printed()


def test_a_reader_that_has_had_enough_is_no_fault(tmp_path):
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "accelerator", "list", "--json"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    os.read(reading, 10)
    os.close(reading)
    assert process.communicate()[1] == b""
    assert process.returncode == 0
