"""``accelerator checkpoint``: what it prints, what it writes, and what it refuses, as a user meets it."""

import glob
import hashlib
import json
import pickle
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import accelerator
from accelerator.cli.app import main
from accelerator.errors import CheckpointError
from accelerator.runtime.checkpoint.operation import decode, encode
from accelerator.tracking import spool
from accelerator.utilities.base_registry import registry

DATA = {"train": 64, "val": 16, "test": 16, "grid": 8}
TRAIN = [
    *["train", "tracking=none", "engine.threads=1", "callbacks.progress=null", "callbacks.pictures=null"],
    *[f"data.{name}={value}" for name, value in DATA.items()],
    *["model=mlp", "model.hidden=[8]", "trainer.max_epochs=3", "checkpoint.keep=9"],
]
ID = "0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with checkpoints after steps 2, 4 and 6."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(TRAIN) == 0
    return folder


@pytest.fixture
def run(finished, tmp_path, monkeypatch):
    """A copy of it below the working directory."""
    shutil.copytree(finished / "outputs", tmp_path / "outputs")
    monkeypatch.chdir(tmp_path)
    (run_dir,) = Path().glob("outputs/*/*")
    return run_dir


def files(run):
    return sorted((run / "checkpoints").glob("*.safetensors"))


def checkpoint(*arguments):
    return main(["checkpoint", *map(str, arguments)])


def refused(capsys, *arguments):
    """What a command that must be refused says, in one sentence."""
    assert checkpoint(*arguments) == 3
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    return printed


def inputs():
    return registry("data").get("poisson")(**DATA)["test"][0]


@pytest.mark.parametrize("arguments", [["--help"], [], ["export", "--help"], ["lst"]])
def test_help_and_typing_errors_answer_without_torch(arguments):
    code = (
        f"import sys\nfrom accelerator.cli.app import main\nmain(['checkpoint', *{arguments!r}])\n"
        "print({'torch', 'hydra', 'omegaconf', 'yaml', 'mlflow'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
    assert "export" in done.stdout or "did you mean 'list'?" in done.stderr


def test_list_marks_the_best_and_the_last_and_gives_the_run_id(run, capsys):
    spool.save(run / spool.STATE, spool.State(run_id=ID))
    assert checkpoint("list", "--json") == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert (listed["run"], listed["run_id"], listed["monitor"]) == (str(run.absolute()), ID, "val/loss")
    rows = listed["checkpoints"]
    assert [row["step"] for row in rows] == [2, 4, 6]
    assert [row["last"] for row in rows] == [False, False, True]
    (best,) = (row for row in rows if row["best"])
    assert best["metrics"]["val/loss"] == min(row["metrics"]["val/loss"] for row in rows)
    assert checkpoint("list", ID[:6]) == 0
    assert ID in (printed := capsys.readouterr().out)
    assert "best last" in next(line for line in printed.splitlines() if "step-00000006.safetensors" in line)


def test_list_names_what_is_damaged_unfinished_or_missing(run, capsys):
    first, second, third = files(run)
    first.write_bytes(first.read_bytes()[:-100])
    second.with_suffix(".json").unlink()
    third.unlink()
    (run / "checkpoints" / ".step-00000008.safetensors.1.tmp").touch()
    assert checkpoint("list", run) == 0
    printed = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()[2:]}
    size = first.stat().st_size
    assert f"damaged: {size:,} of {size + 100:,} bytes" in printed[first.name]
    assert "unfinished" in printed[second.name]
    assert "the tensors are missing" in printed[third.name]
    assert "unfinished" in printed[".step-00000008.safetensors.1.tmp"]


def test_list_finds_every_run_below_a_folder(run, capsys):
    shutil.copytree(run, run.with_name("another"))
    assert checkpoint("list", "outputs", "--json") == 0
    assert {Path(row["run"]).name for row in json.loads(capsys.readouterr().out)} == {run.name, "another"}


