"""A mistake of the user: one clear message with key, value and remedy; exit 3; no traceback; nothing left behind.

Typing errors, wrong types, class paths and interpolations are in tests/faults/test_g1_g2_g3_g9_mistakes.py.
"""

import sys

import numpy as np
import pytest

from accelerator.cli.app import main

COMMON = ["train", "tracking=none", "engine.threads=1", "trainer.max_epochs=1"]
SMALL = ["data.train=32", "data.val=8", "data.test=8", "data.grid=8", "model=mlp"]

CASES = {
    "a number out of range": (["loader.batch_size=0", *SMALL], ["loader.batch_size=0", "at least 1"]),
    "no epochs": (["trainer.max_epochs=0"], ["trainer.max_epochs=0", "at least 1"]),
    "missing file": (
        ["data=arrays", "model=mlp", "data.path=tabel.csv", "data.inputs=[a]", "data.targets=b"],
        ["no file tabel.csv", "table.csv"],
    ),
    "unknown column": (
        ["data=arrays", "model=mlp", "data.path=table.csv", "data.inputs=[aa]", "data.targets=b"],
        ["'aa'", "did you mean 'a'"],
    ),
    "NaN in the data": (
        ["data=arrays", "model=mlp", "data.path=holes.csv", "data.inputs=[a]", "data.targets=b"],
        ["row 7", "'a'"],
    ),
    "model and data do not fit": (["model=cnn", "data.grid=8"], ["cnn needs images", "(32,)"]),
    "loss and data do not fit": (
        ["experiment=digits", "loss=mse"],
        ["(32, 10)", "(32,)"],
    ),
    "a sweep without -m": (["optimizer.lr=0.1,0.2"], ["optimizer.lr=0.1,0.2", "--multirun"]),
    "no such device": (["engine.device=cuda:7", *SMALL], ["engine.device=cuda:7", "engine.device=auto or cpu"]),
    "nothing to resume": (["resume=last"], ["resume=last", "no run with a checkpoint"]),
    "no such file to resume": (["resume=nowhere"], ["resume=nowhere"]),
    "a monitor nobody measures": (["checkpoint.monitor=val/los", *SMALL], ["checkpoint.monitor=val/los", "val/loss"]),
    "overrides that no shell could split": (["--overrides", "a='b"], ["--overrides", "No closing quotation"]),
    "a metric that cannot compare": (
        ["data=digits", "model=mlp", "metrics=field"],
        ["metrics.relative_l2", "metrics="],
    ),
    "a monitor that is better the higher": (
        [*SMALL, "metrics=regression", "metrics.mae=null", "checkpoint.monitor=val/r2"],
        ["checkpoint.mode=min", "set checkpoint.mode=max"],
    ),
    "an experiment that is no YAML": (["experiment=broken"], ["not valid YAML", "broken.yaml"]),
    "an experiment that names what is not there": (
        ["experiment=stray"],
        ["no 'mpl' in configs/model/", "'mlp'", "configs/experiment/stray.yaml"],
    ),
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    table = np.random.default_rng(0).normal(size=(40, 2))
    np.savetxt("table.csv", table, delimiter=",", header="a,b", comments="")
    table[6, 0] = np.nan
    np.savetxt("holes.csv", table, delimiter=",", header="a,b", comments="")
    experiments = tmp_path / "configs/experiment"
    experiments.mkdir(parents=True)
    (experiments / "broken.yaml").write_text("a:\n\t- [\n")
    (experiments / "stray.yaml").write_text("# @package _global_\ndefaults:\n  - override /model: mpl\n")
    return tmp_path


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_told_in_a_sentence(case, folder, capfd):
    arguments, fragments = CASES[case]
    code = main([*COMMON, *arguments])
    printed = capfd.readouterr().err
    assert code == 3
    assert "Traceback" not in printed
    assert "Error executing job" not in printed
    for fragment in fragments:
        assert fragment in printed
    assert not list(folder.glob("outputs/*/*")), "a run that never started left a folder"


def test_all_mistakes_are_told_together(capfd):
    arguments = ["model=mpl", "optmizer.lr=1", "trainer.max_epochs=abc", "optimizer.lrr=2"]
    assert main(["train", *arguments]) == 3
    printed = capfd.readouterr().err
    assert "4 errors" in printed
    for fragment in ("'mlp'", "optmizer.lr=1", "trainer.max_epochs=abc", "optimizer.lrr"):
        assert fragment in printed


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["model.channels=[32,", "64]"],
            "model.channels=[32, 64]: a space ends an argument; quote it: 'model.channels",
        ),
        (["--overrides", "model.channels=[32, 64]"], "quote it: 'model.channels=[32, 64]'"),
        (['vars.a="x', 'y"', "seed=1"], "quote it: 'vars.a=\"x y\"'"),
        (["vars.a='x", "y'"], "quote it: \"vars.a='x y'\""),
    ],
)
def test_a_value_that_a_shell_took_apart_is_told_with_its_quotes(words, told, capfd):
    assert main(["train", "model=cnn", *words]) == 3
    printed = capfd.readouterr().err
    assert told in printed
    assert "no viable alternative" not in printed
    assert main(["pipeline", "digits", f"train:{words[0]}" if "=" in words[0] else words[0], *words[1:]]) == 3
    assert "quote it: " in capfd.readouterr().err


