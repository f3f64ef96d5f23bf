"""MLflow's server as a process: how it is started, whether it is the one we know of, what it listens on, its end."""

from __future__ import annotations

import errno
import math
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from accelerator.errors import ConfigError
from accelerator.tracking.locations import Location, artifact_folder

if TYPE_CHECKING:
    from psutil import Process

LOOPBACK = "127.0.0.1"
HEALTH_SECONDS = 2.0  # that one look at /health may take
END_SECONDS = 4.0  # between asking a server to end and ending it

CLOCK = 0.05  # seconds that two readings of one start time may lie apart; the kernel counts hundredths

# What the user's environment may not turn our server into.
LEFT_OUT = (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_RUN_ID",
    "MLFLOW_STATIC_PREFIX",
    "MLFLOW_GUNICORN_OPTS",
    "MLFLOW_ARTIFACTS_ONLY",
    "MLFLOW_SERVE_ARTIFACTS",
    "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE",
    "MLFLOW_ENABLE_REMOTE_ASSISTANT",
)

# Servers this process has started. Python warns of a child that is forgotten while it lives, and ours are meant to.
_children: list[subprocess.Popen[bytes]] = []


@dataclass(frozen=True)
class Server:
    """A server that was started, as its state file has it.

    Attributes:
        uri: the store, without credentials.
        host: the address it is bound to.
        port: its port.
        pid: the leader of its process group.
        started: when that process began, in seconds after the machine did: setting the clock moves neither.
        since: the same as a time of day, UTC, for people.
        machine: the host name of the machine.
        auth: whether one has to log in.
    """

    uri: str
    host: str
    port: int
    pid: int
    started: float
    since: str
    machine: str
    auth: bool = False

    @property
    def url(self) -> str:
        """Where it is reached from this machine."""
        host = {"0.0.0.0": LOOPBACK, "::": "[::1]"}.get(self.host, self.host)  # noqa: S104 - the reverse of binding
        return (
            f"http://[{host}]:{self.port}" if host.count(":") > 1 and "[" not in host else f"http://{host}:{self.port}"
        )


