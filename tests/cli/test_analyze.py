"""``accelerator analyze-data`` and ``analyze-model``, as a user meets them."""

import json
import shlex
import subprocess
import sys

import numpy as np
import pandas
import pytest
from mlflow.tracking import MlflowClient

from accelerator.cli.app import main

QUIET = ["tracking=none", "engine.threads=1"]
TRAINED = [
    "model=mlp",
    "model.hidden=[8]",
    "trainer.max_epochs=8",
    "callbacks.progress=null",
    "callbacks.pictures=null",
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def analysis(folder):
    (path,) = folder.glob("outputs/*/*/analysis.json")
    return json.loads(path.read_text())


def table(folder, rows=300):
    generator = np.random.default_rng(0)
    values = pandas.DataFrame(generator.normal(size=(rows, 3)) * [1, 100, 1], columns=["a", "b", "y"])
    values.loc[3, "a"] = np.nan
    values["label"] = (generator.random(rows) < 0.05).astype(int)
    values.to_csv(folder / "table.csv", index=False)
    return ["data=arrays", "data.path=table.csv", "data.inputs=[a,b]"]


def test_data_leaves_a_page_json_pictures_and_a_record(folder, capsys):
    typed = [*table(folder), "data.targets=y", "engine.threads=1"]
    assert main(["analyze-data", *typed, "tracking.experiment=tests"]) == 0
    printed = capsys.readouterr().out
    assert "hold 1 NaN in 1 sample (a; sample " in printed
    start = next(line for line in printed.splitlines() if line.startswith("start with"))
    assert shlex.split(start)[2:] == ["accelerator", "train", *typed, "model=mlp", "data.missing=drop"]
    found = analysis(folder)
    assert [each["severity"] for each in found["findings"]] == ["error", "note"]
    (run_dir,) = folder.glob("outputs/*/*")
    assert "hold 1 NaN in 1 sample" in (run_dir / "analysis.html").read_text()
    assert json.loads((run_dir / "result.json").read_text())["metrics"]["data/non_finite_samples"] == 1

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("tests").experiment_id])
    assert run.data.tags["kind"] == "analyze-data"
    assert run.data.metrics["data/train/samples"] == 210
    assert run.data.metrics["analysis/errors"] == 1
    names = {each.path for each in client.list_artifacts(run.info.run_id)}
    assert {"analysis.json", "analysis.html", "pictures"} <= names
    pictures = {each.path for each in client.list_artifacts(run.info.run_id, "pictures")}
    assert pictures == {"pictures/inputs_histograms.png", "pictures/targets_histograms.png"}


FIELDS = ["data=poisson", "data.inputs=field", "data.grid=8"]


@pytest.mark.parametrize(
    "typed",
    [
        ["data=digits"],
        pytest.param(["data=text", "data.characters=3000", "data.length=16"], marks=pytest.mark.slow),
        pytest.param([*FIELDS, "data.train=40", "data.val=16", "data.test=16"], marks=pytest.mark.slow),
        ["data.targets=y"],
        ["data.targets=label"],
    ],
)
def test_a_training_with_what_is_suggested_runs(folder, typed, capsys):
    if typed[0].startswith("data.targets"):
        typed = [*table(folder), *typed]
    assert main(["analyze-data", *typed, *QUIET, "analysis.json=true"]) == 0
    suggested = json.loads(capsys.readouterr().out)["suggestion"]
    assert suggested
    assert main(["train", *typed, *QUIET, *suggested, "--dry-run"]) == 0
    if "data.targets=label" in typed:
        assert {"loss=cross_entropy", "metrics=classification", "transform=normalize_input"} < set(suggested)
        assert any(each.startswith("loss.class_weights=[") for each in suggested)


