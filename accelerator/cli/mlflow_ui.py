"""``accelerator mlflow-ui``: MLflow's pages of a store, by a server that is used or started, and links into them."""

from __future__ import annotations

import json
import shlex
import signal
import socket
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING

from accelerator.cli.actions import Action, run_action
from accelerator.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

_EPILOG = """examples:
  accelerator mlflow-ui                                   the same as mlflow-ui start
  accelerator mlflow-ui --uri sqlite:///other/mlflow.db   another store
  accelerator mlflow-ui stop"""


def mlflow_ui_command(arguments: list[str]) -> int:
    """The command line's entry.

    Returns:
        The exit code; see `accelerator.cli.app.main`.
    """
    description = (
        "MLflow's pages of what was recorded. The server runs in the background, for this machine only, until it is "
        "stopped."
    )
    if not arguments or (arguments[0].startswith("-") and not {"-h", "--help"}.intersection(arguments)):
        arguments = ["start", *arguments]
    return run_action("mlflow-ui", description, _EPILOG, ACTIONS, arguments)


def start(options: Namespace) -> int:
    """Use or start a server, and print where to look."""
    from rich.console import Console

    from accelerator.tracking import server
    from accelerator.tracking.locations import is_database, locate, sqlite_file
    from accelerator.tracking.pages import login
    from accelerator.tracking.server_process import is_loopback

    console, location = Console(highlight=False, soft_wrap=True, markup=False), locate(options.uri)
    if options.uri is None and (file := sqlite_file(location.uri)) is not None and not file.exists():
        raise ConfigError(
            f"there is no store {file}: no run was recorded here yet (accelerator train makes one), or it is "
            f"elsewhere: name it with --uri or MLFLOW_TRACKING_URI; --uri {location.uri} makes this one"
        )
    if not is_database(location.uri):
        _print_links(console, _address(location.uri), login(location.secrets))
        return 0
    with _ending_with_us(location.uri, options.foreground):
        with console.status("looking for MLflow's server") as status:

            def progress(seconds: float) -> None:
                status.update(f"MLflow's server is starting: {seconds:.0f} s of at most {server.START_SECONDS:.0f}")

            found, new = server.start(
                location, host=options.host, port=options.port or None, auth=options.auth, progress=progress
            )
        how = "started" if new else f"running since {_local(found.since)}"
        console.print(f"MLflow's server  {found.url}  {how}, process {found.pid}")
        if not is_loopback(found.host):
            console.print(f"from elsewhere   http://{socket.getfqdn()}:{found.port}")
        console.print(f"store            {found.uri}")
        try:
            _print_links(console, found.url, login(location.secrets))
        except ConfigError as error:
            console.print(f"\nno links into it: {error}")
        if not options.foreground:
            console.print(f"\nend it with: {_command('stop', options.uri)}")
    return 0


def status(options: Namespace) -> int:
    """Tell whether a server lives."""
    from rich.console import Console

    from accelerator.tracking import server
    from accelerator.tracking.locations import is_database, locate
    from accelerator.tracking.server_process import is_healthy

    uri = locate(options.uri).uri
    if not is_database(uri):
        raise ConfigError(f"{uri} is a server of others: mlflow-ui status tells of those started here")
    found = server.find(uri)
    healthy = found is not None and is_healthy(found)
    if options.json:
        facts = {} if found is None else {**asdict(found), "url": found.url, "log": str(server.files_of(uri).log)}
        print(json.dumps({"running": found is not None, "healthy": healthy, "uri": uri, **facts}, indent=1))
        return 0
    console = Console(highlight=False, soft_wrap=True, markup=False)
    if found is None:
        console.print(f"no server of {uri} runs; start one with: {_command('', options.uri)}")
        return 0
    console.print(f"MLflow's server  {found.url}  {'answers' if healthy else 'does not answer'}")
    console.print(f"store            {uri}")
    console.print(f"process          {found.pid}, since {_local(found.since)}")
    console.print(f"log              {server.files_of(uri).log}")
    return 0


