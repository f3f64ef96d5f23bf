"""``accelerator clean``: what was generated goes once it was shown; nothing else does."""

import pytest

from accelerator.cli.app import main
from accelerator.cli.project import clean
from accelerator.runtime.run_directory import owned
from accelerator.tracking.deleted_runs import DeletedRun

EVERYTHING = ["--outputs", "--caches", "--configs", "--records", "--yes"]


def run(folder):
    """What a run leaves in its folder."""
    folder.mkdir(parents=True)
    (folder / ".lock").touch()
    (folder / "config.yaml").write_text("seed: 0\n")
    return folder


def left(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() or path.is_symlink()}


def test_outputs_of_runs_go_and_what_is_somebodys_own_stays(workplace, capsys):
    run(workplace / "outputs/2026-11-26/10-00-00")
    run(workplace / "multirun/2026-11-26/10-00-00/0")
    (workplace / "outputs/notes").mkdir()
    (workplace / "outputs/notes/mine.txt").write_text("mine")
    (workplace / "mine.py").write_text("")
    assert main(["clean", "--outputs", "--yes"]) == 0
    assert left(workplace) == {"outputs/notes/mine.txt", "mine.py"}
    assert not (workplace / "multirun").exists()
    printed = capsys.readouterr().out
    assert "outputs/2026-11-26/10-00-00" in printed
    assert "removed 2, 16 B" in printed


def test_a_run_at_work_stays_and_its_sweep_with_it(workplace, capsys):
    sweep = run(workplace / "multirun/2026-11-26/10-00-00")
    run(sweep / "0")
    with owned(run(sweep / "1")):
        assert main(["clean", "--outputs", "--yes"]) == 0
    assert "stays: multirun/2026-11-26/10-00-00/1 is at work" in capsys.readouterr().out
    assert (sweep / "0/config.yaml").exists()
    assert main(["clean", "--outputs", "--yes"]) == 0
    assert not sweep.exists()


def test_a_run_whose_record_has_not_arrived_stays(workplace, capsys):
    small = ["model=mlp", "model.hidden=[4]", "data.train=32", "data.val=8", "data.test=8", "data.grid=8"]
    quiet = ["engine.threads=1", "trainer.max_epochs=1", "callbacks=none", "hydra.run.dir=outputs/a/b"]
    assert main(["train", *small, *quiet, "tracking.uri=http://127.0.0.1:9", "tracking.timeout=0.1"]) == 0
    assert main(["clean", "--outputs", "--yes"]) == 0
    assert "stays: outputs/a/b has a record that has not arrived: accelerator tracking sync" in capsys.readouterr().out
    assert (workplace / "outputs/a/b/journal.jsonl").exists()


def test_what_an_interruption_leaves_of_a_run_is_no_run_and_goes_the_next_time(workplace, capsys, monkeypatch):
    for name in ("a", "b", "c"):
        run(workplace / "outputs/day" / name)
    remove = clean.shutil.rmtree

    def interrupted(folder):
        if folder.name == ".b.being-removed":
            (folder / "config.yaml").unlink()
            raise KeyboardInterrupt
        remove(folder)

    monkeypatch.setattr(clean.shutil, "rmtree", interrupted)
    assert main(["clean", "--outputs", "--yes"]) == 130
    assert capsys.readouterr().out.endswith("removed 1 of 3, 8 B\n")
    assert {path.name for path in (workplace / "outputs/day").iterdir()} == {".b.being-removed", "c"}
    monkeypatch.setattr(clean.shutil, "rmtree", remove)
    assert main(["clean", "--outputs", "--yes"]) == 0
    assert not (workplace / "outputs").exists()


def test_links_are_not_followed(workplace, tmp_path, capsys):
    elsewhere = run(tmp_path / "elsewhere/2026/10")
    (workplace / "outputs").symlink_to(tmp_path / "elsewhere")
    (workplace / "__pycache__").symlink_to(elsewhere)
    (workplace / "multirun").mkdir()
    (workplace / "multirun/2026").symlink_to(tmp_path / "elsewhere/2026")
    assert main(["clean", *EVERYTHING]) == 0
    assert f"stays: outputs is a link to {tmp_path / 'elsewhere'}, which is not followed" in capsys.readouterr().out
    assert left(elsewhere) == {".lock", "config.yaml"}


