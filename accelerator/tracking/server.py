"""MLflow's server for a store: the one that lives is used, else one is started, for this machine alone.

Beside the database (``mlflow.db``) stand ``mlflow.db.server.json``: which process serves it, told by its number and
start time; ``.log``: what that says; ``.lock``: held by who starts one. Files of a server that is gone count for
nothing. A server outlives the command that started it, until `stop`.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from accelerator.errors import AcceleratorError, ConfigError, ServerError
from accelerator.tracking import spool
from accelerator.tracking.locations import Location, is_database, locate, sqlite_file
from accelerator.tracking.server_checks import check_auth, check_store, reason
from accelerator.tracking.server_process import (
    LOOPBACK,
    Server,
    age,
    end,
    is_free,
    is_healthy,
    is_loopback,
    launch,
    listens,
    members,
    process_of,
    seconds_after_boot,
)

FIRST_PORT, PORTS = 5000, 100  # tried in turn when none is asked for
START_SECONDS = 60.0
SILENT_SECONDS = 3.0  # after which one that has had its time to start is taken to hang
POLL = 0.2
NICENESS = 10  # of a server that is started beside a training

Progress = Callable[[float], None]

log = logging.getLogger(__name__)

# Python warns of a child that is forgotten while it lives.
_background: list[subprocess.Popen[bytes]] = []


class Files(NamedTuple):
    """What a store's server leaves beside it."""

    state: Path
    log: Path
    lock: Path


def files_of(uri: str) -> Files:
    """Beside a SQLite file; for any other store in the user's own state folder."""
    if (file := sqlite_file(uri)) is not None:
        base = file.resolve()
    else:
        home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        base = Path(home, "accelerator", sha256(uri.encode()).hexdigest()[:16])
    return Files(*(base.with_name(f"{base.name}.server.{kind}") for kind in ("json", "log", "lock")))


def find(uri: str) -> Server | None:
    """The server of a store that lives on this machine, whether it answers or not."""
    server = _known(uri)
    return server if server is not None and process_of(server) is not None else None


def live_server(uri: str) -> str | None:
    """The address of the store's server, if one lives and answers; a short look.

    Args:
        uri: the store, as `locate` gives it.
    """
    server = find(uri)
    return server.url if server is not None and is_healthy(server) else None


def start(
    location: Location,
    *,
    host: str = LOOPBACK,
    port: int | None = None,
    auth: bool = False,
    seconds: float = START_SECONDS,
    progress: Progress = lambda seconds: None,
) -> tuple[Server, bool]:
    """Use the store's server, or start one and wait until it answers.

    Args:
        location: the store, a database; a SQLite file that is absent is made.
        host: the address to bind; with any that other machines can reach, MLflow asks for a login.
        port: None takes the first free one from 5000 on.
        auth: ask for a login in any case.
        seconds: to wait at most.
        progress: is told now and then how many seconds have passed.

    Returns:
        The server, and whether this call has started it.

    Raises:
        ConfigError: store, host or port cannot be used; the remedy is told.
        ServerError: the server did not start, or not in time.
    """
    host = LOOPBACK if host == "localhost" else host
    files = files_of(location.uri)
    check_store(location.uri)
    if auth := auth or not is_loopback(host):
        check_auth(host, files.state.parent)
    with _lock(location.uri, seconds):
        if (server := _known(location.uri)) is not None:
            if _answers(server, progress):
                if (port or server.port, host, auth) != (server.port, server.host, server.auth):
                    raise ConfigError(
                        f"process {server.pid} serves {server.uri} on {server.url} already; to change that, end it "
                        "first: accelerator mlflow-ui stop"
                    )
                return server, False
            _drop(server)
        _make_database(location.uri)
        for candidate in [port] if port else range(FIRST_PORT, FIRST_PORT + PORTS):
            if is_free(host, candidate) and (
                server := _started(location, seconds, progress, host=host, port=candidate, auth=auth)
            ):
                return server, True
    if port:
        raise ConfigError(f"port {port} is taken by another program; name another, or none for the next free one")
    raise ConfigError(f"the ports {FIRST_PORT} to {FIRST_PORT + PORTS - 1} are all taken; name a free one with --port")


def stop(uri: str) -> Server | None:
    """End the store's server with all its processes; returns what it was, None where none ran.

    Raises:
        ServerError: it may not be ended by us, or does not end.
    """
    server = _known(uri)
    ended = end(server) if server is not None else 0
    if server is not None and ended and (left := members(server)):
        raise ServerError(f"process {left[0].pid} of {left[0].username()}, which serves {uri}, could not be ended")
    files_of(uri).state.unlink(missing_ok=True)
    return server if ended else None


