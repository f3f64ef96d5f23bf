"""Names, versions and aliases; and networks loaded by them."""

import multiprocessing
import os
import shutil
from pathlib import Path

import pytest
import torch
from mlflow.tracking import MlflowClient
from model_helpers import recorded, unrecorded
from record_helpers import uri_of
from toy_problem import plane

import accelerator
from accelerator.errors import CheckpointError, UserError
from accelerator.runtime.model_folder import write_model
from accelerator.tracking.model_registry import Registry
from accelerator.tracking.model_sources import fetched, in_store, load_model
from accelerator.tracking.query import open_store

INPUTS = plane()["test"][0]
ALLOWED = ["toy_problem"]


@pytest.fixture(scope="module")
def record(tmp_path_factory, plane_run, empty):
    """(run directory, store, run id); tests register under names of their own."""
    folder = tmp_path_factory.mktemp("record")
    run_dir, store = unrecorded(plane_run, folder / "run"), shutil.copy(empty, folder / "mlflow.db")
    return run_dir, store, recorded(run_dir, store)


@pytest.fixture(scope="module")
def registry(record):
    return Registry(open_store(uri_of(record[1])))


@pytest.fixture(scope="module")
def run(record, registry):
    return registry.store.find(record[2])


def test_a_version_knows_its_run_its_metrics_and_what_it_was_made_of(record, registry, run):
    version = registry.register(run, "known", description="the first", tags={"task": "plane"})
    assert (version.name, version.number, version.run_id, version.description) == ("known", 1, record[2], "the first")
    assert version.model_id == registry.logged(run).model_id
    assert version.tags["config.fingerprint"] == "c0ffee"
    assert version.tags["git.commit"] == "abc123"
    assert version.tags["accelerator.data"] == "toy_problem.plane 0123456789abcdef"
    assert version.tags["task"] == "plane"
    assert version.tags["experiment"] == "plane"
    assert version.metrics == {metric.key: metric.value for metric in registry.logged(run).metrics}
    assert version.metrics["val/loss"] > 0
    assert registry.register(run, "known").number == 2
    told = MlflowClient(uri_of(record[1])).get_logged_model(version.model_id).tags["mlflow.modelVersions"]
    assert '{"name": "known", "version": "1"}, {"name": "known", "version": "2"}' in told


def test_a_new_champion_makes_the_one_before_previous_and_no_challenger_stays(registry, run):
    first, second = registry.register(run, "moved"), registry.register(run, "moved")
    assert registry.promote(first, "champion") is None
    assert registry.promote(second, "challenger") is None
    assert str(registry.promote(registry.find("moved@challenger"), "champion")) == "moved/1"
    second, first = registry.versions("moved")
    assert (second.aliases, second.stage) == (("champion",), "Production")
    assert (first.aliases, first.stage) == (("previous",), "Archived")
    assert str(registry.promote(registry.find("moved@previous"), "champion")) == "moved/2"
    second, first = registry.versions("moved")
    assert (second.aliases, first.aliases) == (("previous",), ("champion",))
    assert str(registry.promote(first, "champion")) == "moved/1"  # it was already
    assert registry.find("moved@previous").number == 2


def test_an_alias_that_is_removed_takes_its_stage_along(registry, run):
    version = registry.register(run, "removed")
    registry.promote(version, "challenger")
    assert registry.find("removed/1").stage == "Staging"
    assert str(registry.delete_alias("removed", "challenger")) == "removed/1"
    assert registry.find("removed/1").stage == "None"
    with pytest.raises(UserError, match="model removed has no alias 'challenger'; it has no aliases"):
        registry.delete_alias("removed", "challenger")


def test_stages_are_those_of_old(registry, run):
    version = registry.register(run, "staged")
    registry.set_stage(version, "archived")
    assert registry.find("staged").stage == "Archived"
    with pytest.raises(UserError, match=r"there is no stage 'Stagin' — did you mean 'Staging'\?"):
        registry.set_stage(version, "Stagin")


