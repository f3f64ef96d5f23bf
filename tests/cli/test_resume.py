"""``resume=`` from the command line: in place with the config it had, or as a new run with any."""

import json

import pytest

import accelerator
from accelerator.cli.app import main

SMALL = ["data.train=64", "data.val=16", "data.test=16", "data.grid=8", "model=mlp", "engine.threads=1"]
TRAIN = ["train", *SMALL, "tracking=none", "trainer.max_epochs=3", "checkpoint.keep=9"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A finished run of 6 steps, cut back to its first checkpoint as if it had been killed then."""
    folder = tmp_path / "a folder, with = signs"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert main(TRAIN) == 0
    (run_dir,) = folder.glob("outputs/*/*")
    whole = json.loads((run_dir / "result.json").read_text())["metrics"]
    for path in sorted((run_dir / "checkpoints").glob("step-*"))[2:]:
        path.unlink()
    return run_dir, whole


@pytest.mark.parametrize("where", ["last", "folder", "checkpoints"])
def test_a_run_goes_on_in_place_with_the_config_it_had(run, where, capsys):
    run_dir, whole = run
    wanted = {"last": "last", "folder": str(run_dir), "checkpoints": f"'{run_dir}/checkpoints'"}[where]
    assert main(["train", f"resume={wanted}"]) == 0
    assert "resumed after step 2" in capsys.readouterr().out
    assert json.loads((run_dir / "result.json").read_text())["metrics"] == whole
    assert [run_dir] == list(run_dir.parent.iterdir())


def test_a_change_of_what_is_computed_is_refused_in_place_and_shown(run, capsys):
    run_dir, _ = run
    assert main(["train", "resume=last", "optimizer.lr=0.5"]) == 3
    assert "optimizer.lr was 0.001, is now 0.5" in (printed := capsys.readouterr().err)
    assert f"resume={run_dir}/checkpoints/" in printed


def test_a_change_of_what_is_only_shown_or_kept_is_allowed_in_place(run):
    assert main(["train", "resume=last", "callbacks.progress=null", "checkpoint.keep=3"]) == 0


def test_a_checkpoint_file_starts_a_new_run_with_any_config(run, capsys):
    run_dir, whole = run
    (file,) = (run_dir / "checkpoints").glob("*.safetensors")
    assert main([*TRAIN, f"resume='{file}'", "optimizer.lr=0.5"]) == 0
    assert "resumed after step 2" in capsys.readouterr().out
    (new,) = set(run_dir.parent.iterdir()) - {run_dir}
    assert json.loads((new / "result.json").read_text())["metrics"] != whole
    lines = [json.loads(line) for line in (new / "journal.jsonl").read_text().splitlines()]
    rates = {line["step"]: line["value"] for line in lines if line.get("key") == "lr"}
    # The cosine over 3 epochs, of the new rate, from the epoch the checkpoint is of.
    assert rates == {4: pytest.approx(0.125), 6: pytest.approx(0.0)}


def test_a_checkpoint_file_brings_the_config_of_its_run(run, capsys):
    run_dir, whole = run
    (file,) = (run_dir / "checkpoints").glob("*.safetensors")
    assert main(["train", f"resume='{file}'", "tracking=none"]) == 0
    assert "mlp: 10,432 parameters" in capsys.readouterr().out
    (new,) = set(run_dir.parent.iterdir()) - {run_dir}
    assert json.loads((new / "result.json").read_text())["metrics"] == whole


def test_another_optimizer_goes_on_without_the_old_ones_moments(run):
    (file,) = (run[0] / "checkpoints").glob("*.safetensors")
    assert main(["train", f"resume='{file}'", "optimizer=sgd", "optimizer.lr=0.01"]) == 0


def test_a_resumed_run_can_be_resumed_again(run):
    run_dir, whole = run
    assert main(["train", "resume=last"]) == 0
    for path in sorted((run_dir / "checkpoints").glob("step-*"))[2:]:
        path.unlink()
    assert main(["train", "resume=last"]) == 0
    assert json.loads((run_dir / "result.json").read_text())["metrics"] == whole


def test_python_resumes_too(run):
    _, whole = run
    assert accelerator.train(["resume=last"]).metrics == whole