def launch(location: Location, host: str, port: int, *, auth: bool, folder: Path, log: Path) -> Process:
    """Start a server in a session of its own; returns at once.

    Args:
        location: the store.
        host: the address to bind.
        port: the port.
        auth: ask for a login.
        folder: its working directory, where MLflow keeps the users it knows.
        log: the file for what it says.
    """
    command = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port), "--workers", "1"]
    command += ["--uvicorn-opts", "--no-access-log --timeout-graceful-shutdown 2"]
    if (artifacts := artifact_folder(location.uri)) is not None:
        command += ["--artifacts-destination", artifacts]
    if auth:
        command += ["--app-name", "basic-auth"]
    import psutil

    with log.open("ab") as file:
        process = subprocess.Popen(  # noqa: S603 - this very interpreter
            command,
            cwd=folder,
            env=environment(location, host, port, auth=auth),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _children.append(process)
    return psutil.Process(process.pid)


def environment(location: Location, host: str, port: int, *, auth: bool) -> dict[str, str]:
    """What the server is told besides its command line, where others could read a password."""
    kept = {name: value for name, value in os.environ.items() if name not in LEFT_OUT}
    names = _names(host)
    # A name with a star is a pattern, in which a bracket must stand in brackets.
    allowed = [pattern for name in names for pattern in (name, f"{name.replace('[', '[[]')}:*")]
    ours = {
        "MLFLOW_BACKEND_STORE_URI": location.secrets.get("MLFLOW_TRACKING_URI", location.uri),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONSAFEPATH": "1",  # a file of the user's may be called as one of MLflow's modules
    }
    # MLflow's own list lets in every name that begins with 10. or 192.168., and so a page that was rebound to us.
    limits = {"MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(allowed)}
    if not is_loopback(host):
        limits["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"] = ",".join(f"http://{name}:{port}" for name in names)
    if auth:
        limits["MLFLOW_FLASK_SERVER_SECRET_KEY"] = secrets.token_hex(32)
        if users := kept.get("MLFLOW_AUTH_CONFIG_PATH"):
            ours["MLFLOW_AUTH_CONFIG_PATH"] = os.path.abspath(users)
    return limits | kept | ours


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what is bound there."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def process_of(server: Server) -> Process | None:
    """The server's process, None where it has ended, also when its number is another process's by now."""
    import psutil

    for child in _children:
        child.poll()  # what has ended is not to be left as a zombie
    if server.machine != socket.gethostname():
        return None
    try:
        process = psutil.Process(server.pid)
        return process if _began_with(server, process) and _lives(process) else None
    except psutil.Error:
        return None


def seconds_after_boot(process: Process) -> float:
    """When a process began."""
    import psutil

    return process.create_time() - psutil.boot_time()


def members(server: Server) -> list[Process]:
    """The processes of a server's session, also where its leader is gone."""
    import psutil

    leader = process_of(server)
    if leader is None and (server.machine != socket.gethostname() or _is_recycled(server)):
        return []
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if os.getsid(process.pid) != server.pid or not _lives(process):
                continue
            # Without its leader, a session of this number might be a later one that has lost its own.
            if leader is not None or "mlflow" in " ".join(process.cmdline()):
                found.append(process)
    return found


def age(server: Server) -> float:
    """Seconds since it began; infinite where it has ended."""
    process = process_of(server)
    return time.time() - process.create_time() if process is not None else math.inf


def end(server: Server, seconds: float = END_SECONDS) -> int:
    """End every process of a server and wait until they are gone; returns how many there were.

    Args:
        server: which.
        seconds: that they have to end themselves.
    """
    import psutil

    count = 0
    for act, patience in (("terminate", seconds), ("kill", END_SECONDS)):
        if patience == 0:
            continue
        left = members(server)
        count = max(count, len(left))
        for process in left:
            with suppress(psutil.Error):
                getattr(process, act)()
                process.resume()  # a frozen one would not hear it
        limit = time.monotonic() + patience
        while any(map(_lives, left)) and time.monotonic() < limit:
            time.sleep(0.02)
    for child in _children:
        if child.pid == server.pid and count:
            with suppress(subprocess.TimeoutExpired):
                child.wait(END_SECONDS)
    return count


def is_healthy(server: Server, timeout: float = HEALTH_SECONDS) -> bool:
    """Whether the server answers."""
    import http.client  # brings ssl

    url = server.url.removeprefix("http://")
    connection = http.client.HTTPConnection(url, timeout=timeout)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def listens(server: Server) -> bool:
    """Whether it is this server that has the port, and not another that was quicker."""
    import psutil

    for process in members(server):
        with suppress(psutil.Error):
            if any(
                found.status == psutil.CONN_LISTEN and found.laddr[1] == server.port
                for found in process.net_connections("tcp")
            ):
                return True
    return False


def is_free(host: str, port: int) -> bool:
    """Whether no other program has the port.

    Raises:
        ConfigError: one cannot listen there at all.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise ConfigError(f"one cannot listen on {host}, port {port}: {error.strerror}") from error
    return True


def _names(host: str) -> list[str]:
    """By which names a browser may call a server that is bound to ``host``."""
    names = ["localhost", LOOPBACK, "[::1]"]
    if not is_loopback(host):
        names += [socket.gethostname(), socket.getfqdn(), *_addresses(host)]
    return list(dict.fromkeys(names))


def _addresses(host: str) -> Iterator[str]:
    import psutil

    if host not in ("0.0.0.0", "::"):  # noqa: S104 - asked, not bound
        yield host
        return
    for addresses in psutil.net_if_addrs().values():
        for address in addresses:
            if address.family == socket.AF_INET:
                yield address.address


def _lives(process: Process) -> bool:
    """Whether it runs; what has ended may wait for long to be collected by a parent that is not us."""
    import psutil

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _is_recycled(server: Server) -> bool:
    """Whether another process has the leader's number: the kernel gives none away that a session still goes by."""
    import psutil

    try:
        return not _began_with(server, psutil.Process(server.pid))
    except psutil.Error:
        return False


def _began_with(server: Server, process: Process) -> bool:
    return abs(seconds_after_boot(process) - server.started) <= CLOCK
