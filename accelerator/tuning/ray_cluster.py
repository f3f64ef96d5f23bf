"""The Ray cluster a study runs on: one of its own, on this machine and for as long as it lasts, or one that is there.

A cluster of its own listens on 127.0.0.1 only and asks for a token that nobody else knows: whoever can speak to Ray can
run any code (CVE-2023-48022). It has no dashboard and reports nothing to anybody.
"""

from __future__ import annotations

import logging
import math
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib.util import find_spec
from typing import Any
from unittest.mock import patch

from accelerator.errors import ConfigError
from accelerator.tuning.ray_settings import folder, token_environment

LOOPBACK = "127.0.0.1"
OBJECT_STORE = 128 * 1024**2  # bytes of shared memory; trials exchange numbers
CONNECT = 5.0  # seconds to wait for an answer of a cluster
TRIES = 4  # to join it, a second each
SHARES = 10_000  # a GPU is shared in pieces no smaller than this part of it

SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",  # which is talkative even where it is told to be silent
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_gcs_rpc_server_connect_timeout_s": f"{CONNECT:.0f}",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the record is ours
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_RESULT_BUFFER_LENGTH": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}

REMEDY = "start one with 'ray start --head', or leave the address out for a cluster of the study's own"
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # RFC 9113, 3.4, which gRPC speaks
_SETTINGS_FRAME = b"\x04"


def require_ray(address: str | None = None) -> None:
    """See that Ray Tune is there, and something at the address of a cluster; imports nothing.

    Args:
        address: see `cluster`.

    Raises:
        ConfigError: it is not; what to do.
    """
    # What it needs besides is looked for too: a bare `ray` has no Tune.
    if any(find_spec(package) is None for package in ("ray", "tensorboardX", "pyarrow")):
        raise ConfigError("the backend ray needs Ray Tune: pip install 'accelerator-platform[ray]'")
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    if "://" in address:
        raise ConfigError(
            f"ray.address={address}: a study runs inside a cluster; start it on one of its machines with "
            "ray.address=auto"
        )
    if address not in ("local", "auto") and (why := _silence(*_host_and_port(address))):
        raise ConfigError(f"ray.address={address}: there is no Ray cluster ({why}); {REMEDY}")


@contextmanager
def cluster(
    workers: int, address: str | None = None, cpus: float | None = None, gpus: float | None = None
) -> Iterator[dict[str, float]]:
    """Be connected to a cluster; one that was started for this is gone afterwards, whatever happens.

    Args:
        workers: trials that are to run at a time.
        address: of a cluster, ``host:port``, or ``auto`` for that of this machine; None takes RAY_ADDRESS, and where
            that is not set starts one.
        cpus: of a trial; None: this machine's cores, shared among the workers, or 1 of another cluster.
        gpus: of a trial; None: those there are, shared among the workers, but one at most.

    Yields:
        What each trial is given: ``cpu`` and ``gpu``.

    Raises:
        ConfigError: there is no cluster at the address, or none of its machines has what a trial is to be given.
    """
    address = address or os.environ.get("RAY_ADDRESS") or None
    # A worker that dies is told of by its trial; Ray would print a page beside it, and that to stdout.
    silent = patch("ray._private.worker.print_to_stdstream", lambda *_, **__: None)
    with patch.dict(os.environ, SETTINGS), silent:
        import ray

        if ray.is_initialized():  # by whoever called us, who also ends it
            yield _share(workers, cpus or 1.0, gpus)
        elif address not in (None, "local"):
            _connect(address)
            try:
                yield _share(workers, cpus or 1.0, gpus)
            finally:
                ray.shutdown()
        else:
            cpus = cpus or max(1.0, _cores() // workers)
            with _started(math.ceil(cpus * workers)):
                yield _share(workers, cpus, gpus)


@contextmanager
def _started(cpus: int) -> Iterator[None]:
    import ray
    from ray._private import services

    # `ray.init` puts an address that other machines reach in the place of the loopback's.
    at_home = patch("ray._private.services.resolve_ip_for_localhost", lambda host: host)
    # A signal to the job's process group is for the study, which ends its cluster when its trials have saved.
    apart = patch("ray._private.services.ConsolePopen", partial(services.ConsolePopen, process_group=0))
    with folder() as place, patch.dict(os.environ, token_environment()):
        try:
            with at_home, apart:
                ray.init(
                    address="local",
                    num_cpus=cpus,
                    include_dashboard=False,
                    object_store_memory=OBJECT_STORE,
                    log_to_driver=False,
                    logging_level=logging.CRITICAL,
                    _node_ip_address=LOOPBACK,
                    _temp_dir=str(place),
                )
            yield
        finally:
            ray.shutdown()


def leave() -> None:
    """End what ``hydra/launcher=ray`` has begun; what its jobs have printed is shown first."""
    import ray

    ray.shutdown(_exiting_interpreter=True)  # which waits for the last lines, as Ray does when Python ends


def _connect(address: str) -> None:
    import ray
    from ray._private import services

    require_ray(address)
    as_given: Any = nullcontext()
    if address != "auto":
        host, port = _host_and_port(address)
        # What listens on the loopback only is not found under the address that Ray puts in its place.
        if (outside := services.resolve_ip_for_localhost(host)) == host or _silence(outside, port):
            as_given = patch("ray._private.services.resolve_ip_for_localhost", lambda host: host)
    fewer_tries = patch("ray._private.ray_constants.NUM_REDIS_GET_RETRIES", TRIES)
    try:
        with as_given, fewer_tries:
            ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
    except Exception as error:  # of many kinds: no cluster, another version of Ray or Python, a token it does not take
        ray.shutdown()
        why = str(error).strip().splitlines()[0]
        token = "" if "RAY_AUTH_TOKEN" in os.environ else ", or set RAY_AUTH_TOKEN if it asks for a token"
        raise ConfigError(
            f"ray.address={address}: no connection to a Ray cluster: {why.rstrip('.')}; {REMEDY}{token}"
        ) from error


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(f"ray.address={address}: expected host:port or auto")
    return host.strip("[]"), int(port)


def _silence(host: str, port: int) -> str:
    """Why what should be a cluster gives no answer; "" if it does. Ray itself would ask for minutes."""
    try:
        with socket.create_connection((host, port), CONNECT) as connection:
            if os.environ.get("RAY_USE_TLS", "0") != "0":
                return ""
            connection.settimeout(CONNECT)
            connection.sendall(_HELLO)
            answer = connection.recv(9)
    except TimeoutError:
        return "no answer"
    except (OSError, OverflowError) as error:
        return str(getattr(error, "strerror", None) or error).lower()
    return "" if answer[3:4] == _SETTINGS_FRAME else "another kind of server"


def _share(workers: int, cpus: float, gpus: float | None) -> dict[str, float]:
    """What each trial is given, which some machine has."""
    import ray

    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if gpus is None:
        there = sum(machine.get("GPU", 0.0) for machine in machines)
        gpus = min(1.0, math.floor(there / workers * SHARES) / SHARES)
    share = {"cpu": cpus, "gpu": gpus}
    for kind, wanted in share.items():
        most = max((machine.get(kind.upper(), 0.0) for machine in machines), default=0.0)
        if wanted > most:
            raise ConfigError(
                f"ray.{kind}s={wanted:g}: no machine of the cluster has as many {kind.upper()}s; the most is {most:g}"
            )
    return share


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
