"""Files kept elsewhere: what would keep them from arriving is told before a training, and what can arrive does."""

import os
import shutil
import sqlite3
import subprocess
import sys

import pytest
import torch
from model_helpers import PLANE, unrecorded
from record_helpers import prepare, state_of, uri_of
from toy_problem import plane

import accelerator
from accelerator.errors import CheckpointError, ConfigError
from accelerator.tracking import artifact_stores
from accelerator.tracking.artifact_stores import absolute, check, place_of_experiment, same_place, settle
from accelerator.tracking.model_sources import load_model
from accelerator.tracking.uploader import upload

INPUTS = plane()["test"][0]
PRESENT = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def server():
    """An S3 server of our own."""
    moto = pytest.importorskip("moto.server", reason="an S3 server is started with moto, of the dev extra")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(server, monkeypatch, tmp_path):
    """A client of it; this process finds it as MLflow would, and no other."""
    import boto3
    import requests

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    environment = {
        "MLFLOW_S3_ENDPOINT_URL": server,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        "NO_PROXY": "127.0.0.1",
    }
    for name, value in (PRESENT | environment).items():
        monkeypatch.setenv(name, value)
    requests.post(f"{server}/moto-api/reset")
    client = boto3.Session().client("s3", endpoint_url=server)
    client.create_bucket(Bucket="runs")
    yield client
    requests.post(f"{server}/moto-api/reset-auth", data=b"inf")


def test_a_bucket_that_can_be_written_to_is_left_as_it_was(s3):
    assert check("s3://runs/some/where") is None
    assert check("s3://runs") is None
    assert "Contents" not in s3.list_objects_v2(Bucket="runs")


def test_a_bucket_that_is_not_there_is_told(s3, server):
    assert check("s3://walks/some/where") == (
        f"tracking.artifacts=s3://walks/some/where: there is no bucket 'walks' at {server}: make it, or give another "
        "one"
    )


def test_wrong_credentials_and_missing_permission_are_told_apart(s3, server, monkeypatch):
    import boto3
    import requests

    iam = boto3.Session().client("iam", endpoint_url=server)
    iam.create_user(UserName="reader")
    key = iam.create_access_key(UserName="reader")["AccessKey"]
    requests.post(f"{server}/moto-api/reset-auth", data=b"0")
    place = "tracking.artifacts=s3://runs/a"
    assert check("s3://runs/a") == (
        f"{place}: the credentials are refused (InvalidAccessKeyId) at {server}: check AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY"
    )
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
    assert "the credentials are refused (SignatureDoesNotMatch)" in check("s3://runs/a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
    assert check("s3://runs/a") == (
        f"{place}: permission is denied (AccessDenied) at {server}: these credentials may not write to 'runs'"
    )


def test_no_credentials_at_all_are_told(s3, monkeypatch):
    for name in PRESENT:
        monkeypatch.delenv(name)
    assert check("s3://runs/a") == (
        "tracking.artifacts=s3://runs/a: there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
        "run aws configure"
    )


def test_a_store_that_does_not_answer_is_told(s3, monkeypatch):
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "http://127.0.0.1:9")
    assert check("s3://runs/a") == (
        "tracking.artifacts=s3://runs/a: the store does not answer at http://127.0.0.1:9 (EndpointConnectionError): "
        "check the address and the network"
    )


@pytest.mark.parametrize(
    ("place", "module", "extra"),
    [
        ("s3://b/a", "boto3", "s3"),
        ("gs://b/a", "google.cloud.storage", "gs"),
        ("wasbs://c@a.blob.core.windows.net/a", "azure.storage.blob", "azure"),
        ("sftp://host/a", "pysftp", "sftp"),
    ],
)
def test_a_package_that_is_missing_is_told_with_the_extra_that_brings_it(place, module, extra, monkeypatch):
    monkeypatch.setattr(artifact_stores, "find_spec", lambda name: None)
    assert check(place) == (
        f"tracking.artifacts={place} needs the package {module}: install it with pip install "
        f"'accelerator-platform[{extra}]'"
    )