def stop(options: Namespace) -> None:
    """End the server."""
    from accelerator.tracking import server
    from accelerator.tracking.locations import is_database, locate

    uri = locate(options.uri).uri
    if not is_database(uri):
        raise ConfigError(f"{uri} is a server of others: mlflow-ui stop ends those started here")
    ended = server.stop(uri)
    print(f"no server of {uri} ran" if ended is None else f"stopped process {ended.pid}, which served {uri}")


def _local(since: str) -> str:
    return datetime.fromisoformat(since).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _address(uri: str) -> str:
    if not uri.startswith("http"):
        raise ConfigError(f"{uri} has pages of its own, and there is no server to start")
    return uri


def _print_links(console: Console, base: str, user: tuple[str, str] | None) -> None:
    from accelerator.tracking.locations import compare_link, run_link, runs_link
    from accelerator.tracking.pages import contents

    found = contents(base, user)
    if found.experiment is None or found.newest is None:
        console.print(f"\nno run yet       {base}")
    else:
        newest, ids = found.newest, [run.id for run in found.compared]
        console.print(f"\nexperiment {found.experiments[found.experiment]}")
        console.print(f"  runs           {runs_link(base, found.experiment)}")
        console.print(f"  charts         {runs_link(base, found.experiment, charts=True)}")
        console.print(f"  newest run     {run_link(base, found.experiment, newest.id)}  {newest.name}, {newest.status}")
        if len(ids) > 1:
            console.print(f"  compare {len(ids)}      {compare_link(base, found.experiment, ids)}")
    rest = [key for key in found.experiments if key != found.experiment]
    if found.experiment is not None and rest:
        console.print("\nother experiments")
        for key in rest:
            console.print(f"  {found.experiments[key]:<14} {runs_link(base, key)}")


@contextmanager
def _ending_with_us(uri: str, stays: bool) -> Iterator[None]:
    """Where we stay, the server ends when we are told to end."""
    from accelerator.tracking import server

    if not stays:
        yield
        return
    if (found := server.find(uri)) is not None:
        raise ConfigError(
            f"--foreground: process {found.pid} serves {uri} in the background already; end it first: "
            "accelerator mlflow-ui stop"
        )
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
        print("\nCtrl-C ends it", flush=True)
        while server.find(uri) is not None:
            time.sleep(0.5)
    except KeyboardInterrupt:
        print("ending it", flush=True)
    finally:
        signal.signal(signal.SIGTERM, before)
        server.stop(uri)


def _command(action: str, uri: str | None) -> str:
    words = ["accelerator", "mlflow-ui", *([action] if action else []), *(["--uri", uri] if uri else [])]
    return shlex.join(words)


def _uri(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--uri", help="the store; default: MLFLOW_TRACKING_URI, else mlflow.db in the current directory"
    )


def _start(parser: ArgumentParser) -> None:
    _uri(parser)
    parser.add_argument("--host", default="127.0.0.1", help="the address to bind; 127.0.0.1: this machine only")
    parser.add_argument("--port", type=_port, default=0, help="0, the default: 5000, or the next one that is free")
    parser.add_argument("--auth", action="store_true", help="ask for a login, as for any other --host")
    parser.add_argument("--foreground", action="store_true", help="stay, and end the server with Ctrl-C")


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise ConfigError(f"--port {text}: expected a number from 0 to 65535")
    return int(text)


def _status(parser: ArgumentParser) -> None:
    _uri(parser)
    parser.add_argument("--json", action="store_true", help="print it for programs")


ACTIONS = {
    "start": Action(
        "use the store's server, or start one, and print links",
        "accelerator.cli.mlflow_ui:start",
        _start,
        """examples:
  accelerator mlflow-ui --port 8080
  MLFLOW_AUTH_ADMIN_PASSWORD=… accelerator mlflow-ui --host 0.0.0.0     for others too, with a login""",
    ),
    "status": Action(
        "tell whether a server runs, and where",
        "accelerator.cli.mlflow_ui:status",
        _status,
        """examples:
  accelerator mlflow-ui status                                of the store here
  accelerator mlflow-ui status --uri sqlite:///other/mlflow.db""",
    ),
    "stop": Action(
        "end the server with all its processes",
        "accelerator.cli.mlflow_ui:stop",
        _uri,
        """examples:
  accelerator mlflow-ui stop                                  of the store here
  accelerator mlflow-ui stop --uri sqlite:///other/mlflow.db""",
    ),
}