def test_json_is_alone_on_stdout(folder, capsys):
    assert main(["analyze-data", "data=digits", *QUIET, "analysis.json=true", "analysis.samples=96"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == analysis(folder)
    assert "run directory" in printed.err
    assert analysis(folder)["splits"]["train"] == {"samples": 1257, "looked_at": 96}


def test_rows_of_a_file_on_disk_are_told_as_the_file_has_them(folder, capsys):
    values = np.random.default_rng(0).normal(size=(200, 9)).astype(np.float32)
    values[123, 4] = np.inf
    values[77] = values[150]
    np.save(folder / "table.npy", values)
    typed = ["data=arrays", "data.path=table.npy", 'data.inputs=":-1"', "data.targets=-1"]
    assert main(["analyze-data", *typed, *QUIET]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "hold 1 infinite value in 1 sample (column 4; row 123): training refuses them data.missing=drop" in printed
    assert analysis(folder)["rows"] == "of the file"
    duplicates = analysis(folder)["duplicates"]
    assert sum(duplicates["copies"].values()) + sum(duplicates["leaks"].values()) == 1
    assert "77" in printed
    assert "150" in printed


def test_a_model_is_told_layer_by_layer(folder, capsys):
    assert main(["analyze-model", "model=cnn", "model.channels=[4,8]", "data=digits", *QUIET]) == 0
    printed = capsys.readouterr().out
    assert "Model: cnn on digits" in printed
    assert "accelerator train" not in printed
    found = analysis(folder)
    layers = {each["path"]: each for each in found["layers"]}
    assert layers["blocks.0"]["parameters"] == 4 * 9
    assert layers["blocks.3"]["flops_forward"] == 2 * 32 * 16 * 4 * 8 * 9
    assert found["parameters"] == 36 + 8 + 4 * 8 * 9 + 16 + 8 * 10 + 10
    assert found["receptive_field"]["points"] == [5, 5]
    # Adam: two numbers for each parameter, and a count of steps for each of the 8 tensors.
    assert found["memory"]["optimizer"] == 2 * 4 * found["parameters"] + 8 * 4
    assert [units["layers"] for units in found["coarsening"]["groups"]] == [["blocks.0"], ["blocks.3"], ["head"]]
    (page,) = folder.glob("outputs/*/*/analysis.html")
    assert "Smaller networks that can be made of it" in page.read_text()


def test_the_configs_own_multilevel_method_is_tried(folder, capsys):
    small = ["model=mlp", "model.hidden=[64,64]", "data=digits", "analysis.rounds=0", *QUIET]
    assert main(["analyze-model", *small, "multilevel=cascade", "multilevel.levels=2"]) == 0
    levels = analysis(folder)["levels"]
    assert [each["parameters"] for each in levels] == [4160 + 4160 + 650, 65 * 32 + 33 * 32 + 33 * 10]
    printed = capsys.readouterr().out
    assert "Levels of multilevel=cascade" in printed
    assert "forward, µs" not in printed
    assert main(["analyze-model", *small, "multilevel=cascade", "multilevel.axes=[depth]"]) == 0
    assert "error   multilevel=cascade cannot be used with this network: depth: no stack" in capsys.readouterr().out


def test_a_trained_network_is_looked_at_with_load(folder, capsys):
    assert main(["train", *TRAINED, "data=digits", *QUIET]) == 0
    assert main(["analyze-model", "load=last", "analysis.rounds=0", *QUIET]) == 0
    (path,) = folder.glob("outputs/*/*/analysis.json")
    values = json.loads(path.read_text())
    assert values["parameters"] == 64 * 8 + 8 + 80 + 10
    assert values["gradients"]["loss"] < 2.0  # of a fresh one about log 10 = 2.303


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["analyze-data", "data=arrays", "data.path=gone.csv", "data.inputs=a", "data.targets=y"], "there is no file"),
        (["analyze-data", "data=arrays", "data.path=words.csv", "data.inputs=a", "data.targets=y"], "is not numeric"),
        (["analyze-data", "data=custom", "imports=[mine]", "data._target_=mine.empty"], "the train split is empty"),
        (["analyze-data", "data=custom", "imports=[mine]", "data._target_=mine.uneven"], "3 inputs but 2 targets"),
        (["analyze-data", "data=digits", "analysis.samples=0"], "analysis.samples=0: expected at least 1"),
        (["analyze-data", "data=digits", "analysis.sample=3"], "sample"),
        (["analyze-model", "data=poisson", "model=cnn", "data.train=16", "data.grid=8"], "cnn needs images"),
        (["analyze-model", "data=digits", "model=mlp", "loss=mse"], "the loss cannot compare them"),
        (["analyze-model", "load=gone", "data=digits"], "load=gone"),
    ],
)
def test_mistakes_are_told_as_training_tells_them_and_leave_no_folder(folder, arguments, told, capsys, monkeypatch):
    (folder / "words.csv").write_text("a,y\nred,1\nblue,2\n")
    (folder / "mine.py").write_text(
        "import torch\n"
        "def empty():\n    return {'train': (torch.zeros(0, 2), torch.zeros(0, 1))}\n"
        "def uneven():\n    return {'train': (torch.zeros(3, 2), torch.zeros(2, 1))}\n"
    )
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    assert main([*arguments, *QUIET]) == 3
    printed = capsys.readouterr().err
    assert told in printed
    assert "Traceback" not in printed
    assert not list(folder.glob("outputs/*/*"))


@pytest.mark.parametrize("command", ["analyze-data", "analyze-model"])
def test_help_answers_without_torch_or_hydra(command):
    code = (
        f"import sys\nfrom accelerator.cli.app import main\nmain([{command!r}, '--help'])\n"
        "print({'torch', 'hydra', 'omegaconf', 'yaml', 'mlflow', 'rich', 'numpy'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"usage: accelerator {command} " in done.stdout
    assert done.stdout.splitlines()[-1] == "set()"


@pytest.mark.slow
def test_a_file_larger_than_what_may_be_resident_is_read_in_pieces(tmp_path):
    rows, width = 400_000, 1025  # 1.64 GB
    table = np.lib.format.open_memmap(tmp_path / "t.npy", "w+", np.float32, (rows, width))
    some = np.random.default_rng(0).normal(size=(4000, width)).astype(np.float32)
    for begin in range(0, rows, len(some)):
        some[:, 0] = np.arange(begin, begin + len(some))
        table[begin : begin + len(some)] = some
    table[rows - 1] = table[5]
    table.flush()
    del table
    code = (
        "import re, sys\nfrom accelerator.cli.app import main\n"
        "code = main(sys.argv[1:])\n"
        # Not ru_maxrss: it begins with that of the process that started this one.
        "print('peak', re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1] + '000')\n"
        "sys.exit(code)\n"
    )
    arguments = ["analyze-data", "data=arrays", "data.path=t.npy", 'data.inputs=":-1"', "data.targets=-1", *QUIET]
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert int(done.stdout.split("peak ")[-1]) < 1e9
    assert str(rows - 1) in done.stdout
