"""A model folder becomes a LoggedModel of its run, once, with all that MLflow shows of one."""

import json
import shutil
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
import yaml
from mlflow.tracking import MlflowClient
from model_helpers import recorded, unrecorded
from record_helpers import prepare, query, state_of, uri_of
from toy_problem import plane

import accelerator
from accelerator.errors import CheckpointError
from accelerator.tracking.model_files import dataset_facts, logged_models
from accelerator.tracking.uploader import upload

INPUTS = plane()["test"][0]


@pytest.fixture(scope="module")
def record(tmp_path_factory, plane_run):
    """(run directory, store, run id) of a run whose model has every format."""
    folder = tmp_path_factory.mktemp("record")
    run_dir, store = unrecorded(plane_run, folder / "run"), folder / "mlflow.db"
    return run_dir, store, recorded(run_dir, store)


@pytest.fixture
def model(record, monkeypatch):
    """Its LoggedModel; the process's default store is the record's."""
    _, store, run_id = record
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri_of(store))
    (found,) = logged_models(MlflowClient(uri_of(store)), run_id)
    return found


def test_it_is_an_output_of_its_run_with_params_and_tags(record, model):
    run_dir, _, run_id = record
    assert (model.name, model.source_run_id, model.model_type, model.status) == ("model", run_id, "mlp", "READY")
    assert model.params == {"model.name": "mlp", "checkpoint.monitor": "val/loss"}
    assert model.tags["accelerator.formats"] == "safetensors pt2 pickle"
    assert model.tags["accelerator.class"] == "domain.cross.model.mlp.MLP"
    assert model.tags["accelerator.data"] == "toy_problem.plane 0123456789abcdef"
    assert state_of(run_dir).notes == []


def test_it_has_the_metrics_of_its_checkpoint_and_the_run_has_none_twice(record, model):
    run_dir, store, run_id = record
    manifest = json.loads((run_dir / "model" / "manifest.json").read_text())
    assert {metric.key: metric.value for metric in model.metrics} == manifest["metrics"]
    assert "val/loss" in manifest["metrics"]
    assert {(m.step, m.dataset_name, m.dataset_digest) for m in model.metrics} == {
        (manifest["step"], "toy_problem.plane", "0123456789abcdef")
    }
    rows = query(store, "select count(*) from metrics where run_uuid = ? group by key, step", run_id)
    assert set(rows) == {(1,)}


def test_its_signature_and_example_are_those_of_the_data(model):
    loaded = mlflow.pyfunc.load_model(model.model_uri, model_config={"imports": ["toy_problem"]})
    assert loaded.metadata.signature.to_dict() == {
        "inputs": '[{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 3]}}]',
        "outputs": '[{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 1]}}]',
        "params": None,
    }
    np.testing.assert_array_equal(loaded.input_example, INPUTS[:3].numpy())
    assert json.loads(loaded.metadata.get_serving_input(model.artifact_location)) == {"inputs": INPUTS[:3].tolist()}


def test_pyfunc_and_the_pytorch_flavor_predict_what_the_network_does(record, model):
    expected = accelerator.load_model(record[0])(INPUTS).numpy()
    loaded = mlflow.pyfunc.load_model(f"runs:/{record[2]}/model", model_config={"imports": ["toy_problem"]})
    np.testing.assert_array_equal(loaded.predict(INPUTS.numpy()), expected)
    exported = torch.export.load(f"{model.artifact_location}/pt2/model.pt2").module()
    np.testing.assert_allclose(exported(INPUTS).detach().numpy(), expected, rtol=1e-5, atol=1e-6)
    described = yaml.safe_load(Path(model.artifact_location, "MLmodel").read_text())
    assert described["flavors"]["pytorch"] == {
        "model_data": "pt2",
        "pytorch_version": torch.__version__,
    }


@pytest.mark.slow  # importing mlflow.pytorch takes 5 s
def test_mlflow_reads_the_pytorch_flavor_itself(record, model):
    import mlflow.pytorch

    expected = accelerator.load_model(record[0])(INPUTS)
    torch.testing.assert_close(mlflow.pytorch.load_model(model.model_uri)(INPUTS), expected)