def ensure_in_background(uri: str | None = None) -> None:
    """Have a server for the store before long, without waiting for it; what goes wrong stands in its log.

    Args:
        uri: as for `locate`; a store that is a server's needs none.
    """
    location = locate(uri)
    if not is_database(location.uri) or find(location.uri) is not None:
        return
    files = files_of(location.uri)
    source = location.secrets.get("MLFLOW_TRACKING_URI", location.uri)
    try:
        files.log.parent.mkdir(parents=True, exist_ok=True)
        with files.log.open("ab") as file:
            starter = subprocess.Popen(
                [sys.executable, "-P", "-m", "accelerator.tracking.server"],
                env=os.environ | {"MLFLOW_TRACKING_URI": source},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a signal that stops the training is not for it
            )
        _background.append(starter)
    except OSError as error:
        log.warning("tracking.server=auto: no server was started: %s", error)


def main() -> int:
    """Start a server for the store that the environment names; what `ensure_in_background` leaves behind."""
    os.nice(NICENESS)
    try:
        start(locate(None))
    except AcceleratorError as error:
        print(error, flush=True)
        return error.exit_code
    return 0


def _known(uri: str) -> Server | None:
    """The server of the store's state file, alive or not; a file that was copied with its folder tells of another's."""
    state = files_of(uri).state
    server = spool.load(state, Server)
    return server if server is not None and files_of(server.uri).state == state else None


def _lock(uri: str, seconds: float) -> Any:
    """Held until the context it gives is left; freed by the kernel if this process dies."""
    from filelock import FileLock, Timeout

    files = files_of(uri)
    try:
        files.lock.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(files.lock).acquire(timeout=seconds)
    except Timeout as error:
        raise ServerError(
            f"another process has been starting a server of {uri} for {seconds:g} s; see {files.log}"
        ) from error
    except (OSError, NotImplementedError) as error:
        raise ConfigError(f"the server's files cannot be kept in {files.lock.parent}: {error}") from error


def _answers(server: Server, progress: Progress) -> bool:
    """Whether it does; who started it may have died before it was up."""
    begin = time.monotonic()
    while process_of(server) is not None:
        if is_healthy(server, timeout=1.0):
            return True
        waited = time.monotonic() - begin
        if waited > SILENT_SECONDS and age(server) > START_SECONDS:
            break
        progress(waited)
        time.sleep(POLL)
    return False


def _started(
    location: Location, seconds: float, progress: Progress, *, host: str, port: int, auth: bool
) -> Server | None:
    """A server that answers; None where another program has taken the port meanwhile.

    Raises:
        ServerError: it ended, or gave no answer.
    """
    files = files_of(location.uri)
    files.log.write_bytes(b"")
    begin = time.monotonic()
    process = launch(location, host, port, auth=auth, folder=files.log.parent, log=files.log)
    server = Server(
        uri=location.uri,
        host=host,
        port=port,
        pid=process.pid,
        started=seconds_after_boot(process),
        since=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=socket.gethostname(),
        auth=auth,
    )
    _save(files.state, server)
    try:
        while (waited := time.monotonic() - begin) < seconds and process_of(server) is not None:
            if is_healthy(server) and listens(server):
                return server
            progress(waited)
            time.sleep(POLL)
    except BaseException:
        _drop(server)
        raise
    ended = process_of(server) is None
    _drop(server)
    if ended and not is_free(host, port):  # MLflow says so in its log, and exits with 0
        return None
    what = "ended while it started" if ended else f"gave no answer within {seconds:g} s and was ended"
    raise ServerError(f"MLflow's server {what}: {reason(files.log)}\nits log: {files.log}")


def _drop(server: Server) -> None:
    """End one that is of no use, at once, and forget it."""
    end(server, seconds=0.0)
    files_of(server.uri).state.unlink(missing_ok=True)


def _save(path: Path, server: Server) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(asdict(server), indent=1), encoding="utf-8")
    temporary.replace(path)


def _make_database(uri: str) -> None:
    """Make a SQLite file that is absent, in a process that may import MLflow."""
    if (file := sqlite_file(uri)) is None or file.exists():
        return
    code = "import sys; from accelerator.tracking.mlflow_run import make_store; make_store(sys.argv[1])"
    said = files_of(uri).log
    with said.open("wb") as output:
        done = subprocess.run(  # noqa: S603 - this very interpreter
            [sys.executable, "-P", "-c", code, uri],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            check=False,
        )
    if done.returncode:
        raise ServerError(f"the database {file} could not be made: {reason(said)}\nits log: {said}")


if __name__ == "__main__":
    sys.exit(main())
