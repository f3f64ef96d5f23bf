"""YAML that reads otherwise than it is meant is refused with file, line and reason, before anything is made of it."""

import pytest

from accelerator.cli.app import main

TRAPS = {
    "octal": ("name: mlp\nhidden: [012]\n", "line 2: YAML reads 012 as 10, an octal number"),
    "no": ("name: mlp\nlayer_norm: NO\n", "line 2: YAML reads NO as false"),
    "time": ("name: mlp\ndropout: 12:30:45\n", "line 2: YAML reads 12:30:45 as a number to the base of 60"),
    "twice": ("name: mlp\nhidden: [3]\nhidden: [4]\n", "line 3: the key 'hidden' stands in line 2 already"),
    "binary": ("name: mlp\nactivation: !!binary aGVsbG8=\n", "line 2: !!binary: a config holds no binary data"),
    "bytes": ("name: mlp\0\n", "holds binary data: no config file"),
    "empty": ("", "line 1: the file is empty"),
}


@pytest.mark.parametrize("where", ["model=bad", "experiment=bad", "-cd"])
@pytest.mark.parametrize("trap", TRAPS)
def test_g4_a_trap_is_refused_with_its_reason(workplace, capsys, trap, where):
    text, said = TRAPS[trap]
    folder = workplace / ("more/model" if where == "-cd" else "configs/model")
    folder.mkdir(parents=True)
    (folder / "bad.yaml").write_bytes(text.encode())
    if where == "experiment=bad":
        (workplace / "configs/experiment").mkdir()
        (workplace / "configs/experiment/bad.yaml").write_text(
            "# @package _global_\ndefaults:\n  - override /model: bad\n"
        )
    arguments = ["-cd", "more", "model=bad"] if where == "-cd" else [where]
    assert main(["train", *arguments]) == 3
    printed = capsys.readouterr().err
    assert f"model/bad.yaml, {said}" in printed or f"model/bad.yaml {said}" in printed
    assert "Traceback" not in printed
    assert not (workplace / "outputs").exists()


@pytest.mark.parametrize("command", [["train", "--explain"], ["train", "--dry-run"], ["train", "-m"], ["status"]])
def test_g4_every_way_to_look_at_a_config_refuses_it(workplace, capsys, command):
    (workplace / "configs/model").mkdir(parents=True)
    (workplace / "configs/model/mlp.yaml").write_text("name: mlp\nhidden: [012]\n")
    arguments = [] if command == ["status"] else ["model=mlp,cnn" if "-m" in command else "model=mlp"]
    assert main([*command, *arguments]) == 3
    printed = capsys.readouterr()
    assert "YAML reads 012 as 10, an octal number" in printed.out + printed.err
