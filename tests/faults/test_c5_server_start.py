"""Row C5: a server that is slow, never comes, or finds its port taken."""

import time

import pytest
from stand_in_servers import free_port, stand_in, stop_all, store_in, taken_port

from accelerator.cli.app import main
from accelerator.errors import ConfigError, ServerError
from accelerator.tracking import server


@pytest.fixture
def store(tmp_path, monkeypatch):
    stand_in(monkeypatch)
    monkeypatch.setattr(server, "FIRST_PORT", free_port())
    location = store_in(tmp_path)
    yield location
    stop_all(location.uri)


def test_c5_a_slow_one_is_waited_for_with_progress(store, monkeypatch, record_property):
    stand_in(monkeypatch, delay=1.5)
    told = []
    begin = time.monotonic()
    found, new = server.start(store, progress=told.append)
    seconds = time.monotonic() - begin
    record_property("measured", f"up after 1.5 s, seen after {seconds:.1f} s")
    assert new
    assert server.live_server(store.uri) == found.url
    assert told == sorted(told)
    assert len(told) >= 4
    assert 1.0 < told[-1] <= seconds


@pytest.mark.parametrize("asked", [{"silent": True}, {"delay": 60}], ids=["silent", "slow"])
def test_c5_one_that_never_comes_is_ended_and_told(store, monkeypatch, asked):
    stand_in(monkeypatch, **asked)
    begin = time.monotonic()
    with pytest.raises(ServerError) as told:
        server.start(store, seconds=1.0)
    assert time.monotonic() - begin < 10
    log = server.files_of(store.uri).log
    assert str(told.value) == (
        f"MLflow's server gave no answer within 1 s and was ended: it said nothing\nits log: {log}"
    )
    assert server.find(store.uri) is None
    assert not server.files_of(store.uri).state.exists()


def test_c5_the_limit_is_60_seconds():
    assert server.start.__kwdefaults__["seconds"] == server.START_SECONDS == 60


def test_c5_a_taken_port_that_was_named_is_told(store):
    with taken_port() as port, pytest.raises(ConfigError) as told:
        server.start(store, port=port)
    assert str(told.value) == f"port {port} is taken by another program; name another, or none for the next free one"
    assert server.find(store.uri) is None


def test_c5_without_a_name_the_next_free_port_is_taken(store, monkeypatch):
    with taken_port() as port:
        monkeypatch.setattr(server, "FIRST_PORT", port)
        found, new = server.start(store)
    assert new
    assert port < found.port < port + server.PORTS


def test_c5_the_command_says_it_in_a_sentence(store, monkeypatch, capsys):
    stand_in(monkeypatch, dies="ERROR: [Errno 28] No space left on device")
    assert main(["mlflow-ui", "--uri", store.uri]) == 1
    said = capsys.readouterr()
    assert "error: MLflow's server ended while it started: [Errno 28] No space left on device" in said.err
    assert f"its log: {server.files_of(store.uri).log}" in said.err
    assert "Traceback" not in said.out + said.err


@pytest.mark.faults
def test_c5_mlflows_own_on_a_port_that_is_taken_meanwhile(tmp_path, monkeypatch):
    """It says so in its log, exits with 0, and whoever has the port answers: none of that is taken for a start."""
    location = store_in(tmp_path)
    (tmp_path / "mlflow.db").unlink()
    asked = []

    def looks_free(host, port):
        asked.append(port)
        return len(asked) == 1

    with taken_port() as port:
        monkeypatch.setattr(server, "is_free", looks_free)
        with pytest.raises(ConfigError, match=f"port {port} is taken by another program"):
            server.start(location, port=port)
    assert server.find(location.uri) is None
