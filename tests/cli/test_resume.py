"""``resume=`` from the command line: in place with the config it had, or as a new run with any."""

import json
import os
import shutil
import subprocess
import sys

import pytest

import accelerator
from accelerator.cli.app import main
from accelerator.tracking import spool

SMALL = ["data.train=64", "data.val=16", "data.test=16", "data.grid=8", "model=mlp", "engine.threads=1"]
TRAIN = ["train", *SMALL, "tracking=none", "callbacks.pictures=null", "trainer.max_epochs=3", "checkpoint.keep=9"]
ID = "0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of 6 steps."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(TRAIN) == 0
    return folder / "outputs"


@pytest.fixture
def run(finished, tmp_path, monkeypatch):
    """A copy of it, cut back to its first checkpoint as if it had been killed then; and what it came to."""
    folder = tmp_path / "a folder, with = signs"
    shutil.copytree(finished, folder / "outputs")
    monkeypatch.chdir(folder)
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


@pytest.mark.slow
def test_a_resumed_run_can_be_resumed_again(run):
    run_dir, whole = run
    assert main(["train", "resume=last"]) == 0
    for path in sorted((run_dir / "checkpoints").glob("step-*"))[2:]:
        path.unlink()
    assert main(["train", "resume=last"]) == 0
    assert json.loads((run_dir / "result.json").read_text())["metrics"] == whole


@pytest.mark.slow
def test_python_resumes_too(run):
    _, whole = run
    assert accelerator.train(["resume=last"]).metrics == whole


@pytest.mark.parametrize("wanted", [ID, ID[:6], ID[:9].upper()])
def test_a_run_is_found_by_its_mlflow_id(run, wanted, capsys):
    run_dir, whole = run
    spool.save(run_dir / spool.STATE, spool.State(run_id=ID))
    shutil.copytree(run_dir, run_dir.with_name("later"))
    spool.save(run_dir.with_name("later") / spool.STATE, spool.State(run_id=ID[::-1]))
    assert main(["train", f"resume={wanted}"]) == 0
    assert "resumed after step 2" in capsys.readouterr().out
    assert json.loads((run_dir / "result.json").read_text())["metrics"] == whole
    assert len(list((run_dir / "checkpoints").glob("*.safetensors"))) == 3
    assert len(list((run_dir.with_name("later") / "checkpoints").glob("*.safetensors"))) == 1


def test_the_id_of_a_sweeps_job_is_found_too(run, capsys):
    run_dir, whole = run
    job = run_dir.parents[2] / "multirun" / "day" / "time" / "0"
    shutil.copytree(run_dir, job)
    spool.save(job / spool.STATE, spool.State(run_id=ID))
    assert main(["train", f"resume={ID}"]) == 0
    assert json.loads((job / "result.json").read_text())["metrics"] == whole
    assert len(list((job / "checkpoints").glob("*.safetensors"))) == 3


def test_last_is_the_newest_run_also_if_it_is_a_sweeps_job(run):
    run_dir, _ = run
    job = run_dir.parents[2] / "multirun" / "day" / "time" / "0"
    shutil.copytree(run_dir, job)
    os.utime(job / "checkpoints", (2e9, 2e9))
    assert main(["train", "resume=last"]) == 0
    assert len(list((job / "checkpoints").glob("*.safetensors"))) == 3
    assert len(list((run_dir / "checkpoints").glob("*.safetensors"))) == 1


def test_an_id_that_several_runs_share_lists_them(run, capsys):
    run_dir, _ = run
    for name, id in (("one", ID), ("two", ID[:8] + ID[::-1][8:])):
        shutil.copytree(run_dir, run_dir.with_name(name))
        spool.save(run_dir.with_name(name) / spool.STATE, spool.State(run_id=id))
    assert main(["train", f"resume={ID[:7]}"]) == 3
    printed = capsys.readouterr().err
    assert "2 runs have an MLflow id that begins so; give more of its digits" in printed
    assert f"{ID}  outputs/{run_dir.parent.name}/one" in printed
    assert f"outputs/{run_dir.parent.name}/two" in printed


def test_an_id_nobody_knows_names_where_it_was_looked_for(run, capsys):
    assert main(["train", f"resume={ID}"]) == 3
    printed = capsys.readouterr().err
    assert f"resume={ID}: no such file or folder, and no run under outputs/*/* or multirun/*/*/*" in printed
    assert str(run[0].parents[2]) in printed


def test_a_few_digits_are_no_id(run, capsys):
    spool.save(run[0] / spool.STATE, spool.State(run_id=ID))
    assert main(["train", f"resume={ID[:5]}"]) == 3
    assert "if it is an MLflow run id, give at least 6 of its digits" in capsys.readouterr().err


def test_a_folder_named_like_an_id_is_the_folder(run):
    run_dir, _ = run
    shutil.copytree(run_dir, "abcdef12")
    assert main(["train", "resume=abcdef12"]) == 0
    assert len(list((run_dir / "checkpoints").glob("*.safetensors"))) == 1


def test_finding_a_run_by_its_id_imports_no_mlflow(run):
    spool.save(run[0] / spool.STATE, spool.State(run_id=ID))
    code = (
        f"import sys\nfrom accelerator.cli.which_run import find\nprint(find({ID!r}, ''))\n"
        "print({'mlflow', 'torch'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [str(run[0]), "set()"]
