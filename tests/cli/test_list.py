"""``accelerator list``: what can be named, what it takes, where it lives; nothing is imported."""

import json
import subprocess
import sys

import pytest

from accelerator.cli.app import main
from accelerator.cli.project.kinds import KINDS
from accelerator.cli.project.list_command import kinds, listed
from accelerator.utilities.base_registry import registries


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_registered_component_of_every_kind_is_listed(folder):
    for kind, registry in registries.__wrapped__().items():  # without what other tests have registered
        paths = {path for each in listed(kind) for path in each.components.values()}
        names = {each.name for each in listed(kind)}
        for name in registry.names():
            assert name in names or registry.path(name) in paths, (kind, name)


def test_every_kind_has_something_with_a_command_to_use_it(folder):
    assert set(kinds()) >= {*KINDS, "pipeline", "tune", "experiment"}
    for each in listed():
        assert each.name in each.use, each
        assert each.use.startswith("accelerator ")


def test_what_is_printed_of_one(folder, capsys):
    assert main(["list", "loss", "huber"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "huber  Huber's loss, mean over all entries of r²/2 where |r| ≤ δ and δ(|r| − δ/2) beyond, with r = p − t",
        "  domain.cross.loss.regression:huber",
        "  packaged: configs/training_components/loss/huber.yaml",
        "",
        "argument  value  type   what it is for",
        "delta     1.0    float  δ > 0, where the square turns into a line; in the target's unit",
        "",
        "next: accelerator train loss=huber",
    ]


def test_what_is_printed_of_a_kind(folder, capsys):
    assert main(["list", "losses"]) == 0
    lines = capsys.readouterr().out.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("huber"))
    assert lines[at + 1].strip() == (
        "domain.cross.loss.regression:huber · packaged · configs/training_components/loss/huber.yaml"
    )
    assert lines[at + 2].strip() == "delta: float = 1.0"


def test_arguments_that_the_file_leaves_out_are_listed_with_their_defaults(folder, capsys):
    assert main(["list", "optimizer", "adam", "--json"]) == 0
    (adam,) = json.loads(capsys.readouterr().out)
    values = {each["name"]: (each["value"], each["type"]) for each in adam["parameters"]}
    assert values["lr"] == ("1e-3", "float | Tensor")
    assert values["fused"] == ("true", "bool | None")  # the file's
    assert values["amsgrad"] == ("false", "bool")  # the class's own
    assert "params" not in values
    assert adam["components"] == {"": "torch.optim.adam:Adam"}
    assert adam["source"] == "packaged"


def test_what_is_named_inside_a_section_is_listed_with_the_way_to_name_it(folder):
    stopping = next(each for each in listed("callback") if each.name == "early_stopping")
    assert stopping.use == "accelerator train callbacks.early_stopping.name=early_stopping"
    assert stopping.file is None
    assert stopping.parameters["patience"].value == "10"


def test_a_project_is_listed_before_what_it_replaces(folder, capsys):
    own = folder / "configs/training_components/loss"
    own.mkdir(parents=True)
    (own / "huber.yaml").write_text("# @package loss\n# Ours.\nname: huber\ndelta: 0.5\n")
    (folder / "configs/project").mkdir()
    (folder / "configs/project/default.yaml").write_text("# @package _global_\nimports: [mine]\n")
    (folder / "mine.py").write_text(
        "from accelerator import register\n\n\n@register('loss', 'cubic')\n"
        "def cubic(prediction, target, weight: float = 2.0):\n    '''A cube.'''\n    raise SystemExit('imported')\n"
    )
    found = {each.name: each for each in listed("loss")}
    assert (found["huber"].summary, found["huber"].source) == ("Ours.", "project")
    assert found["huber"].parameters["delta"].value == "0.5"
    assert (found["cubic"].summary, found["cubic"].source) == ("A cube", "project")
    assert found["cubic"].parameters["weight"] == ("2.0", "float", "")
    assert main(["list"]) == 0
    printed = capsys.readouterr().out
    assert "huber*" in printed
    assert "* of this project" in printed


@pytest.mark.filterwarnings("default:.*not valid Python")
def test_a_module_that_cannot_be_read_keeps_nothing_else_from_being_listed(folder, capsys):
    (folder / "configs/project").mkdir(parents=True)
    (folder / "configs/project/default.yaml").write_text("# @package _global_\nimports: [mine]\n")
    (folder / "mine.py").write_text("def f(:\n")
    assert main(["list", "loss", "mse"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("mse  Mean squared error")
    assert printed.err == f"warning: {folder}/mine.py, line 1: not valid Python: invalid syntax\n"


def test_listing_imports_neither_torch_nor_hydra(folder):
    code = (
        "import sys\nfrom accelerator.cli.app import main\nmain(['list', 'model'])\n"
        "print(sorted({'torch', 'hydra', 'omegaconf', 'mlflow', 'numpy'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