def test_a_metric_of_several_numbers_is_told_at_the_first_validation(capfd):
    arguments = ["experiment=digits", "model=mlp", "metrics.accuracy.average=none", "callbacks.progress=null"]
    assert main([*COMMON, *arguments]) == 3
    assert "metrics.accuracy is of shape (10,), not one number" in (printed := capfd.readouterr().err)
    assert "Traceback" not in printed


def test_how_many_classes_there_are_is_asked_for_when_the_data_does_not_hold_them_in_memory(folder, capfd):
    (folder / "on_disk.py").write_text(
        "import torch\nfrom torch.utils.data import Dataset\n\n"
        "class Labelled(Dataset):\n"
        "    def __len__(self):\n        return 40\n\n"
        "    def __getitem__(self, i):\n        return torch.full((4,), float(i)), i % 3\n"
    )
    arguments = [
        *("model=mlp", "data=custom", "data._target_=on_disk.Labelled", "imports=[on_disk]", "transform=none"),
        *("loss=cross_entropy", "metrics.relative_l2=null"),
    ]
    assert main([*COMMON, *arguments]) == 3
    assert "model.output_shape is required by 'mlp'" in capfd.readouterr().err
    assert main([*COMMON, *arguments, "model.output_shape=[3]"]) == 0


USERS_CODE = """
import numpy as np, torch

class Two(torch.nn.Module):
    def __init__(self, output_shape):
        super().__init__()
        self.map = torch.nn.Linear(32, 64)

    def forward(self, x):
        return self.map(x), x

class Lists(torch.utils.data.Dataset):
    def __len__(self):
        return 20

    def __getitem__(self, i):
        return [1.0, 2.0], torch.ones(1)

class Doubles(Lists):
    def __getitem__(self, i):
        return np.ones(2), np.ones(1)
"""


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (
            [*SMALL[:-1], "model=custom", "model._target_=theirs.Two", "multilevel=single"],
            "Two returned a tuple; expected",
        ),
        (["model=mlp", "data=custom", "data._target_=theirs.Lists"], "holds list and Tensor; expected tensors"),
        (["model=mlp", "data=custom", "data._target_=theirs.Doubles"], "are float64, networks float32"),
    ],
)
def test_what_the_users_own_code_returns_is_looked_at_before_step_1(folder, capfd, arguments, fragment):
    (folder / "theirs.py").write_text(USERS_CODE)
    sys.modules.pop("theirs", None)
    assert main([*COMMON, "imports=[theirs]", *arguments]) == 3
    assert fragment in (printed := capfd.readouterr().err)
    assert "Traceback" not in printed


def test_debug_shows_the_traceback(capfd):
    assert main([*COMMON, "--debug", "model.hiden=[3]"]) == 3
    assert "Traceback" in capfd.readouterr().err


def test_a_fault_of_the_users_code_keeps_its_traceback(folder, capfd):
    (folder / "broken_model.py").write_text(
        "from torch import nn\n\n"
        "class Broken(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.layer = nn.Linear(32, 64)\n"
        "    def forward(self, x):\n"
        "        if self.training:\n            raise KeyError('lost')\n"
        "        return self.layer(x).reshape(-1, 1, 8, 8)\n"
    )
    code = main([*COMMON, *SMALL[:-1], "model=custom", "imports=[broken_model]", "model._target_=broken_model.Broken"])
    assert code == 1
    assert "KeyError: 'lost'" in capfd.readouterr().err
    (run,) = folder.glob("outputs/*/*")
    assert "KeyError: 'lost'" in (run / "error.txt").read_text()


def test_a_run_directory_in_use_is_refused_by_the_name_of_its_owner(folder, capfd):
    import os

    from accelerator.runtime.run_directory import owned

    with owned(folder / "mine"):
        assert main([*COMMON, *SMALL, "hydra.run.dir=mine"]) == 3
    assert f"process {os.getpid()}" in capfd.readouterr().err


def test_a_run_directory_that_holds_a_run_is_not_overwritten(folder, capfd):
    assert main([*COMMON, *SMALL, "hydra.run.dir=mine"]) == 0
    before = sorted(path.name for path in (folder / "mine/checkpoints").iterdir())
    assert main([*COMMON, *SMALL, "hydra.run.dir=mine"]) == 3
    assert "holds an earlier run" in capfd.readouterr().err
    assert sorted(path.name for path in (folder / "mine/checkpoints").iterdir()) == before
