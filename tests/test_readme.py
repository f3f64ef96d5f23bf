"""Every command of the README, docs/multilevel.md and docs/configuration.md runs as it stands there, on less data.

docs/tutorial.md is one session: its commands run in order, and print what the page says.
"""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

from accelerator.cli.app import main

ROOT = Path(__file__).parents[1]
NAMES = ("README.md", "docs/multilevel.md", "docs/configuration.md")
PAGES = "\n".join((ROOT / name).read_text() for name in NAMES)
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", PAGES, re.DOTALL)
COMMANDS = list(
    dict.fromkeys(
        line.split("  #")[0].strip()
        for language, block in BLOCKS
        if not language
        for line in block.splitlines()
        if line.startswith("accelerator train")
    )
)
SMALL = ["data.train=64", "data.val=16", "data.test=16", "data.grid=8"]


def less(command):
    """What makes a command quick, without changing what it shows."""
    quick = ["engine.threads=1", "tracking=none", "trainer.max_epochs=1"]
    if "experiment=text" in command:
        return [*quick, "data.characters=4000", "data.length=16", "model.blocks=2"]
    if "experiment=poisson_fno" in command:
        return [*quick, *SMALL[:3], "data.grid=16", "model.modes=8", "model.width=4"]
    if "multilevel=v_cycle" in command:
        return [*quick[:2], *SMALL, "trainer.max_epochs=120", "model.hidden=[64,64]"]
    return quick if "data=" in command or "experiment=" in command else quick + SMALL


def write(name, text):
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text)


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """The files the README tells the reader to write, and those it takes for granted."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    table = np.random.default_rng(0).normal(size=(60, 3))
    np.savetxt("table.csv", table, delimiter=",", header="a,b,y", comments="")
    for language, block in BLOCKS:
        name = re.search(r"^# (\S+\.(?:py|yaml))", block, re.MULTILINE)
        if language in ("python", "yaml") and name:
            write(name.group(1), block)
    write(
        "my_models.py",
        "from math import prod\nfrom torch import nn\n\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, input_shape, output_shape):\n"
        "        super().__init__()\n"
        "        self.map, self.shape = nn.Linear(prod(input_shape), prod(output_shape)), output_shape\n\n"
        "    def forward(self, x):\n"
        "        return self.map(x.flatten(1)).reshape(-1, *self.shape)\n",
    )


def test_there_are_commands_to_run():
    assert len(COMMANDS) >= 10


@pytest.mark.parametrize("command", [c for c in COMMANDS if "resume=" not in c and "load=" not in c])
def test_the_command_does_what_the_readme_says(command, capfd):
    arguments = shlex.split(command)[1:]
    looks = {"--help", "--explain", "--dry-run", "--cfg"} & set(arguments)
    code = main([*arguments, *([] if "--help" in looks else less(command))])
    printed = capfd.readouterr()
    if "mpl" in command:
        assert code == 3
        told = [line.strip() for _, block in BLOCKS if "2 errors:" in block for line in block.splitlines()[2:]]
        assert len(told) == 2
        for line in told:
            assert line in printed.err
        return
    assert code == 0, printed.err
    if not looks:
        jobs = 2 if "-m" in arguments else 1
        assert printed.out.count("test/loss") == jobs


def test_resume_goes_on_with_the_last_run(capfd):
    (command,) = (c for c in COMMANDS if "resume=" in c)
    assert main(["train", "model=mlp", *less("")]) == 0
    capfd.readouterr()
    assert main(shlex.split(command)[1:]) == 0
    assert "resumed after step 2" in capfd.readouterr().out
    (command,) = (c for c in COMMANDS if "load=" in c)
    assert main([*shlex.split(command)[1:], "trainer.max_epochs=1"]) == 0
    assert "begins with" in capfd.readouterr().out


def test_the_experiment_the_readme_writes_is_found(capfd):
    assert main(["train", "experiment=mine", "--dry-run", *less("")]) == 0
    assert main(["train", "experiment=mine", "--cfg", "job", "-p", "optimizer"]) == 0
    assert "lr: 0.003" in capfd.readouterr().out


def test_python_does_what_the_readme_says():
    (block,) = (block for _, block in BLOCKS if "accelerator.train(" in block)
    names = {}
    exec(re.sub(r'"\]\)', '", *less])', block), {"less": less("")}, names)
    assert names["result"].metrics["test/loss"] > 0
    assert names["model"](torch.zeros(5, 32)).shape == (5, 1, 8, 8)


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_the_program_of_the_multilevel_page_runs():
    (block,) = (block for language, block in BLOCKS if language == "python" and "CascadeTrainer" in block)
    names = {}
    exec(block, names)
    assert names["trainer"].is_at_finest
    assert names["trainer"].steps == [25, 25, 50]
