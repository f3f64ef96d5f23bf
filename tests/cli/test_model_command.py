"""``accelerator model``: from a training to a network in use, by names; and every mistake in a sentence."""

import io
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from mlflow.tracking import MlflowClient
from record_helpers import prepare, state_of

import accelerator
from accelerator.cli.app import main
from accelerator.tracking.uploader import upload

SMALL = [
    *("data.train=64", "data.val=16", "data.test=16", "data.grid=8", "model=mlp", "model.hidden=[16,16]"),
    *("engine.threads=1", "trainer.max_epochs=2", "tracking.experiment=tests", "callbacks.progress=null"),
]


INPUTS = torch.linspace(-1, 1, 3 * 32).reshape(3, 32)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a run, its record, and a model registered as 'field' twice."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        assert main(["train", *SMALL, "tracking.run_name=small"]) == 0
        assert main(["model", "register", "last", "field"]) == 0
        assert main(["model", "register", "last", "field"]) == 0
    return folder


@pytest.fixture(autouse=True)
def folder(trained, monkeypatch):
    monkeypatch.chdir(trained)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return trained


def the_run(folder):
    (run_dir,) = folder.glob("outputs/*/*")
    return run_dir


def the_id(folder):
    return json.loads((the_run(folder) / "tracking.state.json").read_text())["run_id"]


def told(capsys, *arguments, code=0):
    assert main(["model", *arguments]) == code
    out, err = capsys.readouterr()
    return out if code == 0 else err


def test_a_trainings_best_network_is_its_runs_model(folder):
    """Written by the training, logged by its uploader: nobody registered it for that."""
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    run = client.get_run(the_id(folder))
    (output,) = run.outputs.model_outputs
    model = client.get_logged_model(output.model_id)
    assert (model.status, model.name, model.model_type) == ("READY", "model", "mlp")
    assert model.tags["accelerator.formats"] == "safetensors pt2"
    assert model.params["optimizer.lr"] == run.data.params["optimizer.lr"]
    assert {metric.key for metric in model.metrics} >= {"val/loss", "test/loss", "test/relative_l2"}
    assert {metric.value for metric in model.metrics if metric.key == "test/loss"} == {run.data.metrics["test/loss"]}
    (dataset,) = (entry.dataset for entry in run.inputs.dataset_inputs)
    assert dataset.name == "poisson"
    assert json.loads(dataset.profile) == {"samples": {"train": 64, "val": 16, "test": 16}}
    assert model.tags["accelerator.data"] == f"poisson {dataset.digest}"
    steps = [point.step for point in client.get_metric_history(run.info.run_id, "val/loss")]
    assert steps == sorted(set(steps))


@pytest.mark.slow  # 4 s
def test_a_training_that_wants_no_model_logs_none_and_files_are_kept_where_it_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *SMALL, "tracking.model=[]", "tracking.artifacts=kept", "trainer.max_epochs=1"]) == 0
    assert not (the_run(tmp_path) / "model").exists()
    assert (tmp_path / "kept" / the_id(tmp_path) / "artifacts" / "config.yaml").is_file()
    assert not list(tmp_path.glob("kept/models/*"))
    assert not (tmp_path / "mlartifacts").exists()


def test_a_run_that_has_logged_no_model_is_registered_by_its_best_checkpoint(folder, tmp_path, capsys):
    run_dir = shutil.copytree(the_run(folder), tmp_path / "run", ignore=shutil.ignore_patterns("tracking*", "model"))
    (run_dir / "journal.jsonl").unlink()
    with prepare(run_dir, folder / "mlflow.db", experiment="others") as journal:
        journal.event("tags", values={"run_dir": str(run_dir)})
        journal.event("status", value="KILLED")
    assert upload(run_dir) == 0
    run_id = state_of(run_dir).run_id
    capsys.readouterr()
    printed = told(capsys, "register", str(run_dir), "late").splitlines()
    assert re.fullmatch(rf"run {run_id[:8]} had logged no model: one was made of step-\d+\.safetensors", printed[0])
    assert printed[1].startswith(f"late/1 is the model of run {run_id[:8]}")
    expected = accelerator.load_model(run_dir)(INPUTS)
    assert torch.equal(accelerator.load_model("models:/late")(INPUTS), expected)
    shutil.rmtree(run_dir)  # the registered model is in the store
    assert torch.equal(accelerator.load_model("models:/late/1")(INPUTS), expected)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("tracking.model=[pt3]", "tracking.model: there is no format 'pt3' — did you mean 'pt2'?"),
        ("tracking.model=[pt2]", "tracking.model=[pt2]: safetensors is missing"),
        ("tracking.artifacts=sfpt://host/a", "MLflow keeps files in no 'sfpt' store — did you mean 'sftp'?"),
    ],
)
def test_what_no_record_could_hold_is_told_before_anything_is_trained(
    tmp_path, monkeypatch, capsys, override, sentence
):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *SMALL, override]) == 3
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "outputs").exists()