def test_caches_go_but_not_those_of_environments(workplace, tmp_path, capsys):
    for folder in ("__pycache__", "pkg/__pycache__", ".pytest_cache", "env/lib/__pycache__"):
        (workplace / folder).mkdir(parents=True)
        (workplace / folder / "a.pyc").write_bytes(b"12345678")
    (workplace / "env/pyvenv.cfg").touch()
    (tmp_path / "cache/accelerator").mkdir(parents=True)
    assert main(["clean", "--caches", "--yes"]) == 0
    assert left(workplace) == {"env/lib/__pycache__/a.pyc", "env/pyvenv.cfg"}
    assert "removed 3, 24 B" in (printed := capsys.readouterr().out)
    assert f"stays: {tmp_path / 'cache/accelerator'} holds solved data sets" in printed


def test_generated_configs_go_and_edited_ones_stay(workplace, capsys):
    assert main(["configure", "model=mlp,cnn"]) == 0
    assert main(["add", "loss", "huber"]) == 0
    assert main(["add", "experiment", "mine", "seed=3"]) == 0
    with (workplace / "configs/model/cnn.yaml").open("a") as file:
        file.write("# mine\n")
    assert main(["clean", "--configs", "--yes"]) == 0
    assert "stays: 1 generated config that somebody edited" in capsys.readouterr().out
    assert left(workplace) == {"configs/.generated.json", "configs/experiment/mine.yaml", "configs/model/cnn.yaml"}
    (workplace / "configs/model/cnn.yaml").unlink()
    assert main(["clean", "--configs", "--yes"]) == 0


def test_what_is_chosen_or_could_not_be_written_again_stays(workplace, capsys):
    assert main(["add", "optimizer", "mine", "--target", "torch.optim.NAdam"]) == 0
    assert main(["add", "transform", "noise", "--place", "target"]) == 0
    assert main(["add", "loss", "cubic", "--new"]) == 0
    assert main(["configure", "model=mlp,cnn", "callbacks"]) == 0
    (workplace / "configs/experiment").mkdir()
    (workplace / "configs/experiment/e.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /model: mlp\n  - override /training_components/optimizer: mine\n"
    )
    capsys.readouterr()
    assert main(["clean", "--configs", "--yes"]) == 0
    stays = [line for line in capsys.readouterr().out.splitlines() if line.startswith("stays: ")]
    parts = "configs/training_components"
    assert stays == [
        "stays: configs/model/mlp.yaml is chosen by experiment=e",
        f"stays: {parts}/loss/cubic.yaml could not be generated again as it is",
        f"stays: {parts}/optimizer/mine.yaml could not be generated again as it is, and is chosen by experiment=e",
        f"stays: {parts}/transform/noise.yaml could not be generated again as it is",
    ]
    assert {name.removeprefix("configs/") for name in left(workplace / "configs")} == {
        ".generated.json",
        "experiment/e.yaml",
        "model/mlp.yaml",
        "project/default.yaml",
        "training_components/loss/cubic.yaml",
        "training_components/optimizer/mine.yaml",
        "training_components/transform/noise.yaml",
    }, "what chooses another of the group goes with it"


def test_where_a_config_cannot_be_read_none_goes(workplace, capsys):
    assert main(["configure", "model=mlp"]) == 0
    (workplace / "configs/model/broken.yaml").write_text("a: NO\n")
    assert main(["clean", "--configs", "--yes"]) == 0
    said = "stays: every generated config: what chooses one is not known, for configs/model/broken.yaml, line 1: "
    assert said in capsys.readouterr().out
    assert (workplace / "configs/model/mlp.yaml").exists()


