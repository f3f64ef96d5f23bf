"""The sidecar of a checkpoint: what it is, of which run, and whether it is whole.

Written after the tensors, so a checkpoint without its sidecar is an unfinished one and never counts.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch

from accelerator.errors import CheckpointError
from accelerator.runtime.checkpoint.operation import write_bytes

SCHEMA = 2


@dataclass(frozen=True)
class Meta:
    """What stands in a sidecar.

    Attributes:
        sha256: of the checkpoint file.
        bytes: its size.
        step: optimizer steps done.
        epoch: passes over the training split done.
        level: level of the network being trained; 0 is the full one.
        work: work units done.
        metrics: last values of validation.
        fingerprint: of the config; see `fingerprint`.
        created: UTC, ISO 8601.
        versions: of torch and of this package.
        commit: of the git repository the run was started in, or None.
        schema: version of the format.
    """

    sha256: str
    bytes: int
    step: int
    epoch: int
    level: int
    work: float
    metrics: dict[str, float]
    fingerprint: str
    created: str
    versions: dict[str, str]
    commit: str | None = None
    schema: int = SCHEMA


@cache
def versions() -> dict[str, str]:
    """Of torch and of this package, for sidecars; the package's metadata are read once, and not at every save."""
    return {"torch": torch.__version__, "accelerator": version("accelerator-platform")}


def sidecar(path: Path) -> Path:
    """Where a checkpoint's sidecar stands."""
    return path.with_suffix(".json")


def write_meta(path: Path, meta: Meta) -> None:
    """Write the sidecar of the checkpoint at ``path``: from now on it counts."""
    write_bytes(sidecar(path), json.dumps(asdict(meta), indent=1).encode())


def read_meta(path: Path) -> Meta:
    """The sidecar of the checkpoint at ``path``.

    Raises:
        CheckpointError: there is none, or it is of a newer format.
    """
    try:
        values = json.loads(sidecar(path).read_text())
        schema = values["schema"]
        if schema > SCHEMA:
            raise CheckpointError(
                f"{path} has format {schema}; this version reads up to {SCHEMA}: upgrade accelerator-platform"
            )
        return Meta(**values)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} has no sidecar {sidecar(path).name}: its save never finished") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{sidecar(path)} is damaged: {error}") from error


def verify(path: Path, meta: Meta) -> None:
    """Compare a checkpoint file with its sidecar.

    Raises:
        CheckpointError: the file is missing, cut short, or differs in any bit.
    """
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if found != meta.sha256:
        size = path.stat().st_size
        raise CheckpointError(
            f"{path} is damaged: {size:,} bytes with SHA-256 {found[:12]}…, "
            f"expected {meta.bytes:,} bytes with {meta.sha256[:12]}…"
        )


def fingerprint(config: object) -> str:
    """SHA-256 of a plain config, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()
