"""What is kept of a run, which of it is best, and which is last.

One file for each save, ``step-00000120.safetensors`` with its sidecar. "Last" is the newest whole one, "best" the
one whose sidecar holds the best monitored value among those of the full network; no other file says so.
"""

from __future__ import annotations

import datetime
import hashlib
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerator.errors import CheckpointError, ConfigError
from accelerator.runtime.checkpoint.meta_handler import Meta, read_meta, sidecar, verify, write_meta
from accelerator.runtime.checkpoint.operation import decode, encode, write_bytes


class CheckpointHandler:
    """The checkpoints of one run directory.

    Args:
        directory: where they stand; made at the first save.
        monitor: the metric that decides which is best.
        mode: ``min`` or ``max``.
        keep: how many of the newest are kept, beside the best.

    Raises:
        ConfigError: ``mode`` or ``keep`` is out of range.
    """

    def __init__(self, directory: Path, *, monitor: str = "val/loss", mode: str = "min", keep: int = 2) -> None:
        if mode not in ("min", "max"):
            raise ConfigError(f"checkpoint.mode={mode}: expected min or max")
        if keep < 2:
            raise ConfigError(f"checkpoint.keep={keep}: expected at least 2, so that one is whole if the newest is not")
        self.directory, self.monitor, self.mode, self.keep = directory, monitor, mode, keep

    def save(self, state: Mapping[str, Any], **facts: Any) -> Path:
        """Write a checkpoint, then remove what is no longer kept.

        Args:
            state: a nest of plain values and tensors.
            facts: fields of `Meta` other than the file's own.

        Raises:
            CheckpointError: it could not be written; earlier ones are untouched.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(f"could not make {self.directory}: {error.strerror}") from error
        path = self.directory / f"step-{facts['step']:08d}.safetensors"
        data = encode(state)
        write_bytes(path, data)
        created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        write_meta(path, Meta(hashlib.sha256(data).hexdigest(), len(data), created=created, **facts))
        self._retire()
        return path

    def load(self, path: Path) -> tuple[dict[str, Any], Meta]:
        """State and sidecar of a checkpoint, after comparing the two.

        Raises:
            CheckpointError: it is missing or damaged.
        """
        meta = read_meta(path)
        verify(path, meta)
        return decode(path), meta

    def load_last(self) -> tuple[dict[str, Any], Meta, Path]:
        """The newest whole checkpoint; a damaged newer one is passed over with a warning that names both.

        Raises:
            CheckpointError: there is no whole one.
        """
        refused: list[str] = []
        for path in reversed(self.paths()):
            try:
                state, meta = self.load(path)
            except CheckpointError as error:
                refused.append(str(error))
                continue
            if refused:
                warnings.warn(f"falling back to {path}: " + "; ".join(refused), RuntimeWarning, stacklevel=2)
            return state, meta, path
        raise CheckpointError(
            "; ".join(refused) if refused else f"no checkpoint in {self.directory}: nothing to resume from"
        )

    def paths(self) -> list[Path]:
        """Finished checkpoints, oldest first."""
        found = (path for path in self.directory.glob("step-*.safetensors") if sidecar(path).exists())
        return sorted(found, key=_age)

    def best(self) -> Path | None:
        """The checkpoint of the full network with the best monitored value; None if none has one."""
        rated = self._rated()
        return min(rated, key=lambda path: (rated[path], _age(path))) if rated else None

    def improves(self, metrics: Mapping[str, float], level: int) -> bool:
        """Whether these values would make a new best."""
        value = self._rating(metrics, level)
        return value is not None and value < min(self._rated().values(), default=math.inf)

    def _rated(self) -> dict[Path, float]:
        rated = {}
        for path in self.paths():
            try:
                meta = read_meta(path)
            except CheckpointError:
                continue
            if (value := self._rating(meta.metrics, meta.level)) is not None:
                rated[path] = value
        return rated

    def _rating(self, metrics: Mapping[str, float], level: int) -> float | None:
        """Smaller is better; None if it cannot be compared (a coarse network, NaN, not measured)."""
        value = metrics.get(self.monitor, math.nan)
        if level != 0 or math.isnan(value):
            return None
        return value if self.mode == "min" else -value

    def _retire(self) -> None:
        paths = self.paths()
        kept = {*paths[-self.keep :], self.best()}
        for path in paths:
            if path not in kept:
                # The sidecar first: a kill in between leaves a file that no longer counts.
                sidecar(path).unlink(missing_ok=True)
                path.unlink(missing_ok=True)
        for path in self.directory.glob("step-*.safetensors"):
            if not sidecar(path).exists():
                path.unlink(missing_ok=True)


def _age(path: Path) -> tuple[int, str]:
    """Sorts by step, also beyond the eight digits that are written for most."""
    return len(path.name), path.name