def test_pyfunc_imports_no_module_that_was_not_allowed(record, model, tmp_path):
    with pytest.raises(CheckpointError, match="modules of its author's, toy_problem"):
        mlflow.pyfunc.load_model(model.model_uri)
    folder = shutil.copytree(model.artifact_location, tmp_path / "model")
    described = yaml.safe_load((folder / "MLmodel").read_text())
    described["flavors"]["python_function"]["config"]["imports"] = ["toy_problem"]
    (folder / "MLmodel").write_text(yaml.safe_dump(described))
    with pytest.raises(CheckpointError, match="MLmodel itself allows modules to be imported"):
        mlflow.pyfunc.load_model(str(folder))


def test_pyfunc_refuses_a_tampered_file(model, tmp_path):
    folder = shutil.copytree(model.artifact_location, tmp_path / "model")
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-1] + b"\x01")
    with pytest.raises(CheckpointError, match=r"model.safetensors is not the file that was written"):
        mlflow.pyfunc.load_model(str(folder), model_config={"imports": ["toy_problem"]})


def test_a_second_upload_of_the_journal_logs_no_second_model(record, model):
    run_dir, store, run_id = record
    described = Path(model.artifact_location, "MLmodel")
    written = described.stat().st_mtime_ns
    before = query(store, "select count(*) from logged_models")
    state = run_dir / "tracking.state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"offset": 0}))
    assert upload(run_dir) == 0
    assert query(store, "select count(*) from logged_models") == before
    assert len(MlflowClient(uri_of(store)).get_run(run_id).outputs.model_outputs) == 1
    assert described.stat().st_mtime_ns == written


@pytest.fixture
def copy(plane_run, empty, tmp_path):
    """(its folder, a store without runs) of the same run, not recorded."""
    return unrecorded(plane_run, tmp_path / "run"), shutil.copy(empty, tmp_path / "mlflow.db")


def test_a_model_whose_upload_was_cut_short_is_finished_not_doubled(copy, monkeypatch):
    run_dir, store = copy
    log = MlflowClient.log_model_artifacts

    def fail(*_):
        raise OSError("the store is away")

    monkeypatch.setattr(MlflowClient, "log_model_artifacts", fail)
    journal = prepare(run_dir, store)
    journal.event("model", path="model")
    journal.event("status", value="FINISHED")
    journal.close()
    assert upload(run_dir) == 75
    assert query(store, "select status from logged_models") == [(1,)]  # pending
    monkeypatch.setattr(MlflowClient, "log_model_artifacts", log)
    assert upload(run_dir) == 0
    assert query(store, "select status from logged_models") == [(2,)]  # ready


def test_a_folder_that_was_changed_or_is_gone_is_noted_and_not_logged(copy):
    run_dir, store = copy
    (run_dir / "model" / "requirements.txt").write_text("evil==1.0\n")
    journal = prepare(run_dir, store)
    journal.event("model", path="model")
    journal.event("model", path="other")
    journal.event("status", value="FINISHED")
    journal.close()
    assert upload(run_dir) == 0
    changed, gone = state_of(run_dir).notes
    assert changed.startswith("model model was refused: ")
    assert "requirements.txt is not the file that was written: 10 bytes" in changed
    assert gone == "model other was gone before it could be logged"
    assert query(store, "select count(*) from logged_models") == [(0,)]


def test_the_data_is_an_input_of_the_run_once_and_its_secrets_are_masked(copy, tiny_config):
    from accelerator.runtime.context.build import build_context

    run_dir, store = copy
    config = tiny_config()
    config["data"]["seed"] = 0
    context = build_context(config, None)
    config["data"]["api_key"] = "hunter2hunter2"
    facts = dataset_facts(config, None, context.data)
    journal = prepare(run_dir, store)
    journal.event("dataset", facts=facts)
    journal.event("dataset", facts=facts)
    journal.event("status", value="FINISHED")
    journal.close()
    assert upload(run_dir) == 0
    (found,) = MlflowClient(uri_of(store)).get_run(state_of(run_dir).run_id).inputs.dataset_inputs
    assert found.dataset.name == "toy_problem.plane"
    assert found.dataset.digest == context.data.source.digest
    assert json.loads(found.dataset.profile) == {"samples": {"train": 20, "val": 8, "test": 8}}
    assert json.loads(found.dataset.schema) == {"inputs": [3], "outputs": [1]}
    assert json.loads(found.dataset.source)["api_key"] == "***"
