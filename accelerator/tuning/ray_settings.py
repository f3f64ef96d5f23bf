"""The section ``ray`` of a study, and what Ray is to be told wherever it is started. Imports nothing of Ray's."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar


@dataclass
class RayConfig:
    """The Ray cluster that measures, with the backend ray."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    address: str | None = None  # host:port, or auto; None: RAY_ADDRESS, else a cluster of the study's own, here
    cpus: float | None = None  # of a trial; None: a share of this machine's cores, 1 of another cluster's
    gpus: float | None = None  # of a trial, parts of one too; None: a share of those there are


LONGEST = 40  # characters of a folder below which the paths of Ray's sockets are not too long for the system

_INIT = "hydra.launcher.ray.init."


@cache  # Ray reads it once in a process
def token() -> str:
    """What the clusters that this process starts ask for: nobody else knows it, and it is in no file."""
    return secrets.token_hex(32)


def token_environment() -> dict[str, str]:
    """Where Ray finds it, unless the user has seen to that."""
    return {} if {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN"} & os.environ.keys() else {"RAY_AUTH_TOKEN": token()}


@contextmanager
def folder() -> Iterator[Path]:
    """A folder for what a cluster writes, gone afterwards."""
    place = Path(tempfile.mkdtemp(prefix="ray-", dir=None if len(tempfile.gettempdir()) <= LONGEST else "/tmp"))  # noqa: S108
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def by_launcher(arguments: Sequence[str]) -> bool:
    """Whether the jobs of a sweep are to run on Ray.

    Args:
        arguments: of the command line.
    """
    return "hydra/launcher=ray" in arguments


def joins(arguments: Sequence[str]) -> bool:
    """Whether they are to run on a cluster that is there."""
    return "RAY_ADDRESS" in os.environ or any("launcher.ray.init.address=" in argument for argument in arguments)


def launcher_environment(arguments: Sequence[str]) -> dict[str, str]:
    """What ``hydra/launcher=ray`` is started with: a cluster of its own listens on this machine only.

    Args:
        arguments: of the command line.
    """
    if not by_launcher(arguments):
        return {}
    # With the second of them off, which is for other systems, Ray takes the loopback for this machine's address.
    alone = {} if joins(arguments) else {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", **token_environment()}
    return {"RAY_USAGE_STATS_ENABLED": "0", **alone}


@contextmanager
def launcher_options(arguments: Sequence[str]) -> Iterator[list[str]]:
    """More arguments for ``hydra/launcher=ray``: a cluster of its own has no dashboard, and leaves nothing behind.

    Args:
        arguments: of the command line; what is set there is left as it is.
    """
    if not by_launcher(arguments) or joins(arguments):
        yield []
        return
    with folder() as place:
        options = {"include_dashboard": "false", "logging_level": f"{logging.CRITICAL}", "_temp_dir": f"'{place}'"}
        typed = {argument.split("=", 1)[0].lstrip("+") for argument in arguments}
        yield [f"++{_INIT}{key}={value}" for key, value in options.items() if f"{_INIT}{key}" not in typed]