def test_a_package_that_does_not_work_is_told(monkeypatch):
    def fail(name):
        raise ImportError("cannot import name 'DSSKey' from 'paramiko'")

    monkeypatch.setattr(artifact_stores, "find_spec", lambda name: object())
    monkeypatch.setattr(artifact_stores, "import_module", fail)
    assert check("sftp://host/a") == (
        "tracking.artifacts=sftp://host/a: pysftp cannot be used (cannot import name 'DSSKey' from 'paramiko'): "
        "install what it needs with pip install 'accelerator-platform[sftp]'"
    )


def test_an_sftp_server_that_does_not_answer_is_told(monkeypatch):
    monkeypatch.setattr(artifact_stores, "find_spec", lambda name: object())
    monkeypatch.setattr(artifact_stores, "import_module", lambda name: None)
    assert check("sftp://127.0.0.1:9/a") == (
        "tracking.artifacts=sftp://127.0.0.1:9/a: Connection refused: check the address and the permissions"
    )


def test_a_folder_is_fine_if_it_is_or_can_be_made(tmp_path, monkeypatch):
    assert check(str(tmp_path / "a" / "b")) is None
    (tmp_path / "file").write_text("")
    assert check(str(tmp_path / "file" / "b")) == (
        f"tracking.artifacts={tmp_path}/file/b: {tmp_path}/file is a file; give a folder"
    )
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "cannot be written to; give another folder" in check(str(tmp_path / "a"))


def test_an_address_holds_in_any_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert absolute("files") == str(tmp_path / "files")
    assert absolute("file:///data/files") == "/data/files"
    assert absolute("s3://runs/a") == "s3://runs/a"


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ("sfpt://host/a", r"MLflow keeps files in no 'sfpt' store — did you mean 'sftp'\?"),
        ("sftp://me:hunter2@host/a", r"sftp://me:\*\*\*@host/a holds a password, which the record would show"),
    ],
)
def test_an_address_that_will_not_do_is_told(wanted, told):
    with pytest.raises(ConfigError, match=told) as error:
        absolute(wanted)
    assert "hunter2" not in str(error.value)


@pytest.fixture
def store(empty, tmp_path):
    """A store with the experiment 'old', whose files are in /old/files."""
    file = shutil.copy(empty, tmp_path / "mlflow.db")
    with sqlite3.connect(file) as database:
        database.execute(
            "insert into experiments (name, artifact_location, lifecycle_stage) values ('old', '/old/files', 'active')"
        )
    database.close()
    return uri_of(file)


def test_an_experiment_that_is_there_keeps_its_place_and_that_is_told(store, tmp_path):
    place, told = settle(str(tmp_path / "new"), store, "old")
    assert place == str(tmp_path / "new")
    assert told == (
        "experiment 'old' keeps its files in /old/files, as it did when it was made: tracking.artifacts holds for new "
        "experiments only; to use it, set tracking.experiment to another name"
    )
    assert settle("/old/files/", store, "old") == ("/old/files", None)
    assert settle(str(tmp_path / "new"), store, "other") == (str(tmp_path / "new"), None)
    assert settle(None, store, "old") == (str(tmp_path / "mlartifacts"), None)
    assert settle(None, "http://127.0.0.1:9", "old") == (None, None)
    assert place_of_experiment(uri_of(tmp_path / "absent.db"), "old") is None


def test_what_keeps_files_from_arriving_is_an_error(s3, store):
    with pytest.raises(ConfigError, match="there is no bucket 'walks'"):
        settle("s3://walks/a", store, "new")
    with sqlite3.connect(store.removeprefix("sqlite:///")) as database:
        database.execute("update experiments set artifact_location = 's3://walks/old' where name = 'old'")
    database.close()
    with pytest.raises(ConfigError, match="s3://walks/old: there is no bucket 'walks'"):
        settle(None, store, "old")


