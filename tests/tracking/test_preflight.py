"""What is told before anything is trained: a store that cannot take the record, or does not answer now."""

import base64
import json
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from record_helpers import fresh_store, uri_of

from accelerator.errors import ConfigError
from accelerator.tracking import preflight
from accelerator.tracking.preflight import check

REMEDY = "set tracking.uri to a store you may write to"
CANARY = "CANARY-77e1"


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))  # no login of the user's own


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    before = dict(os.environ)
    file = fresh_store(tmp_path_factory.mktemp("store"))
    os.environ.clear()
    os.environ.update(before)
    with closing(sqlite3.connect(file)) as connection:
        row = "insert into experiments (experiment_id, name, lifecycle_stage) values (?, ?, ?)"
        connection.execute(row, [7, "forgotten", "deleted"])
        connection.execute(row, [8, "digits", "active"])
        connection.commit()
    return file


def refused(uri, experiment="digits", **more):
    with pytest.raises(ConfigError) as raised:
        check(uri, experiment, **more)
    return raised.value.problems


@pytest.mark.parametrize("experiment", ["digits", "a new one"])
def test_a_file_that_can_be_written_is_fine(store, experiment):
    assert check(uri_of(store), experiment) == []


def test_a_file_that_is_not_there_yet_is_fine_and_is_not_made(tmp_path):
    assert check(f"sqlite:///{tmp_path}/new/deep/mlflow.db", "digits") == []
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_looked_at_within_milliseconds(store):
    check(uri_of(store), "digits")
    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        check(uri_of(store), "digits")
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) < 0.02  # 5 ms on a quiet machine


def test_a_deleted_experiment_is_told_with_the_command_that_brings_it_back(store, monkeypatch):
    assert refused(uri_of(store), "forgotten") == [
        f"experiment 'forgotten' was deleted in MLflow: restore it with `MLFLOW_TRACKING_URI={uri_of(store)} mlflow "
        "experiments restore --experiment-id 7`, or choose another name with tracking.experiment"
    ]
    monkeypatch.setenv("MLFLOW_RUN_ID", "a" * 32)  # `mlflow run` has made the run, wherever it is
    assert check(uri_of(store), "forgotten") == []


@pytest.mark.parametrize(
    ("revision", "told"),
    [
        (
            "0c779009ac13",
            "was made by an older MLflow: copy the file, then bring it up to date with `mlflow db upgrade",
        ),
        ("f" * 12, "was made by a newer MLflow than is installed here"),
    ],
)
def test_tables_of_another_mlflow_are_told(tmp_path, store, revision, told):
    file = tmp_path / "other.db"
    file.write_bytes(store.read_bytes())
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("update alembic_version set version_num = ?", [revision])
        connection.commit()
    (problem,) = refused(uri_of(file))
    assert f"the record {file} {told}" in problem


def test_what_is_known_of_mlflows_tables_is_what_mlflow_itself_makes(store):
    with closing(sqlite3.connect(store)) as connection:
        ((newest,),) = connection.execute("select version_num from alembic_version").fetchall()
    known = preflight._known_revisions()
    assert [revision for revision, outdated in known.items() if not outdated] == [newest]


def test_a_file_that_is_no_database_is_told(tmp_path):
    (tmp_path / "notes.db").write_text("these are my notes, not a database")
    assert refused(uri_of(tmp_path / "notes.db")) == [
        f"the record {tmp_path}/notes.db is not a SQLite file; {REMEDY}, or move the file away"
    ]
    (tmp_path / "empty.db").touch()  # as sqlite3 leaves one that was opened and not written to
    assert check(uri_of(tmp_path / "empty.db"), "digits") == []


def test_a_damaged_database_is_told(tmp_path, store):
    whole = bytearray(store.read_bytes())
    whole[100:8192] = b"\0" * 8092
    (tmp_path / "damaged.db").write_bytes(whole)
    (problem,) = refused(uri_of(tmp_path / "damaged.db"))
    assert problem.startswith(f"the record {tmp_path}/damaged.db is damaged: ")


def test_a_folder_or_a_file_in_the_way_is_told(tmp_path):
    (tmp_path / "file").write_text("x")
    assert refused(uri_of(tmp_path)) == [f"tracking.uri={uri_of(tmp_path)}: {tmp_path} is not a file; {REMEDY}"]
    assert refused(uri_of(tmp_path / "file" / "mlflow.db")) == [
        f"the folder of the record, {tmp_path}/file, cannot be made: {tmp_path}/file is a file; {REMEDY}"
    ]


def test_what_may_not_be_written_is_told(tmp_path, store, monkeypatch):
    """For a user who is not root, whom nothing is forbidden; os.access is what tells a read-only file system too."""
    file = tmp_path / "mlflow.db"
    file.write_bytes(store.read_bytes())
    locked = {file}
    monkeypatch.setattr(os, "access", lambda path, mode: path not in locked)
    assert refused(uri_of(file)) == [f"the record {file} is read-only; {REMEDY}, or make the file writable"]
    locked = {tmp_path}
    assert refused(uri_of(file)) == [f"the folder of the record, {tmp_path}, cannot be written; {REMEDY}"]
    assert refused(uri_of(tmp_path / "a" / "mlflow.db")) == [
        f"the folder of the record, {tmp_path}/a, cannot be made: {tmp_path} is not writable; {REMEDY}"
    ]
    assert refused(uri_of(store), artifacts=str(tmp_path / "files")) == [
        f"the artifacts' folder {tmp_path}/files cannot be made: {tmp_path} is not writable; {REMEDY}"
    ]
    assert check(uri_of(store), "digits", artifacts="s3://bucket/files") == []