def test_promoting_tells_who_was_champion_and_how_to_go_back(capsys):
    assert told(capsys, "promote", "field/1") == "champion is now field/1; there was none before\n"
    assert told(capsys, "promote", "field") == (
        "champion is now field/2; before, it was field/1\nback again with: accelerator model promote field@previous\n"
    )
    assert told(capsys, "promote", "field@champion") == "champion was field/2 already\n"
    assert told(capsys, "promote", "field/1", "--alias", "challenger") == (
        "challenger is now field/1; there was none before\n"
    )
    assert told(capsys, "promote", "field/1", "--stage", "archived") == "field/1 has stage Archived\n"
    assert told(capsys, "delete-alias", "field@challenger") == "challenger is removed; it was field/1, which stays\n"
    assert told(capsys, "delete-alias", "field@previous") == "previous is removed; it was field/1, which stays\n"
    assert told(capsys, "delete-alias", "field@champion") == "champion is removed; it was field/2, which stays\n"


def test_the_list_shows_names_aliases_and_what_the_newest_measured(folder, capsys):
    told(capsys, "register", "small", "listed", "--alias", "champion", "--description", "for the list", "--tag", "a=b")
    header, *rows = told(capsys, "list").splitlines()
    titles = re.split(r"\s{2,}", header.strip())
    # A column of other aliases is there only if a model has one.
    assert [title for title in titles if title != "other aliases"] == [
        *("name", "versions", "champion", "challenger", "newest", "its metrics")
    ]
    (row,) = (row for row in rows if row.startswith("listed"))
    assert re.match(r"listed +1 +1 +– .* test/loss [\d.e-]+ ", row)
    plain = json.loads(told(capsys, "list", "--json"))
    (version,) = plain["listed"]
    assert (version["number"], version["aliases"], version["stage"]) == (1, ["champion"], "Production")
    assert version["run_id"] == the_id(folder)
    assert version["tags"]["a"] == "b"
    assert version["metrics"]["test/loss"] > 0
    shown = told(capsys, "show", "listed@champion")
    assert re.search(r"inputs +\(batch, 32\) float32\npredictions +\(batch, 1, 8, 8\) float32\n", shown)
    for words in ("listed/1", "for the list", "safetensors pt2", the_id(folder), "poisson", "test/relative_l2"):
        assert words in shown
    assert json.loads(told(capsys, "show", "listed/1", "--json")) == version
    assert json.loads(told(capsys, "show", "listed", "--json")) == [version]
    assert told(capsys, "show", "listed").splitlines()[1].split()[:3] == ["1", "champion", "Production"]


