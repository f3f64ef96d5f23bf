"""Rows J1 to J5: whom MLflow's server, as we start it, lets in, and to what. With MLflow's own, one for all."""

import base64
import http.client
import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
from stand_in_servers import free_port, session

from accelerator.cli.app import main
from accelerator.errors import ConfigError
from accelerator.tracking import server
from accelerator.tracking.locations import locate

EXPERIMENT = json.dumps({"experiment_id": "0"})
PASSWORD = "correct horse battery"

# Each asks for a file outside the artifacts: the run's own link, the proxy's paths, plain, encoded once and twice.
TRAVERSALS = [
    "/get-artifact?path=../../../../etc/passwd&run_uuid={run}",
    "/get-artifact?path=/etc/passwd&run_uuid={run}",
    "/get-artifact?path=%2e%2e%2f%2e%2e%2fetc%2fpasswd&run_uuid={run}",
    "/get-artifact?path=%252e%252e%252fetc%252fpasswd&run_uuid={run}",
    "/api/2.0/mlflow/artifacts/list?path=../..&run_id={run}",
    "/api/2.0/mlflow-artifacts/artifacts/../../../etc/passwd",
    "/api/2.0/mlflow-artifacts/artifacts/%2e%2e/%2e%2e/etc/passwd",
    "/api/2.0/mlflow-artifacts/artifacts/..%5c..%5cetc%5cpasswd",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A store; its server is ended."""
    path = tmp_path_factory.mktemp("j")
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        del os.environ[name]
    yield path
    for store in path.glob("*.db"):
        server.stop(f"sqlite:///{store}")
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def live(folder):
    """A server that was started with everything the user's environment could weaken it by."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE", "true")
        patch.setenv("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "true")
        patch.setenv("MLFLOW_HOST", "0.0.0.0")
        found, _ = server.start(locate(f"sqlite:///{folder}/mlflow.db"), port=free_port())
    return found


@pytest.fixture(scope="module")
def run(live, folder):
    """A run with a file among its artifacts, which may be read."""
    made = ask(live, "POST", "/api/2.0/mlflow/runs/create", EXPERIMENT)
    info = json.loads(made.text)["run"]["info"]
    place = Path(info["artifact_uri"])
    assert folder in place.parents
    place.mkdir(parents=True)
    (place / "notes.txt").write_text("ours")
    answer = ask(live, "GET", f"/get-artifact?path=notes.txt&run_uuid={info['run_id']}")
    assert (answer.status, answer.text) == (200, "ours")
    return info["run_id"]


class Answer:
    def __init__(self, response):
        self.status, self.text = response.status, response.read().decode(errors="replace")


def ask(found, method, path, body=None, **headers):
    with closing(http.client.HTTPConnection("127.0.0.1", found.port, timeout=20)) as connection:
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, {"Content-Type": "application/json"} | headers)
        return Answer(connection.getresponse())


def listening(found):
    return {
        each.laddr.ip
        for pid in session(found.pid)
        for each in psutil.Process(pid).net_connections("tcp")
        if each.status == psutil.CONN_LISTEN
    }


@pytest.mark.faults
def test_j1_it_listens_on_this_machine_only(live):
    assert listening(live) == {"127.0.0.1"}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1"])
def test_j1_any_other_address_is_refused_without_a_login(tmp_path, monkeypatch, capsys, host):
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_AUTH_ADMIN_PASSWORD", "MLFLOW_AUTH_CONFIG_PATH", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    assert main(["mlflow-ui", "--host", host, "--uri", "sqlite:///m.db"]) == 3
    assert f"--host {host} lets other machines in, and that needs a login" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.faults
@pytest.mark.parametrize(
    "host", ["evil.example", "10.evil.example", "192.168.evil.example:80", "127.0.0.1.evil.example"]
)
def test_j2_a_foreign_host_is_refused(live, host):
    for path in ("/", "/api/2.0/mlflow/experiments/get?experiment_id=0"):
        assert ask(live, "GET", path, Host=host).status == 403
    assert ask(live, "GET", "/", Host=f"localhost:{live.port}").status == 200


@pytest.mark.faults
def test_j2_a_foreign_origin_is_refused(live):
    for path in ("/api/2.0/mlflow/experiments/delete", "/ajax-api/2.0/mlflow/experiments/delete"):
        assert ask(live, "POST", path, EXPERIMENT, Origin="http://evil.example").status == 403
    here = ask(live, "GET", "/api/2.0/mlflow/experiments/get?experiment_id=0", Origin=live.url)
    assert json.loads(here.text)["experiment"]["lifecycle_stage"] == "active"


@pytest.mark.faults
@pytest.mark.parametrize("path", TRAVERSALS)
def test_j3_a_path_that_leads_out_is_refused(live, run, path):
    answer = ask(live, "GET", path.format(run=run))
    assert 400 <= answer.status < 500
    assert "root:" not in answer.text


@pytest.mark.faults
def test_j5_jobs_are_off(live):
    with closing(sqlite3.connect(live.uri.removeprefix("sqlite:///"))) as store:
        before = store.execute("select count(*) from jobs").fetchall()
    answer = ask(live, "POST", "/ajax-api/3.0/jobs/", json.dumps({"job_name": "invoke_scorer", "params": {}}))
    assert (answer.status, "job execution feature is not enabled" in answer.text) == (500, True)
    answer = ask(live, "POST", "/ajax-api/3.0/jobs/", json.dumps({"job_name": "os.system", "params": {}}))
    assert answer.status == 400
    with closing(sqlite3.connect(live.uri.removeprefix("sqlite:///"))) as store:
        assert store.execute("select count(*) from jobs").fetchall() == before
    for pid in session(live.pid):
        assert "huey" not in " ".join(psutil.Process(pid).cmdline())
    leader = psutil.Process(live.pid)
    assert leader.environ()["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"


@pytest.mark.faults
@pytest.mark.skipif(
    find_spec("flask_wtf") is None, reason="MLflow's basic auth needs Flask-WTF: pip install mlflow[auth]"
)
def test_j4_nobody_deletes_without_a_login(folder, monkeypatch):
    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_PASSWORD", PASSWORD)
    found, _ = server.start(locate(f"sqlite:///{folder}/shared.db"), host="0.0.0.0", port=free_port())
    assert listening(found) == {"0.0.0.0"}
    delete = "/api/2.0/mlflow/experiments/delete"
    for path, body in ((delete, EXPERIMENT), ("/api/2.0/mlflow/experiments/search", '{"max_results": 1}')):
        for headers in ({}, {"Authorization": login("admin", "password1234")}, {"Authorization": login("bob", "")}):
            assert ask(found, "POST", path, body, **headers).status == 401
    headers = {"Authorization": login("admin", PASSWORD)}
    kept = ask(found, "GET", "/api/2.0/mlflow/experiments/get?experiment_id=0", **headers)
    assert json.loads(kept.text)["experiment"]["lifecycle_stage"] == "active"
    assert ask(found, "POST", delete, EXPERIMENT, Origin="http://evil.example", **headers).status == 403
    assert ask(found, "GET", "/", Host="evil.example", **headers).status == 403
    assert ask(found, "POST", delete, EXPERIMENT, **headers).status == 200
    environment = psutil.Process(found.pid).environ()
    assert environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert PASSWORD not in " ".join(psutil.Process(found.pid).cmdline())


def login(user, password):
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


@pytest.mark.faults
def test_j4_the_package_that_is_missing_is_named(tmp_path):
    if find_spec("flask_wtf") is not None:
        pytest.skip("Flask-WTF is installed")
    with pytest.raises(ConfigError, match=r"Flask-WTF is not installed: pip install 'mlflow\[auth\]'"):
        server.start(locate(f"sqlite:///{tmp_path}/mlflow.db"), host="0.0.0.0")
    assert subprocess.run([sys.executable, "-c", "import flask_wtf"], capture_output=True, check=False).returncode == 1
