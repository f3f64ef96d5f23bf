import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest
from stand_in_servers import (
    edit_state,
    free_port,
    kill_all,
    session,
    stand_in,
    stop_all,
    store_in,
    taken_port,
    wait_until,
)

from accelerator.errors import ConfigError, ServerError
from accelerator.tracking import server, server_process
from accelerator.tracking.locations import Location, locate
from accelerator.tracking.pages import Contents, Run, contents, login
from accelerator.tracking.server_checks import check_auth, check_store, reason
from accelerator.tracking.server_process import environment, is_healthy, is_loopback
from accelerator.tracking.tracker import TrackedRun

PASSWORD = "correct horse battery"


@pytest.fixture(autouse=True)
def nothing_of_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A store whose server is the stand-in, and is ended."""
    stand_in(monkeypatch)
    monkeypatch.setattr(server, "FIRST_PORT", free_port())
    location = store_in(tmp_path / "a project")
    yield location
    stop_all(location.uri)


def serving(folder):
    """All processes with a store of this folder on their command line."""
    return [p.pid for p in psutil.process_iter(["cmdline"]) if f"{folder}/" in " ".join(p.info["cmdline"] or [])]


def test_a_server_is_started_once_and_used_until_it_is_stopped(store):
    assert server.live_server(store.uri) is None
    first, new = server.start(store)
    assert new
    assert first.url == f"http://127.0.0.1:{first.port}"
    assert server.live_server(store.uri) == first.url
    again, new = server.start(store)
    assert (again, new) == (first, False)
    assert len(session(first.pid)) == 2
    assert os.getsid(0) != first.pid

    assert server.stop(store.uri) == first
    assert session(first.pid) == []
    assert not server.files_of(store.uri).state.exists()
    assert server.live_server(store.uri) is None
    assert server.stop(store.uri) is None


def test_its_files_stand_beside_the_database_whatever_way_leads_there(tmp_path):
    folder = tmp_path / "there"
    uri = store_in(folder).uri
    files = server.files_of(uri)
    assert [path.name for path in files] == [f"mlflow.db.server.{kind}" for kind in ("json", "log", "lock")]
    assert {path.parent for path in files} == {folder}
    (tmp_path / "link").symlink_to(folder)
    assert server.files_of(f"sqlite:///{tmp_path}/link/mlflow.db") == files
    assert server.files_of("postgresql://host/db").state.parent == tmp_path / "state" / "accelerator"
    assert server.files_of("postgresql://host/db") != server.files_of("postgresql://host/other")


def test_what_the_server_is_told(store, monkeypatch, tmp_path):
    stand_in(monkeypatch, notes=str(tmp_path / "notes"))
    monkeypatch.setenv("MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE", "true")
    monkeypatch.setenv("MLFLOW_RUN_ID", "abc")
    monkeypatch.setenv("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "true")
    found, _ = server.start(store)
    told = json.loads((tmp_path / "notes").read_text())
    assert told["arguments"] == [
        *("server", "--host", "127.0.0.1", "--port", str(found.port), "--workers", "1"),
        *("--uvicorn-opts", "--no-access-log --timeout-graceful-shutdown 2"),
        *("--artifacts-destination", str(tmp_path / "a project" / "mlartifacts")),
    ]
    mlflows = {name: value for name, value in told["environment"].items() if name.startswith("MLFLOW_")}
    assert mlflows == {
        "MLFLOW_BACKEND_STORE_URI": store.uri,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ALLOWED_HOSTS": "localhost,localhost:*,127.0.0.1,127.0.0.1:*,[::1],[[]::1]:*",
    }


def test_a_password_of_the_store_is_not_on_the_command_line_and_not_in_the_state():
    location = locate("postgresql://bob:pw123@host/db")
    told = environment(location, "127.0.0.1", 5000, auth=False)
    assert told["MLFLOW_BACKEND_STORE_URI"] == "postgresql://bob:pw123@host/db"
    assert "pw123" not in location.uri


def test_for_others_it_has_names_origins_and_a_key_of_its_own(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_AUTH_CONFIG_PATH", "users.ini")
    told = environment(Location("sqlite:////a/b.db", {}), "10.1.2.3", 5005, auth=True)
    name = socket.gethostname()
    allowed = told["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    assert {"localhost:*", "10.1.2.3", "10.1.2.3:*", name, f"{name}:*"} <= set(allowed)
    assert not {"10.*", "192.168.*", "*"} & set(allowed)
    assert "http://10.1.2.3:5005" in told["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"].split(",")
    assert told["MLFLOW_AUTH_CONFIG_PATH"] == str(tmp_path / "users.ini")
    assert len(told["MLFLOW_FLASK_SERVER_SECRET_KEY"]) == 64
    again = environment(Location("sqlite:////a/b.db", {}), "10.1.2.3", 5005, auth=True)
    assert again["MLFLOW_FLASK_SERVER_SECRET_KEY"] != told["MLFLOW_FLASK_SERVER_SECRET_KEY"]
    monkeypatch.setenv("MLFLOW_SERVER_ALLOWED_HOSTS", "mine.example")
    assert environment(Location("", {}), "127.0.0.1", 1, auth=False)["MLFLOW_SERVER_ALLOWED_HOSTS"] == "mine.example"


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True)]
    + [(host, False) for host in ("0.0.0.0", "::", "10.0.0.1", "localhost.example", "", "127.0.0.1.example")],
)
def test_what_only_this_machine_can_reach(host, expected):
    assert is_loopback(host) is expected


def test_another_port_or_host_than_the_live_one_is_refused(store):
    found, _ = server.start(store)
    with pytest.raises(
        ConfigError,
        match=rf"process {found.pid} serves {store.uri} on {found.url} already; .*: accelerator mlflow-ui stop",
    ):
        server.start(store, port=free_port())
    assert server.start(store, port=found.port, host="localhost") == (found, False)


def test_when_every_port_is_taken_that_is_told(store, monkeypatch):
    with taken_port() as port:
        monkeypatch.setattr(server, "FIRST_PORT", port)
        monkeypatch.setattr(server, "PORTS", 1)
        with pytest.raises(
            ConfigError, match=rf"the ports {port} to {port} are all taken; name a free one with --port"
        ):
            server.start(store)


def test_where_one_cannot_listen_is_told(store, monkeypatch):
    monkeypatch.setattr(server, "check_auth", lambda host, folder: None)
    with pytest.raises(ConfigError, match=r"one cannot listen on 198\.51\.100\.7, port 5000: Cannot assign requested"):
        server.start(store, host="198.51.100.7", port=5000)


def test_a_program_that_takes_the_port_meanwhile_makes_it_the_next(store, monkeypatch):
    """MLflow exits with 0 then, and the other program may even answer at /health."""
    asked = []

    def looks_free(host, port):
        asked.append(port)
        return len(asked) == 1 or server_process.is_free(host, port)

    with taken_port() as port:
        monkeypatch.setattr(server, "FIRST_PORT", port)
        monkeypatch.setattr(server, "is_free", looks_free)
        monkeypatch.setattr(server, "is_healthy", lambda found: found.port == port or is_healthy(found))
        found, new = server.start(store)
        assert new
        assert port < found.port < port + 100


def test_why_it_ended_is_told_from_its_log(store, monkeypatch):
    said = "INFO: hello\n2026/11/26 14:00:00 ERROR mlflow.cli: Detected out-of-date database schema, see db://bob:pw@host\n"
    stand_in(monkeypatch, dies=said)
    with pytest.raises(ServerError) as told:
        server.start(store)
    assert str(told.value) == (
        "MLflow's server ended while it started: Detected out-of-date database schema, see db://***@host\n"
        f"its log: {server.files_of(store.uri).log}"
    )
    assert not server.files_of(store.uri).state.exists()


def test_what_interrupts_the_wait_ends_the_server(store, monkeypatch, tmp_path):
    stand_in(monkeypatch, silent=True)

    def interrupt(seconds):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        server.start(store, progress=interrupt)
    assert not server.files_of(store.uri).state.exists()
    assert serving(tmp_path) == []


def test_a_frozen_one_hears_that_it_shall_end(store):
    found, _ = server.start(store)
    for pid in session(found.pid):
        os.kill(pid, signal.SIGSTOP)
    assert server.stop(store.uri) == found
    assert [child.returncode for child in server_process._children if child.pid == found.pid] == [-signal.SIGTERM]


def test_one_that_may_not_be_ended_is_told_and_not_forgotten(store, monkeypatch):
    """As that of another user."""
    found, _ = server.start(store)
    with monkeypatch.context() as patch:
        for act in ("terminate", "kill"):
            patch.setattr(psutil.Process, act, lambda process: (_ for _ in ()).throw(psutil.AccessDenied()))
        patch.setattr(server_process, "END_SECONDS", 0.1)
        patch.setattr(server_process.end, "__defaults__", (0.1,))
        with pytest.raises(ServerError, match=rf"process {found.pid} of \S+, which serves {store.uri}, could not be"):
            server.stop(store.uri)
    assert server.live_server(store.uri) == found.url


def test_a_folder_that_was_copied_knows_no_server_and_ends_none(store, tmp_path):
    found, _ = server.start(store)
    copied = store_in(tmp_path / "copy")
    server.files_of(copied.uri).state.write_bytes(server.files_of(store.uri).state.read_bytes())
    assert server.live_server(copied.uri) is None
    assert server.stop(copied.uri) is None
    assert server.live_server(store.uri) == found.url


@pytest.mark.parametrize("change", [{"machine": "another"}, {"pid": 2**22 + 1}, {"started": -100.0}, {"invented": 1}])
def test_a_state_that_is_of_no_process_here_counts_for_nothing(store, change):
    found, _ = server.start(store)
    edit_state(store.uri, **change)
    assert server.find(store.uri) is None
    assert server.stop(store.uri) is None
    kill_all(found.pid)


def test_a_run_links_to_the_live_server_else_to_where_one_would_be(store):
    run = TrackedRun("abc", "1", store.uri, True, 0)
    tail = "/#/experiments/1/runs/abc?workflowType=machine_learning"
    assert run.link == "http://127.0.0.1:5000" + tail
    found, _ = server.start(store)
    assert run.link == found.url + tail


def test_in_the_background_one_is_there_before_long(store, tmp_path):
    begin = time.monotonic()
    for _ in range(3):
        server.ensure_in_background(store.uri)
    assert time.monotonic() - begin < 0.5
    url = wait_until(lambda: server.live_server(store.uri))
    for starter in server._background[-3:]:
        assert starter.wait(20) == 0
    assert server.live_server(store.uri) == url
    found = server.find(store.uri)
    assert found is not None
    assert len(serving(tmp_path)) == len(session(found.pid)) == 2
    assert os.getpriority(os.PRIO_PROCESS, found.pid) == os.getpriority(os.PRIO_PROCESS, 0) + server.NICENESS
    before = len(server._background)
    server.ensure_in_background(store.uri)
    server.ensure_in_background("http://127.0.0.1:9")
    assert len(server._background) == before


def test_in_the_background_what_goes_wrong_is_in_the_log_and_holds_nothing_up(tmp_path, caplog, monkeypatch):
    (tmp_path / "mlflow.db").write_text("no database at all")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    server.ensure_in_background(uri)
    assert server._background[-1].wait(20) == 3
    assert f"{tmp_path}/mlflow.db is no SQLite database" in server.files_of(uri).log.read_text()
    monkeypatch.setattr(sys, "executable", "/gone/python")
    with caplog.at_level(logging.WARNING):
        server.ensure_in_background(uri)
    assert "tracking.server=auto: no server was started: [Errno 2]" in caplog.text


def test_what_a_store_must_be(tmp_path, monkeypatch):
    def told(uri):
        with pytest.raises(ConfigError) as error:
            check_store(uri)
        return str(error.value)

    assert told(f"sqlite:///{tmp_path}/gone/mlflow.db").startswith(f"there is no folder {tmp_path}/gone: make it, or")
    assert told(f"sqlite:///{tmp_path}").startswith(f"{tmp_path} is no file: name the database")
    (tmp_path / "text").write_text("hello, this is text")
    assert told(f"sqlite:///{tmp_path}/text").startswith(f"{tmp_path}/text is no SQLite database: name the store")
    assert told("http://host") == "http://host is a server's already: there is none to start"
    port = free_port()
    assert told(f"postgresql://***@127.0.0.1:{port}/db") == (
        f"the database of postgresql://***@127.0.0.1:{port}/db cannot be reached: Connection refused; is it running, "
        "and is its address right?"
    )
    check_store(f"sqlite:///{tmp_path}/new.db")
    monkeypatch.setattr(os, "access", lambda path, mode: path.name != "text")
    assert told(f"sqlite:///{tmp_path}/text").startswith(
        f"{tmp_path}/text is read-only, and MLflow's server writes to it"
    )


def test_what_a_login_needs(tmp_path, monkeypatch):
    def told(host):
        with pytest.raises(ConfigError) as error:
            check_auth(host, tmp_path)
        return str(error.value)

    monkeypatch.setattr("accelerator.tracking.server_checks.find_spec", lambda name: None)
    assert told("0.0.0.0") == (
        "--host 0.0.0.0 lets other machines in, and that needs a login: MLflow's basic auth, whose package Flask-WTF "
        "is not installed: pip install 'mlflow[auth]'; or leave --host out and come by ssh -L 5000:127.0.0.1:5000"
    )
    assert told("127.0.0.1").startswith("--auth needs MLflow's basic auth, whose package")
    monkeypatch.setattr("accelerator.tracking.server_checks.find_spec", lambda name: name)
    assert "no user yet: set MLFLOW_AUTH_ADMIN_PASSWORD" in told("0.0.0.0")
    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_PASSWORD", PASSWORD)
    check_auth("0.0.0.0", tmp_path)
    monkeypatch.delenv("MLFLOW_AUTH_ADMIN_PASSWORD")
    (tmp_path / "basic_auth.db").touch()
    check_auth("0.0.0.0", tmp_path)


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ("", "it said nothing"),
        ("hello\nbye\n", "bye"),
        ("Traceback …\nValueError: no such thing\nRunning the server failed.\n", "ValueError: no such thing"),
        ("2026/11/26 14:12:15 ERROR:    [Errno 98] address already in use\n", "[Errno 98] address already in use"),
        ("ERROR: postgresql://bob:pw@host is away", "postgresql://***@host is away"),
    ],
)
def test_the_reason_is_the_last_error_of_the_log(tmp_path, log, expected):
    (tmp_path / "log").write_text(log)
    assert reason(tmp_path / "log") == expected


def test_what_a_server_has_is_asked_without_mlflow(store, monkeypatch):
    found, _ = server.start(store)
    experiments = {"7": "digits", "0": "Default"}
    runs = [Run(name, f"run {name}", "FINISHED") for name in "cba"]
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert contents(found.url) == Contents(experiments, "7", runs[0], runs)


def test_a_server_that_asks_for_a_login_gets_the_one_there_is(store, monkeypatch):
    stand_in(monkeypatch, login=True)
    found, _ = server.start(store)
    with pytest.raises(ConfigError, match=rf"{found.url} asks for a login: set MLFLOW_TRACKING_USERNAME and MLFLOW_"):
        contents(found.url)
    assert contents(found.url, ("admin", "secret")).experiment == "7"
    assert login({}) is None
    assert login({"MLFLOW_TRACKING_USERNAME": "bob", "MLFLOW_TRACKING_PASSWORD": "pw"}) == ("bob", "pw")
    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_PASSWORD", PASSWORD)
    assert login({}) == ("admin", PASSWORD)


def test_a_server_that_is_away_or_is_none_of_mlflows_is_told():
    port = free_port()
    with pytest.raises(ConfigError, match=rf"http://127.0.0.1:{port} cannot be reached: Connection refused; is it"):
        contents(f"http://127.0.0.1:{port}")


def test_none_of_it_imports_mlflow_and_a_run_not_what_starts_a_server():
    code = (
        "import sys, accelerator.tracking.tracker, accelerator.tracking.server, accelerator.tracking.pages\n"
        "print({'mlflow', 'psutil', 'filelock', 'sqlalchemy'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