@pytest.mark.slow
def test_what_is_loaded_to_a_file_is_the_network(folder, tmp_path, capsys):
    expected = accelerator.load_model(the_run(folder))(INPUTS)
    file, exported, whole = tmp_path / "m.safetensors", tmp_path / "m.pt2", tmp_path / "m"
    printed = told(capsys, "load", "field/1", "-o", str(file)).splitlines()
    assert re.fullmatch(r"models:/field/1: \d+ files, .*B, every one as it was written", printed[0])
    assert printed[1] == f"wrote {file}"
    assert printed[2] == "inputs (batch, 32) float32 → predictions (batch, 1, 8, 8) float32"
    assert printed[3] == f"in Python: accelerator.load_model('{file}')(inputs)"
    assert torch.equal(accelerator.load_model(file)(INPUTS), expected)
    told(capsys, "load", "field/1", "-o", str(exported))
    torch.testing.assert_close(torch.export.load(exported).module()(INPUTS), expected)
    told(capsys, "load", "field", "-o", str(whole))
    assert torch.equal(accelerator.load_model(whole)(INPUTS), expected)
    assert (whole / "MLmodel").is_file()
    assert "accelerator.load_model('models:/field')(inputs)" in told(capsys, "load", "field")
    assert f"{file} exists; give another name, or --force" in told(capsys, "load", "field", "-o", str(file), code=3)
    told(capsys, "load", "field", "-o", str(file), "--force")
    assert "m.onnx: name it .safetensors, .pt2, .pth" in told(capsys, "load", "field", "-o", "m.onnx", code=3)
    assert "the model has no pickle/model.pth; it was kept as safetensors, pt2" in told(
        capsys, "load", "field", "-o", str(tmp_path / "m.pth"), code=3
    )
    assert "there is no folder" in told(capsys, "load", "field", "-o", "no/such/m.pt2", code=3)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("model.safetensors", r"model\.safetensors is not the file that was written: .*; the model is refused"),
        ("manifest.json", r"manifest\.json was changed after it was recorded: .*; the model is refused"),
        ("MLmodel", r"MLmodel is not the file that was logged; the model is refused"),
    ],
)
def test_a_tampered_model_is_refused_in_a_sentence(folder, capsys, name, sentence):
    """Whatever is changed, whoever can change files in the store."""
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    path = Path(client.get_model_version_download_uri("field", "1"), name)
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[:-2] + b" \n")
        error = told(capsys, "load", "field/1", code=3)
    finally:
        path.write_bytes(whole)
    assert re.search(sentence, error)
    assert "Traceback" not in error
    told(capsys, "load", "field/1")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["show", "fieldd"], "no model 'fieldd' in sqlite"),
        (["show", "fieldd"], "did you mean 'field'?"),
        (["promote", "field/9"], "model field has no version '9'; it has 1, 2"),
        (["load", "field@champio"], "model field has no alias 'champio'"),
        (["promote", "field", "--alias", "v3"], "'v3' cannot be an alias"),
        (["promote", "field", "--stage", "Productio"], "there is no stage 'Productio' — did you mean 'Production'?"),
        (["register", "smoll", "x"], "no run 'smoll' in sqlite"),
        (["register", "last", "a/b"], "'a/b' cannot be a model's name"),
        (["register", "last", "x", "--tag", "a"], "expected KEY=VALUE, got 'a'"),
        (["register", "last"], "the following arguments are required: NAME"),
        (["delete-alias", "field"], "field names no alias: write NAME@ALIAS"),
        (["delete", "field/1"], "nothing was deleted: there is no terminal to ask on"),
        (["lst"], "there is no action 'lst' — did you mean 'list'?"),
        (["list", "--uri", "sqlite:///none.db"], "there is no store"),
    ],
)
def test_mistakes_are_told_in_a_sentence(arguments, sentence, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO())
    error = told(capsys, *arguments, code=3)
    assert sentence in error
    assert "Traceback" not in error


@pytest.fixture
def read_only():
    """SQLite refuses to write, as it does in a file that is read-only; root may write everywhere."""
    from sqlalchemy import event
    from sqlalchemy.pool import Pool

    listeners = [
        (name, lambda connection, *_, word=word: connection.execute(f"PRAGMA query_only = {word}"))
        for name, word in (("checkout", "ON"), ("checkin", "OFF"))
    ]
    for name, listener in listeners:
        event.listen(Pool, name, listener)
    yield
    for name, listener in listeners:
        event.remove(Pool, name, listener)


@pytest.mark.usefixtures("read_only")
@pytest.mark.parametrize(
    "arguments",
    [
        ["model", "register", "last", "other"],
        ["model", "promote", "field/1"],
        ["model", "promote", "field/1", "--stage", "Staging"],
        ["model", "delete", "field/1", "--yes"],
        ["runs", "delete", "last", "--yes"],
    ],
)
def test_a_store_that_is_read_only_is_told_in_a_sentence(folder, capsys, arguments):
    assert main(arguments) == 3
    error = capsys.readouterr().err
    assert " ".join(error.split()) == (
        f"error: the store sqlite:///{folder}/mlflow.db cannot be written: it is read-only; name a store you may "
        "write to with --uri (--debug shows where it was raised)"
    )


def test_a_run_that_was_never_recorded_or_saved_nothing_is_told(folder, tmp_path, capsys):
    bare = tmp_path / "bare"
    (bare / "checkpoints").mkdir(parents=True)
    assert f"{bare}: this run was never recorded in MLflow, so it has nothing to be registered by" in told(
        capsys, "register", str(bare), "x", code=3
    )
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("tests")
    stranger = client.create_run(experiment.experiment_id, run_name="stranger")
    try:
        assert "stranger has logged no model, and its folder is not here to make one of" in told(
            capsys, "register", stranger.info.run_id, "x", code=3
        )
    finally:
        client.delete_run(stranger.info.run_id)
    assert "x" not in json.loads(told(capsys, "list", "--json"))


def test_versions_are_deleted_when_asked_and_their_runs_stay(folder, capsys):
    told(capsys, "register", "last", "gone", "--alias", "champion")
    told(capsys, "register", "last", "gone")
    assert told(capsys, "delete", "gone/2", "--yes") == (
        "gone/2\ntheir runs, and the models these have logged, stay\ndeleted 1 version of gone\n"
    )
    assert told(capsys, "delete", "gone", "--yes").splitlines()[0] == "gone/1  (champion)"
    assert "gone" not in json.loads(told(capsys, "list", "--json"))
    accelerator.load_model(f"runs:/{the_id(folder)}")