def test_places_are_compared_however_they_are_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert same_place("file://" + str(tmp_path / "a"), "a")
    assert same_place("s3://b/a/", "s3://b/a")
    assert not same_place("s3://b/a", "s3://b/c")
    assert not same_place(None, "a")


def test_a_runs_files_and_model_arrive_in_s3_and_come_back_whole(s3, store, plane_run, tmp_path, monkeypatch):
    run_dir, uri = unrecorded(plane_run, tmp_path / "run"), store
    journal = prepare(run_dir, store.removeprefix("sqlite:///"), experiment="far", artifacts="s3://runs/far")
    journal.event("artifact", path="config.yaml", artifact_path=None)
    journal.event("model", path="model")
    journal.event("status", value="FINISHED")
    journal.close()
    assert upload(run_dir) == 0
    run_id = state_of(run_dir).run_id
    keys = [item["Key"] for item in s3.list_objects_v2(Bucket="runs")["Contents"]]
    assert f"far/{run_id}/artifacts/config.yaml" in keys
    (weights,) = (key for key in keys if key.endswith("artifacts/model.safetensors"))
    assert weights.startswith("far/models/m-")
    model = load_model(f"runs:/{run_id}", imports=["toy_problem"], uri=uri)
    again = accelerator.load_model(run_dir)
    assert torch.equal(model(INPUTS), again(INPUTS))
    s3.put_object(Bucket="runs", Key=weights, Body=b"something else")
    with pytest.raises(CheckpointError, match=r"not the file that was written: 14 bytes"):
        load_model(f"runs:/{run_id}", imports=["toy_problem"], uri=uri)
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(CheckpointError, match=r"cannot be fetched from s3://runs/far/.*not answer"):
        load_model(f"runs:/{run_id}", imports=["toy_problem"], uri=uri)


@pytest.mark.slow
def test_a_training_keeps_its_files_in_s3(s3, tmp_path, monkeypatch, capsys):
    from accelerator.cli.app import main

    monkeypatch.chdir(tmp_path)
    assert main(["train", *PLANE, "tracking.artifacts=s3://runs/here", "tracking.experiment=far"]) == 0
    (run_dir,) = tmp_path.glob("outputs/*/*")
    run_id = state_of(run_dir).run_id
    keys = [item["Key"] for item in s3.list_objects_v2(Bucket="runs")["Contents"]]
    assert f"here/{run_id}/artifacts/config.yaml" in keys
    assert any(key.endswith("/model.safetensors") for key in keys)
    model = accelerator.load_model(f"runs:/{run_id}", imports=["toy_problem"])
    assert torch.equal(model(INPUTS), accelerator.load_model(run_dir)(INPUTS))
    assert not (tmp_path / "mlartifacts").exists()
    capsys.readouterr()
    assert main(["train", *PLANE, "tracking.artifacts=s3://walks/here", "tracking.experiment=other"]) == 3
    assert "there is no bucket 'walks'" in capsys.readouterr().err
    assert len(list(tmp_path.glob("outputs/*/*"))) == 1


def test_an_experiment_with_files_elsewhere_is_noted_in_the_record(store, tmp_path):
    (tmp_path / "run").mkdir()
    journal = prepare(
        tmp_path / "run", store.removeprefix("sqlite:///"), experiment="old", artifacts=str(tmp_path / "new")
    )
    journal.event("status", value="FINISHED")
    journal.close()
    assert upload(tmp_path / "run") == 0
    (note,) = state_of(tmp_path / "run").notes
    assert note.startswith("experiment 'old' keeps its files in /old/files")


def test_looking_at_a_folder_imports_no_store():
    code = (
        "import sys\nfrom accelerator.tracking.artifact_stores import check\nassert check('.') is None\n"
        "assert not {'boto3', 'mlflow', 'paramiko', 'torch'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
