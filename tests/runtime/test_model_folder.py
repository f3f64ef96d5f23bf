"""The model folder: what a run leaves of its network is that network, whole, or it is refused."""

import json
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from toy_problem import plane

import accelerator
from accelerator.errors import CheckpointError, ConfigError
from accelerator.runtime import export
from accelerator.runtime.model_folder import write_final_model, write_model
from accelerator.runtime.model_manifest import check_formats, read_manifest, verify
from accelerator.runtime.trained import load_model

PLANE = [
    *("imports=[toy_problem]", "data=custom", "data._target_=toy_problem.plane", "model=mlp", "model.hidden=[4]"),
    *("multilevel=single", "transform=normalize", "~metrics.relative_l2", "engine.threads=1", "loader.batch_size=8"),
    *("trainer.max_epochs=2", "~callbacks.progress", "~callbacks.pictures", "tracking=none"),
]
INPUTS = plane()["test"][0]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "run"
    accelerator.train([*PLANE, f"hydra.run.dir={run_dir}"])
    return run_dir


@pytest.fixture(scope="module")
def written(run):
    return write_model(run, run / "model", ["safetensors", "pt2", "pickle"], metrics={"test/loss": 0.25})


@pytest.fixture
def folder(run, written, tmp_path):
    """A copy to spoil."""
    return Path(shutil.copytree(run / "model", tmp_path / "model"))


def test_every_file_predicts_what_the_checkpoint_does(run, written):
    expected = accelerator.load_model(run)(INPUTS)
    assert torch.equal(accelerator.load_model(run / "model", imports=["toy_problem"])(INPUTS), expected)
    single = run / "model" / "model.safetensors"
    assert torch.equal(accelerator.load_model(single, imports=["toy_problem"])(INPUTS), expected)
    exported = torch.export.load(run / "model" / "pt2" / "model.pt2").module()
    torch.testing.assert_close(exported(INPUTS), expected)
    assert torch.equal(torch.load(run / "model" / "pickle" / "model.pth", weights_only=False)(INPUTS), expected)


def test_the_manifest_tells_what_is_in_it(run, written):
    assert read_manifest(run / "model") == written
    assert written.model == "mlp"
    assert written.cls == "domain.cross.model.mlp.MLP"
    assert written.parameters == 3 * 4 + 4 + 4 + 1
    assert written.inputs == {"shape": [-1, 3], "dtype": "float32"}
    assert written.outputs == {"shape": [-1, 1], "dtype": "float32"}
    assert written.formats == ["safetensors", "pt2", "pickle"]
    assert written.imports == ["toy_problem"]
    assert written.data == {"name": "toy_problem.plane"}
    assert written.metrics["test/loss"] == 0.25
    best = run / "checkpoints" / written.checkpoint["file"]
    assert written.checkpoint["sha256"] == sha256(best.read_bytes()).hexdigest()
    assert written.metrics["val/loss"] == json.loads(best.with_suffix(".json").read_text())["metrics"]["val/loss"]
    assert sorted(written.files) == [
        "input_example.json",
        "model.safetensors",
        "pickle/model.pth",
        "pickle/pickle_module_info.txt",
        "pt2/model.pt2",
        "python_env.yaml",
        "requirements.txt",
        "serving_input_example.json",
    ]
    assert torch.equal(torch.tensor(json.loads((run / "model" / "input_example.json").read_text())), INPUTS[:3])


def test_requirements_are_pinned_without_local_versions(run, written):
    lines = (run / "model" / "requirements.txt").read_text().splitlines()
    assert [line.partition("==")[0] for line in lines] == [
        "accelerator-platform",
        "torch",
        "numpy",
        "safetensors",
        "mlflow",
    ]
    assert all("+" not in line and line.partition("==")[2] for line in lines)
    assert written.notes == [
        "requirements: the module toy_problem is of no installed package; put it where the model is used"
    ]


@pytest.mark.parametrize("name", ["model.safetensors", "pt2/model.pt2", "requirements.txt"])
def test_a_file_that_was_changed_is_refused(folder, name):
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(CheckpointError, match=rf"{name} is not the file that was written: .* the model is refused"):
        verify(folder, read_manifest(folder))


def test_tampered_weights_are_not_loaded(folder):
    (folder / "model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(CheckpointError, match="100 bytes with SHA-256 .* the model is refused"):
        accelerator.load_model(folder, imports=["toy_problem"])


def test_a_manifest_that_was_changed_with_its_files_is_refused_by_its_recorded_digest(folder):
    digest = sha256((folder / "manifest.json").read_bytes()).hexdigest()
    assert read_manifest(folder, digest=digest).model == "mlp"
    told = json.loads((folder / "manifest.json").read_text())
    told["files"]["model.safetensors"]["sha256"] = "0" * 64
    (folder / "manifest.json").write_text(json.dumps(told))
    with pytest.raises(CheckpointError, match=r"manifest.json was changed after it was recorded.*the model is refused"):
        read_manifest(folder, digest=digest)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "manifest.json is damaged"),
        ("{}", "manifest.json is damaged"),
        ('{"schema": 2}', "format 2; this version"),
    ],
)
def test_a_manifest_that_cannot_be_read_is_told(folder, text, told):
    (folder / "manifest.json").write_text(text)
    with pytest.raises(CheckpointError, match=told):
        read_manifest(folder)