def test_a_manifest_leads_nowhere_else(workplace, capsys):
    (workplace / "mine.py").write_text("")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    (workplace / "configs").mkdir()
    names = ["../mine.py", str(workplace / "mine.py")]
    entries = ", ".join(f'"{name}": {{"sha256": "{empty}", "by": "add"}}' for name in names)
    (workplace / "configs/.generated.json").write_text(f"{{{entries}}}")
    assert main(["clean", "--configs", "--yes"]) == 0
    assert (workplace / "mine.py").exists()
    assert capsys.readouterr().out.count("is not a file of ./configs") == 2


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 3), ("", 3)])
def test_it_asks_first(workplace, capsys, monkeypatch, answer, code):
    run(workplace / "outputs/a/b")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: answer)
    assert main(["clean"]) == code
    assert (workplace / "outputs").exists() == (code == 3)


def test_without_a_terminal_nothing_goes_and_yes_wants_to_be_told_what(workplace, capsys):
    run(workplace / "outputs/a/b")
    assert main(["clean"]) == 3
    assert "nothing was removed: there is no terminal to ask on" in capsys.readouterr().err
    assert main(["clean", "--yes"]) == 3
    assert "say what, by --outputs, --caches, --configs, --records" in capsys.readouterr().err
    assert main(["clean", "--dry-run"]) == 0
    assert (workplace / "outputs/a/b").exists()


def test_nothing_to_remove_is_said(workplace, capsys):
    assert main(["clean", "--outputs", "--configs"]) == 0
    assert capsys.readouterr().out == "nothing to remove of outputs, configs\n"


def test_files_of_deleted_runs_go_where_they_are_in_the_project(workplace, tmp_path, capsys, monkeypatch):
    inside, outside = workplace / "mlartifacts/a1/artifacts", tmp_path / "elsewhere/b2/artifacts"
    for folder in (inside, outside):
        folder.mkdir(parents=True)
        (folder / "model.bin").write_bytes(b"1234")
    (workplace / "mlflow.db").touch()
    runs = [
        DeletedRun("a1", "first", inside, str(inside)),
        DeletedRun("b2", "second", outside, str(outside)),
        DeletedRun("c3", "third", None, "s3://bucket/c3/artifacts"),
        DeletedRun("d4", "gone", workplace / "mlartifacts/d4/artifacts", ""),
    ]
    monkeypatch.setattr("accelerator.tracking.query.open_store", lambda: None)
    monkeypatch.setattr("accelerator.tracking.deleted_runs.deleted_runs", lambda store: runs)
    assert main(["clean", "--records", "--yes"]) == 0
    printed = capsys.readouterr().out
    assert f"stays: files of the deleted run b2 second in {outside}: not in the project" in printed
    assert "stays: files of the deleted run c3 third in s3://bucket/c3/artifacts: not in the project" in printed
    assert "removed 1, 4 B" in printed
    assert left(workplace) == {"mlflow.db"}
    assert (outside / "model.bin").exists()


@pytest.mark.slow
def test_files_of_runs_that_were_deleted_in_mlflow_go(workplace, capsys):
    from mlflow.tracking import MlflowClient

    client = MlflowClient("sqlite:///mlflow.db")
    experiment = client.create_experiment("e", artifact_location=str(workplace / "mlartifacts"))
    runs = [client.create_run(experiment).info.run_id for _ in range(2)]
    for name in runs:
        client.log_text(name, "text", "a.txt")
    client.delete_run(runs[0])
    assert main(["clean", "--records", "--yes"]) == 0
    assert f"mlartifacts/{runs[0]}" in capsys.readouterr().out
    assert [path.name for path in (workplace / "mlartifacts").iterdir()] == [runs[1]]


def test_the_size_of_a_folder_is_that_of_its_files_and_not_of_what_links_lead_to(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/c").write_bytes(b"1234")
    (tmp_path / "big").write_bytes(b"0" * 1000)
    (tmp_path / "a/link").symlink_to(tmp_path / "big")
    assert clean.size_of(tmp_path / "a") == 4 + len(str(tmp_path / "big"))
