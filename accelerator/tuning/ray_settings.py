"""The section ``ray`` of a study, and what Ray is to be told wherever it is started. Imports nothing of Ray's."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass
class RayConfig:
    """The Ray cluster that measures, with the backend ray."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    address: str | None = None  # host:port, or auto; None: RAY_ADDRESS, else a cluster of the study's own, here
    cpus: float | None = None  # of a trial; None: a share of this machine's cores, 1 of another cluster's
    gpus: float | None = None  # of a trial, parts of one too; None: a share of those there are


def launcher_environment(arguments: Sequence[str]) -> dict[str, str]:
    """What ``hydra/launcher=ray`` is started with: a cluster of its own listens on this machine only.

    Args:
        arguments: of the command line.
    """
    if "hydra/launcher=ray" not in arguments:
        return {}
    elsewhere = "RAY_ADDRESS" in os.environ or any("launcher.ray.init.address=" in argument for argument in arguments)
    # With the second of them off, which is for other systems, Ray takes the loopback for this machine's address.
    return {"RAY_USAGE_STATS_ENABLED": "0"} | ({} if elsewhere else {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"})