def test_modules_of_the_authors_are_imported_only_where_they_are_allowed(folder):
    with pytest.raises(CheckpointError, match=r"modules of its author's, toy_problem; if you trust them, allow them"):
        accelerator.load_model(folder)


def test_loading_unpickles_nothing(folder, tmp_path, monkeypatch):
    """The pickle beside the weights is compared with its checksum, and not unpickled if that is right either."""
    monkeypatch.chdir(tmp_path)
    hostile = b"cos\nsystem\n(S'touch hit'\ntR."
    (folder / "pickle" / "model.pth").write_bytes(hostile)
    with pytest.raises(CheckpointError, match=r"pickle/model\.pth is not the file that was written"):
        load_model(folder, imports=["toy_problem"])
    told = json.loads((folder / "manifest.json").read_text())
    told["files"]["pickle/model.pth"] = {"sha256": sha256(hostile).hexdigest(), "bytes": len(hostile)}
    (folder / "manifest.json").write_text(json.dumps(told))
    assert torch.isfinite(load_model(folder, imports=["toy_problem"])(INPUTS)).all()
    assert not (tmp_path / "hit").exists()


def test_a_format_that_cannot_express_the_network_is_left_out_and_noted(run, tmp_path, monkeypatch):
    def refuse(*_):
        raise export.ExportError("torch.export cannot trace Restless for any batch size: no")

    monkeypatch.setitem(export.FORMATS, "torch", refuse)
    found = write_model(run, tmp_path / "model", ["safetensors", "pt2"])
    assert found.formats == ["safetensors"]
    assert "pt2: torch.export cannot trace Restless for any batch size: no" in found.notes
    assert not (tmp_path / "model" / "pt2").exists()


def test_a_later_model_takes_the_place_of_an_earlier_whole(run, tmp_path):
    folder = tmp_path / "model"
    write_model(run, folder, ["safetensors", "pickle"])
    write_model(run, folder, ["safetensors"])
    assert not (folder / "pickle").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_large_sample_has_no_example_in_text(run, tmp_path, monkeypatch):
    monkeypatch.setattr("accelerator.runtime.model_folder.EXAMPLE_VALUES", 2)
    found = write_model(run, tmp_path / "model")
    assert "input_example.json" not in found.files
    assert "input example: a sample has 3 values, which is too many for text" in found.notes


@pytest.mark.parametrize(
    ("formats", "told"),
    [
        (["safetensor"], r"tracking.model: there is no format 'safetensor' — did you mean 'safetensors'\?"),
        (["pt2"], r"tracking.model=\[pt2\]: safetensors is missing, .* set tracking.model=\[safetensors,pt2\]"),
    ],
)
def test_formats_that_will_not_do_are_told(formats, told):
    with pytest.raises(ConfigError, match=told):
        check_formats(formats)


def test_formats_are_in_one_order():
    assert check_formats(["pt2", "safetensors", "pt2"]) == ["safetensors", "pt2"]
    assert check_formats([]) == []


def test_a_run_without_a_checkpoint_has_no_model(tiny_config, tmp_path):
    (tmp_path / "config.yaml").write_text(json.dumps(tiny_config()))
    with pytest.raises(CheckpointError, match="no checkpoint in .*: nothing to resume from"):
        write_model(tmp_path, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_model_that_cannot_be_written_is_told_and_costs_the_run_nothing(run, capsys, monkeypatch):
    from accelerator.runtime.checkpoint.checkpoint_handler import CheckpointHandler

    context = SimpleNamespace(
        checkpoints=CheckpointHandler(run / "checkpoints"),
        run_dir=run,
        data=SimpleNamespace(source=None),
        state=SimpleNamespace(metrics={"val/loss": 1.0, "test/loss": 2.0}),
    )

    def fail(*_, **__):
        raise RuntimeError("no kernel image is available")

    assert write_final_model(context, []) is None
    monkeypatch.setattr("accelerator.runtime.model_folder.write_model", fail)
    assert write_final_model(context, ["safetensors"]) is None
    assert capsys.readouterr().err == (
        "model: not written: RuntimeError: no kernel image is available; the run's checkpoints are whole\n"
    )


def test_a_manifest_is_read_without_torch():
    code = (
        "import sys, accelerator.runtime.model_manifest, accelerator.tracking.model_files\n"
        "assert not {'torch', 'mlflow'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_packages_of_modules_that_are_installed_are_required_too():
    from importlib.metadata import version

    from accelerator.runtime.model_folder import _requirements

    lines, notes = _requirements(["kornia.color", "toy_problem", "no_such_module"])
    assert lines[-1] == f"kornia=={version('kornia')}"
    assert [note.split()[3] for note in notes] == ["toy_problem", "no_such_module"]