def test_the_last_version_takes_the_name_along(registry, run):
    first, second = registry.register(run, "short-lived"), registry.register(run, "short-lived")
    registry.promote(first, "champion")
    registry.delete(registry.find("short-lived@champion"))
    assert [version.number for version in registry.versions("short-lived")] == [2]
    registry.delete(second)
    assert "short-lived" not in registry.names()


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ("foundd", r"no model 'foundd' in sqlite:.* — did you mean 'found'\?"),
        ("found/3", "model found has no version '3'; it has 1, 2"),
        ("found/", "model found has no version ''; it has 1, 2"),
        ("found@chamipon", r"model found has no alias 'chamipon' — did you mean 'champion'\?"),
        ("a/b/c", "'a/b/c' names no model: write NAME, NAME/3 or NAME@champion"),
        ("models:/", "'models:/' names no model"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(registry, run, wanted, told):
    if "found" not in registry.names():
        registry.register(run, "found")
        registry.promote(registry.register(run, "found"), "champion")
    with pytest.raises(UserError, match=told):
        registry.find(wanted)


def test_a_version_has_several_names(registry, run):
    registry.register(run, "named")
    registry.promote(registry.register(run, "named"), "champion")
    names = ("named", "named/2", "named@champion", "models:/named/2", "named/latest", "models:/named@champion")
    assert {str(registry.find(name)) for name in names} == {"named/2"}


@pytest.mark.parametrize("name", ["a/b", "", "a@b", "..", "a:b", "-a", "a\nb"])
def test_names_that_mlflow_would_not_find_again_are_refused(registry, run, name):
    with pytest.raises(UserError, match="cannot be a model's name: it begins with a letter or a digit"):
        registry.register(run, name)


@pytest.mark.parametrize("alias", ["v2", "latest", "", "a b", "1a"])
def test_aliases_that_mlflow_keeps_for_itself_are_refused(registry, run, alias):
    version = registry.register(run, "aliased")
    with pytest.raises(UserError, match="cannot be an alias"):
        registry.promote(version, alias)


def _register(uri, run_id, barrier):
    registry = Registry(open_store(uri))
    run = registry.store.find(run_id)
    barrier.wait(30)
    registry.register(run, "at once")


def test_registering_leaves_no_default_store_behind(registry, run, monkeypatch):
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////somewhere/else.db")
    registry.register(run, "quiet")
    assert mlflow.get_tracking_uri() == "sqlite:////somewhere/else.db"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    registry.register(run, "quiet")
    assert "MLFLOW_TRACKING_URI" not in os.environ


def test_two_registers_at_once_are_two_versions(record, registry):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    processes = [context.Process(target=_register, args=(uri_of(record[1]), record[2], barrier)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert [version.number for version in registry.versions("at once")] == [2, 1]


def test_a_network_is_loaded_by_every_name_it_has(record, registry, run, monkeypatch):
    run_dir, store, run_id = record
    expected = accelerator.load_model(run_dir)(INPUTS)
    version = registry.register(run, "loaded")
    registry.promote(version, "champion")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri_of(store))
    for source in (
        *("models:/loaded@champion", "models:/loaded/1", "models:/loaded", f"models:/{version.model_id}"),
        *(f"runs:/{run_id}", f"runs:/{run_id}/model", run_id),
    ):
        assert torch.equal(accelerator.load_model(source, imports=ALLOWED)(INPUTS), expected), source
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert torch.equal(load_model("models:/loaded/1", imports=ALLOWED, uri=uri_of(store))(INPUTS), expected)


def test_a_foreign_name_imports_nothing_that_was_not_allowed(record, registry, run):
    registry.register(run, "foreign")
    with pytest.raises(CheckpointError, match="modules of its author's, toy_problem; if you trust them"):
        load_model("models:/foreign", uri=uri_of(record[1]))


def test_what_was_tampered_with_in_the_store_is_refused(record, empty, tmp_path):
    """Weights and manifest may both be replaced by who can write files; the database knows better."""
    run_dir, store = unrecorded(record[0], tmp_path / "run"), shutil.copy(empty, tmp_path / "mlflow.db")
    run_id = recorded(run_dir, store)
    registry = Registry(open_store(uri_of(store)))
    registry.register(registry.store.find(run_id), "target")
    with fetched(registry.store, "models:/target") as found:
        folder = found.folder
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=r"model.safetensors is not the file that was written.*is refused"):
        load_model("models:/target", imports=ALLOWED, uri=uri_of(store))
    weights.write_bytes(whole)
    for name in ("requirements.txt", "MLmodel"):  # nothing the network is built from
        before = (folder / name).read_bytes()
        (folder / name).write_bytes(before + b"\n")
        with pytest.raises(CheckpointError, match=rf"{name} is not the file that was .*; the model is refused"):
            load_model("models:/target", imports=ALLOWED, uri=uri_of(store))
        (folder / name).write_bytes(before)
    write_model(run_dir, run_dir / "other", metrics={"test/loss": 0.0})
    shutil.copytree(run_dir / "other", folder, dirs_exist_ok=True)
    load_model(folder, imports=ALLOWED)  # it is whole in itself
    for source in ("models:/target", f"runs:/{run_id}"):
        with pytest.raises(CheckpointError, match=r"manifest.json was changed after it was recorded: its SHA-256 is"):
            load_model(source, imports=ALLOWED, uri=uri_of(store))
    shutil.rmtree(folder)
    with pytest.raises(CheckpointError, match=r"the files of models:/target/1 are gone: there is no /"):
        load_model("models:/target", uri=uri_of(store))


def test_a_run_without_a_model_is_told_what_makes_one(empty, tmp_path):
    (tmp_path / "run").mkdir()
    store = shutil.copy(empty, tmp_path / "mlflow.db")
    run_id, uri = recorded(tmp_path / "run", store, model=False), uri_of(store)
    with pytest.raises(CheckpointError, match=f"this run has logged no model; accelerator model register {run_id[:8]}"):
        load_model(f"runs:/{run_id}", uri=uri)
    registry = Registry(open_store(uri))
    with pytest.raises(UserError, match="has logged no model"):
        registry.register(registry.store.find(run_id), "none")
    assert registry.names() == []
    with pytest.raises(UserError, match=r"no model 'none' in .*; nothing is registered there yet"):
        registry.find("none")


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("models:/a/1", True),
        ("runs:/b", True),
        ("0123456789abcdef0123456789abcdef", True),
        ("outputs/x", False),
        (Path("models:/a/1"), False),
        ("0123456789abcdef", False),
    ],
)
def test_names_in_a_store_are_told_from_paths(source, told):
    assert in_store(source) is told


def test_a_path_that_is_not_there_is_told(tmp_path):
    with pytest.raises(CheckpointError, match=r"nothing\.safetensors: no such file or folder"):
        accelerator.load_model(tmp_path / "nothing.safetensors")