def test_a_locked_database_holds_nothing_up(store):
    with closing(sqlite3.connect(store, isolation_level=None)) as connection:
        connection.execute("begin exclusive")
        begin = time.monotonic()
        assert check(uri_of(store), "forgotten") == []
        assert time.monotonic() - begin < 1


def test_an_address_mlflow_cannot_write_to_is_told():
    assert "tracking uri './mlruns' is no store MLflow can write to" in refused("./mlruns")[0]


def test_mlflow_is_not_imported(store):
    code = (
        "import sys; from accelerator.tracking.preflight import check\n"
        f"assert check('{uri_of(store)}', 'digits') == []\n"
        "assert not {'mlflow', 'requests', 'sqlalchemy', 'torch'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture
def server():
    """Answers every question with what the test sets, and keeps what it was asked."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers.get("Authorization")))
            code, body = Handler.says
            self.send_response(code)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_):
            pass

    asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        Handler.asked, Handler.uri = asked, f"http://127.0.0.1:{running.server_address[1]}"
        yield Handler
        running.shutdown()
        thread.join()


def told(**answer):
    return json.dumps(answer)


@pytest.mark.parametrize(
    "answer",
    [
        (200, told(experiment={"experiment_id": "3", "lifecycle_stage": "active"})),
        (404, told(error_code="RESOURCE_DOES_NOT_EXIST", message="no such experiment")),
    ],
)
def test_a_server_that_knows_or_does_not_know_the_experiment_is_fine(server, answer):
    server.says = answer
    assert check(f"{server.uri}/", "two words") == []
    assert server.asked == [("/api/2.0/mlflow/experiments/get-by-name?experiment_name=two+words", None)]


def test_an_experiment_deleted_on_a_server_is_told(server):
    server.says = (200, told(experiment={"experiment_id": "3", "lifecycle_stage": "deleted"}))
    assert refused(server.uri, "old") == [preflight.deleted("old", "3", server.uri)]


@pytest.mark.parametrize("code", [401, 403])
def test_a_server_that_does_not_let_us_in_is_told_without_the_password(server, code, monkeypatch):
    server.says = (code, "You are not authenticated. Please see https://mlflow.org")
    login = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, to ones it takes"
    expected = (
        f"{server.uri} does not let us in ({code}: 'You are not authenticated. Please see https://mlflow.org'); {login}"
    )
    assert refused(server.uri.replace("//", f"//bob:{CANARY}@")) == [expected]
    assert server.asked[-1][1] == f"Basic {base64.b64encode(f'bob:{CANARY}'.encode()).decode()}"
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", CANARY)
    assert refused(server.uri) == [expected]
    assert server.asked[-1][1] == f"Bearer {CANARY}"
    monkeypatch.setenv("MLFLOW_TRACKING_AUTH", "a plug-in that MLflow alone can ask")
    assert check(server.uri, "digits") == []


def test_the_login_in_the_users_file_is_used_as_mlflow_does(server, tmp_path):
    (tmp_path / ".mlflow").mkdir()
    (tmp_path / ".mlflow" / "credentials").write_text(
        f"[mlflow]\nmlflow_tracking_username = ann\nmlflow_tracking_password = {CANARY}%1\n"
    )
    server.says = (404, told(error_code="RESOURCE_DOES_NOT_EXIST"))
    assert check(server.uri, "digits") == []
    assert server.asked[-1][1] == f"Basic {base64.b64encode(f'ann:{CANARY}%1'.encode()).decode()}"


@pytest.mark.parametrize(
    "answer", [(200, "<html><title>Jupyter</title></html>"), (404, "<b>Not found</b>"), (200, "[]")]
)
def test_another_program_at_that_address_is_told(server, answer):
    server.says = answer
    (problem,) = refused(server.uri)
    assert problem.startswith(f"{server.uri} is no MLflow server: it answered {answer[0]}, '")
    assert "<" not in problem


def test_a_server_in_trouble_is_a_warning(server):
    server.says = (503, "starting")
    assert check(server.uri, "digits") == [f"{server.uri} answers with 503 Service Unavailable; {preflight.SPOOLED}"]
    assert preflight.unreachable(server.uri) == f"{server.uri} answers with 503 Service Unavailable"


def test_a_server_that_is_not_there_is_a_warning():
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert check(uri, "digits") == [
            f"{uri} does not answer (connection refused); the run goes on; its record is kept in its folder and sent "
            "when the server answers"
        ]
    assert preflight.unreachable("sqlite:///mlflow.db") is None


def test_a_server_that_is_frozen_is_a_warning_after_its_time(monkeypatch):
    monkeypatch.setattr(preflight, "TIMEOUT", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert check(uri, "digits")[0].startswith(f"{uri} does not answer (read timed out); the run goes on")
