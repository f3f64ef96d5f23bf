"""What is asked before Ray is: whether it is installed, and whether something at an address speaks as it does."""

import socket
import threading
from contextlib import contextmanager

import pytest

from accelerator.errors import ConfigError
from accelerator.tuning import ray_cluster
from accelerator.tuning.ray_cluster import REMEDY, require_ray


@pytest.fixture(autouse=True)
def no_cluster_is_named(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray_cluster, "CONNECT", 0.2)


@contextmanager
def answering(answer):
    """A server that gives everybody one answer, or none and no end; yields its address."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                if answer is None:
                    connection.recv(100)  # until the other side gives up
                else:
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        thread.join(5)


@pytest.mark.parametrize(
    ("answer", "why"),
    [(None, "no answer"), (b"HTTP/1.1 400 Bad Request\r\n\r\n", "another kind of server")],
)
def test_what_is_no_cluster_is_told_at_once(answer, why):
    with answering(answer) as address, pytest.raises(ConfigError) as error:
        require_ray(address)
    assert str(error.value) == f"ray.address={address}: there is no Ray cluster ({why}); {REMEDY}"


def test_what_speaks_as_a_cluster_does_may_be_one():
    with answering(bytes([0, 0, 6, 4, 0, 0, 0, 0, 0]) + bytes(6)) as address:
        require_ray(address)


def test_the_address_in_the_environment_is_looked_at_too(monkeypatch):
    require_ray()
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = f"127.0.0.1:{server.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", free)
    with pytest.raises(ConfigError, match=rf"ray.address={free}: there is no Ray cluster \(connection refused\)"):
        require_ray()


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("here", "ray.address=here: expected host:port or auto"),
        ("here:there", "ray.address=here:there: expected host:port or auto"),
        ("127.0.0.1:99999", "ray.address=127.0.0.1:99999: there is no Ray cluster ("),
        (
            "ray://127.0.0.1:10001",
            "ray.address=ray://127.0.0.1:10001: a study runs inside a cluster; start it on one of its machines with "
            "ray.address=auto",
        ),
    ],
)
def test_an_address_that_is_none_is_told(address, problem):
    with pytest.raises(ConfigError) as error:
        require_ray(address)
    assert str(error.value).startswith(problem)


@pytest.mark.parametrize("missing", ["ray", "tensorboardX"])
def test_without_ray_or_its_tune_the_extra_is_named(monkeypatch, missing):
    there = ray_cluster.find_spec
    monkeypatch.setattr(ray_cluster, "find_spec", lambda name: None if name == missing else there(name))
    with pytest.raises(ConfigError) as error:
        require_ray()
    assert str(error.value) == "the backend ray needs Ray Tune: pip install 'accelerator-platform[ray]'"