def test_show_tells_the_facts_and_the_tensors_by_part(run, capsys):
    assert checkpoint("show", files(run)[0], "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["step"], shown["level"], shown["bytes"]) == (2, 0, files(run)[0].stat().st_size)
    model = {row["name"]: row for row in shown["tensors"] if row["part"] == "model"}
    assert model["model/layers.0.weight"]["shape"] == [8, 32]
    assert sum(row["values"] for row in model.values()) == 32 * 8 + 8 + 8 * 64 + 64
    assert sum(row["bytes"] for row in model.values()) == 4 * (32 * 8 + 8 + 8 * 64 + 64)
    assert checkpoint("show", "last") == 0
    printed = capsys.readouterr().out
    assert f"fingerprint {shown['fingerprint'][:12]}" in printed
    assert any(line.split()[:3] == ["model", "4", "840"] for line in printed.splitlines())
    assert checkpoint("show", "last", "--tensors") == 0
    assert "model/layers.0.weight" in capsys.readouterr().out


def test_verify_passes_what_is_whole_and_names_every_bad_one(run, capsys):
    assert checkpoint("verify") == 0
    assert capsys.readouterr().out.count("whole") == 3
    first, second, third = files(run)
    for path in (first, third):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    second.with_suffix(".json").unlink()
    assert checkpoint("verify", "outputs") == 3
    printed = capsys.readouterr()
    damaged = [line for line in printed.out.splitlines() if line.startswith("damaged")]
    assert [path.name in line for path, line in zip((first, third), damaged, strict=True)] == [True, True]
    assert "2 of 2 checkpoints cannot be used" in printed.err
    assert "unfinished" in printed.out


def test_verify_looks_behind_the_checksum(run, capsys):
    path = files(run)[0]
    state = decode(path)
    del state["optimizer"]
    path.write_bytes(data := encode(state))
    meta = json.loads(path.with_suffix(".json").read_text())
    meta |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    path.with_suffix(".json").write_text(json.dumps(meta))
    assert checkpoint("verify", path) == 3
    assert "lacks optimizer" in capsys.readouterr().out


def test_convert_writes_plain_weights_that_others_read(run):
    weights = decode(files(run)[-1])["model"]
    assert checkpoint("convert", files(run)[-1], "w.safetensors", "--weights") == 0
    assert checkpoint("convert", files(run)[-1], "w.pt", "--to", "torch") == 0
    for found in (load_file("w.safetensors"), torch.load("w.pt", weights_only=True)):
        assert found.keys() == weights.keys()
        assert all(torch.equal(tensor, weights[name]) for name, tensor in found.items())


def test_a_converted_checkpoint_is_whole_and_stands_alone(run, capsys):
    expected = accelerator.load_model(run)(inputs())
    assert checkpoint("convert", "best", "lone.safetensors") == 0
    shutil.rmtree("outputs")
    assert checkpoint("verify", "lone.safetensors") == 0
    assert torch.equal(accelerator.load_model("lone.safetensors")(inputs()), expected)


def test_average_is_the_mean_of_the_networks(run):
    first, second, _ = files(run)
    assert checkpoint("average", first, second, "--weights", "3,1", "-o", "soup.safetensors") == 0
    left, right, mean = (decode(path)["model"] for path in (first, second, Path("soup.safetensors")))
    for name, tensor in mean.items():
        torch.testing.assert_close(tensor, 0.75 * left[name] + 0.25 * right[name])
    model = accelerator.load_model("soup.safetensors")
    assert torch.equal(model.network.state_dict()["layers.0.weight"], mean["layers.0.weight"])


def test_a_run_goes_on_from_an_average_with_the_config_of_the_run_it_lies_in(run, capsys):
    first, second, _ = files(run)
    assert checkpoint("average", first, second, "-o", run / "made" / "soup.safetensors") == 0
    assert main(["train", f"resume={run}/made/soup.safetensors", "trainer.max_epochs=4"]) == 0
    (new,) = set(run.parent.iterdir()) - {run}
    assert json.loads((new / "result.json").read_text())["steps"] == 8


def test_averages_of_other_networks_are_refused(run, capsys):
    assert main([*TRAIN, "model.hidden=[4]", "hydra.run.dir=other"]) == 0
    told = refused(capsys, "average", files(run)[0], files(Path("other"))[0], "-o", "soup.safetensors")
    assert "another model=" in told
    assert not Path("soup.safetensors").exists()


def test_a_coarse_levels_checkpoint_has_no_finished_network_to_take(run, capsys):
    coarse = Path(__file__).parents[1] / "fixtures/schema_1/cascade/checkpoints/step-00000009.safetensors"
    for arguments in (
        ["convert", coarse, "w.safetensors", "--weights"],
        ["average", coarse, coarse, "-o", "soup.safetensors"],
        ["export", coarse, "-o", "m.safetensors"],
    ):
        assert "while level 1 was trained" in refused(capsys, *arguments)


@pytest.mark.parametrize("kind", ["safetensors", "torch", "onnx"])
def test_export_takes_raw_inputs_and_gives_what_the_run_measured(run, capsys, kind):
    runtime = pytest.importorskip("onnxruntime") if kind == "onnx" else None
    assert checkpoint("export", run, "-o", "model", "--format", kind) == 0
    assert "largest difference from the original" in capsys.readouterr().out
    expected = accelerator.load_model(run)(inputs())
    shutil.rmtree("outputs")
    if kind == "safetensors":
        found = accelerator.load_model("model")(inputs())
    elif kind == "torch":
        Path("model").rename("model.pt2")  # what torch.export.load expects
        found = torch.export.load("model.pt2").module()(inputs())
    else:
        found = torch.from_numpy(runtime.InferenceSession("model").run(None, {"inputs": inputs().numpy()})[0])
    torch.testing.assert_close(found, expected)


def test_nothing_is_overwritten_without_force(run, capsys):
    for arguments in (
        ["convert", "best", "there.safetensors"],
        ["average", *files(run), "-o", "there.safetensors"],
        ["export", "best", "-o", "there.safetensors"],
    ):
        Path("there.safetensors").write_text("mine")
        assert "--force" in refused(capsys, *arguments)
        assert Path("there.safetensors").read_text() == "mine"
        assert checkpoint(*arguments, "--force") == 0
        assert Path("there.safetensors").stat().st_size > 100
        Path("there.json").unlink(missing_ok=True)
    Path("other.json").write_text("mine")
    assert "other.json exists" in refused(capsys, "convert", "best", "other.safetensors")


def test_nothing_is_written_among_a_runs_own_checkpoints(run, capsys):
    told = refused(capsys, "average", *files(run), "-o", run / "checkpoints" / "soup.safetensors")
    assert f"{run}/made/soup.safetensors" in told
    assert len(files(run)) == 3


class Hostile:
    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


def test_a_pickle_is_not_opened(run, capsys):
    Path("evil.pt").write_bytes(pickle.dumps({"weight": Hostile()}))
    Path("evil.safetensors").write_bytes(pickle.dumps({"weight": Hostile()}))
    for name in ("evil.pt", "evil.safetensors"):
        for arguments in (["convert", name, "w.safetensors"], ["show", name], ["export", name, "-o", "m"]):
            assert "is not a checkpoint of this platform" in refused(capsys, *arguments)
        assert checkpoint("verify", name) == 3
    assert not Path("executed").exists()


@pytest.mark.parametrize("making", [["convert"], ["export", "-o"]], ids=["checkpoint", "exported"])
def test_a_lone_file_imports_nothing_by_itself(run, monkeypatch, making):
    Path("theirs.py").write_text("open('imported', 'w').close()")
    monkeypatch.syspath_prepend(Path.cwd())
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("imports: []", "imports: [theirs]"))
    action, *flags = making
    assert checkpoint(action, run, *flags, "lone.safetensors") == 0
    sys.modules.pop("theirs", None)
    Path("imported").unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match="theirs; if you trust them"):
        accelerator.load_model("lone.safetensors")
    assert not Path("imported").exists()
    accelerator.load_model("lone.safetensors", imports=["theirs"])
    assert Path("imported").exists()
    sys.modules.pop("theirs", None)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["lst"], "there is no action 'lst' — did you mean 'list'?"),
        (["list", "nowhere"], "nowhere: no such file or folder"),
        (["show"], "the following arguments are required: FILE|RUN"),
        (["export", "last", "-o", "m", "--format", "tflite"], "invalid choice: 'tflite'"),
        (["convert", "last", "checkpoint.pt"], "a checkpoint's name ends in .safetensors"),
        (["convert", "last", "no/such/folder/w.safetensors"], "there is no folder no/such"),
        (["average", "a.safetensors", "-o", "b.safetensors"], "two checkpoints or more"),
        (["average", "a.safetensors", "a.safetensors", "-o", "b.safetensors"], "a.safetensors: no such file"),
        (["average", "a", "b", "--weights", "1,x", "-o", "b.safetensors"], "--weights 1,x: expected a number"),
    ],
)
def test_mistakes_are_told_in_a_sentence(run, capsys, arguments, told):
    assert told in refused(capsys, *arguments)


def test_completion_knows_the_actions(monkeypatch, capsys):
    def complete(line):
        monkeypatch.setenv("COMP_LINE", line)
        assert main(["-sc", "query=bash"]) == 0
        return capsys.readouterr().out.split()

    assert complete("accelerator ch") == ["checkpoint"]
    assert complete("accelerator checkpoint ") == ["list", "show", "verify", "convert", "average", "export"]
    assert complete("accelerator checkpoint ex") == ["export"]


def test_every_command_of_the_page_works_in_its_order(tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text()
    blocks = re.findall(r"```(\w*)\n(.*?)```", page, re.DOTALL)
    lines = [line for language, block in blocks if not language for line in block.splitlines()]
    commands = [line for line in lines if line.startswith("accelerator ")]
    assert len(commands) >= 12
    quick = ["model=mlp", "model.hidden=[8]", "tracking=none", "callbacks.pictures=null", "callbacks.progress=null"]
    for command in commands:
        _, *words = shlex.split(command)
        words = [word for pattern in words for word in (sorted(glob.glob(pattern)) if "*" in pattern else [pattern])]
        assert main([*words, *(quick if words[0] == "train" else [])]) == 0, capsys.readouterr().err
