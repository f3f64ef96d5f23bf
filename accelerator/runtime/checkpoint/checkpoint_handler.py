"""What is kept of a run, which of it is best, and which is last.

One file for each save, ``step-00000120.safetensors`` with its sidecar. "Last" is the newest whole one, "best" the
one whose sidecar holds the best monitored value among those of the full network; no other file says so.
"""

from __future__ import annotations

import datetime
import itertools
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from accelerator.errors import CheckpointError, ConfigError
from accelerator.runtime.checkpoint.background import Background, Snapshot
from accelerator.runtime.checkpoint.meta_handler import Meta, read_meta, sidecar, verify, write_meta
from accelerator.runtime.checkpoint.migration import migrate
from accelerator.runtime.checkpoint.naming import file_name
from accelerator.runtime.checkpoint.operation import decode, is_ours, write_steps

SUFFIX = ".safetensors"


class Saved(NamedTuple):
    """What is remembered of a checkpoint; in the order of age."""

    step: int
    created: str
    path: Path
    rating: float | None


class CheckpointHandler:
    """The checkpoints of one run directory.

    A save copies the state and returns; a thread writes it. At most one is being written, everything that looks at
    files waits for it, and what it fails of is raised by whatever comes next. On every rank of a distributed run the
    same calls give the same answers, though only one rank writes.

    Args:
        directory: where they stand; made at the first save.
        monitor: the metric that decides which is best.
        mode: ``min`` or ``max``.
        keep: how many of the newest are kept, beside the best.
        top_k: how many of the best are kept.
        filename: template of their names; see `naming`. A name that is taken gets ``-v1``, ``-v2``, … at its end.
        writes: whether this process writes them.

    Raises:
        ConfigError: ``mode``, ``keep`` or ``top_k`` is out of range.
    """

    def __init__(
        self,
        directory: Path,
        *,
        monitor: str = "val/loss",
        mode: str = "min",
        keep: int = 2,
        top_k: int = 1,
        filename: str = "step-{step:08d}",
        writes: bool = True,
    ) -> None:
        if mode not in ("min", "max"):
            raise ConfigError(f"checkpoint.mode={mode}: expected min or max")
        if keep < 2:
            raise ConfigError(f"checkpoint.keep={keep}: expected at least 2, so that one is whole if the newest is not")
        if top_k < 1:
            raise ConfigError(f"checkpoint.top_k={top_k}: expected at least 1")
        self.directory, self.monitor, self.mode, self.keep, self.top_k = directory, monitor, mode, keep, top_k
        self.filename, self.writes = filename, writes
        self._snapshot, self._background = Snapshot(), Background()
        self._known: list[Saved] | None = None  # oldest first; None until the folder was read
        self._clean = False

    @property
    def error(self) -> BaseException | None:
        """What the write in the background failed of, until `wait` raises it; costs nothing to look at."""
        return self._background.error

    @property
    def writing(self) -> bool:
        """Whether a file is being written in the background."""
        return self._background.running

    def wait(self) -> None:
        """Return when everything saved is on the disk.

        Raises:
            CheckpointError: it could not be written; earlier ones are untouched.
        """
        try:
            self._background.wait()
        except BaseException:
            self._known = None  # what was remembered of it is not there
            raise

    def save(self, state: Mapping[str, Any], **facts: Any) -> Path:
        """Take a copy of the state, to be written in the background; then what is no longer kept is removed.

        Args:
            state: a nest of plain values and tensors; it may change as soon as this returns.
            facts: fields of `Meta` other than the file's own.

        Returns:
            The file, finished after `wait`.

        Raises:
            CheckpointError: the save before this one could not be written; earlier ones are untouched.
        """
        self.wait()
        known = self._remembered()
        name = file_name(self.filename, {**facts["metrics"], **{key: facts[key] for key in ("step", "epoch", "level")}})
        path, taken = self.directory / (name + SUFFIX), {saved.path for saved in known}
        for number in itertools.count(1):
            if path not in taken:
                break
            path = self.directory / f"{name}-v{number}{SUFFIX}"
        created = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
        known = [*known, Saved(facts["step"], created, path, self._rating(facts["metrics"], facts["level"]))]
        kept = {*known[-self.keep :], *self._best(known)}
        gone = [saved.path for saved in known if saved not in kept]
        if self.writes:
            try:
                self.directory.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise CheckpointError(f"could not make {self.directory}: {error.strerror}") from error
            parts = self._snapshot.take(state)
            self._background.start(self._write(path, parts, {"created": created, **facts}, gone))
        self._known = [saved for saved in known if saved in kept]
        return path

    def load(self, path: Path) -> tuple[dict[str, Any], Meta]:
        """State and sidecar of a checkpoint, after comparing the two.

        Raises:
            CheckpointError: it is missing or damaged.
        """
        self.wait()
        meta = read_meta(path)
        verify(path, meta)
        return migrate(decode(path), meta.schema), meta

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
        """Finished checkpoints, oldest first; one whose sidecar cannot be read counts as the newest."""
        self.wait()
        found, unreadable = self._read()
        return [saved.path for saved in found] + unreadable

    def look(self) -> bool:
        """Read what is there, to remember it from now on; whether there is anything.

        In a distributed run every rank does so before the first save.
        """
        self.wait()
        self._known = None
        return bool(self._remembered())

    def best(self) -> Path | None:
        """The checkpoint of the full network with the best monitored value; None if none has one."""
        self.wait()
        return next((saved.path for saved in self._best(self._remembered())), None)

    def improves(self, metrics: Mapping[str, float], level: int) -> bool:
        """Whether these values would make a new best."""
        value = self._rating(metrics, level)
        best = next((saved.rating for saved in self._best(self._remembered())), None)
        return value is not None and (best is None or value < best)

    def _remembered(self) -> list[Saved]:
        if self._known is None:
            self._known = self._read()[0]
        return self._known

    def _read(self) -> tuple[list[Saved], list[Path]]:
        """The checkpoints that have a sidecar, by age, and those with one that cannot be read."""
        found, unreadable = [], []
        for path in sorted(self.directory.glob(f"*{SUFFIX}")):
            if sidecar(path).exists():
                try:
                    meta = read_meta(path)
                except CheckpointError:
                    unreadable.append(path)
                else:
                    found.append(Saved(meta.step, meta.created, path, self._rating(meta.metrics, meta.level)))
        return sorted(found, key=lambda saved: (saved.step, saved.created)), unreadable

    def _best(self, known: list[Saved]) -> list[Saved]:
        """The best ``top_k``, the best first, and of equals the oldest."""
        rated = [saved for saved in known if saved.rating is not None]
        return sorted(rated, key=lambda saved: saved.rating or 0.0)[: self.top_k]

    def _rating(self, metrics: Mapping[str, float], level: int) -> float | None:
        """Smaller is better; None if it cannot be compared (a coarse network, NaN, not measured)."""
        value = metrics.get(self.monitor, math.nan)
        if level != 0 or math.isnan(value):
            return None
        return value if self.mode == "min" else -value

    def _write(
        self, path: Path, parts: list[bytes | memoryview], facts: dict[str, Any], gone: list[Path]
    ) -> Iterator[None]:
        """In the background: the file, its sidecar, and only then the end of what is no longer kept."""
        if not self._clean:
            self._remove_unfinished()
            self._clean = True
        try:
            digest, size = yield from write_steps(path, parts)
            write_meta(path, Meta(digest, size, **facts))
        except CheckpointError:
            for file in (sidecar(path), path):
                with suppress(OSError):
                    file.unlink()
            raise
        try:
            for old in gone:
                # The sidecar first: a kill in between leaves a file that no longer counts.
                sidecar(old).unlink(missing_ok=True)
                old.unlink(missing_ok=True)
        except OSError as error:
            raise CheckpointError(f"could not remove {error.filename}: {error.strerror}") from error

    def _remove_unfinished(self) -> None:
        """Remove files that a killed process did not get to give a sidecar, or took it from; nobody else's."""
        for path in self.directory.glob(f"*{SUFFIX}"):
            if not sidecar(path).exists() and is_ours(path):
                with suppress(OSError):
                    path.unlink()
