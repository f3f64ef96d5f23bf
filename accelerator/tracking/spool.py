"""The files through which the training process and its uploader know of each other.

Each file has one writer, and is replaced in one step: ``tracking.json`` by the training process, before the uploader
starts; ``tracking.state.json`` by the uploader, after every batch. That one is of the run's own store; a copy
in another has a file of its own (see `state_file`), so that commands go on finding the run by its id.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple, TypeVar

from accelerator.runtime.journal import read

SETTINGS = "tracking.json"
STATE = "tracking.state.json"
LOG = "tracking.log"
LOCK = "tracking.lock"

RUNNING = "RUNNING"
FINAL = ("FINISHED", "FAILED", "KILLED")

TAIL = 4096  # bytes before the offset by which the uploader knows its place again

T = TypeVar("T")


class Unsent(NamedTuple):
    """What has not arrived.

    Attributes:
        points: metric points.
        files: artifacts.
        status: what the run last said of itself.
        nothing: everything has arrived, and the MLflow run is closed.
    """

    points: int
    files: int
    status: str
    nothing: bool


@dataclass
class Settings:
    """What the uploader is asked to do.

    Attributes:
        uri: the store, without credentials.
        experiment: the experiment's name.
        run_name: the run's name; None lets MLflow choose one.
        artifacts: where a new experiment keeps its files; None leaves it to the server.
        journal: the journal's path, from the run directory.
        key: a name for this run directory's run, by which the run is found again should its id be lost.
        started: when the run began, UTC in milliseconds.
        patience: seconds of unbroken failure after which, at the end of a run, what is left stays spooled.
        adopt: id of an existing run to write into (`mlflow run` made it).
        part_of: the folder of the run this one is nested in, a sweep's or a pipeline's.
        resumed: the directory had a tracker before.
        system_metrics: seconds between two samples of how busy the machine is; None takes none.
    """

    uri: str
    experiment: str
    run_name: str | None
    artifacts: str | None
    journal: str
    key: str
    started: int
    patience: float
    adopt: str | None = None
    part_of: str | None = None
    resumed: bool = False
    system_metrics: float | None = None


@dataclass
class State:
    """How far the uploader is.

    Attributes:
        uri: the store ``run_id`` belongs to.
        run_id: the MLflow run, once it is made.
        experiment_id: its experiment.
        offset: position in the journal up to which everything has arrived.
        tail: digest of the bytes before ``offset``; another one means that the journal was cut and continued.
        sending: a batch after ``offset`` may have arrived too.
        status: the last status the journal told.
        closed: the status the MLflow run was ended with, None while it runs.
        artifacts: files still to be copied, as the journal's ``[path, artifact_path]``, and model folders to be
            logged, as ``[path, None, "model"]``.
        names: metrics that are logged under another name.
        changes: of values while the run went on, by key, as text.
        notes: what MLflow does not show as it was.
        error: why the last attempt failed.
        refused: the store answers, and does not take the record.
        sampled: step of the last sample of the system's metrics.
    """

    uri: str = ""
    run_id: str | None = None
    experiment_id: str | None = None
    offset: int = 0
    tail: str = ""
    sending: bool = False
    status: str = RUNNING
    closed: str | None = None
    artifacts: list[list[str | None]] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    changes: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    error: str | None = None
    refused: bool = False
    sampled: int = -1


def state_file(run_dir: Path, uri: str, own: str) -> Path:
    """Where it is noted how far the uploader to a store is.

    Args:
        run_dir: the run directory.
        uri: the store, without credentials.
        own: the store of the run's settings. Another becomes the run's own if no run was ever made elsewhere.
    """
    state = load(run_dir / STATE, State)
    if uri == own or state is None or state.run_id is None or state.uri == uri:
        return run_dir / STATE
    return run_dir / f"tracking.state.{sha256(uri.encode()).hexdigest()[:12]}.json"


def save(path: Path, record: Settings | State) -> None:
    """Replace the file by the record, in one step."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(asdict(record), indent=1), encoding="utf-8")
    temporary.replace(path)


def load(path: Path, kind: type[T]) -> T | None:
    """The record in the file; None where there is none, or one that cannot be read."""
    try:
        return kind(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def tail_of(journal: Path, offset: int) -> str:
    """Digest of the journal's bytes before ``offset``; empty where the journal is shorter."""
    start = max(0, offset - TAIL)
    with journal.open("rb") as file:
        file.seek(start)
        before = file.read(offset - start)
    return sha256(before).hexdigest() if len(before) == offset - start else ""


def unsent(journal: Path, state: State | None) -> Unsent:
    """What of the journal has not arrived."""
    state = state or State()
    points, files, status, over = 0, len(state.artifacts), state.status, state.closed is not None
    try:
        offset = state.offset
        if state.tail != tail_of(journal, offset):
            offset, files, status, over = 0, 0, RUNNING, False
        for line, _ in read(journal, offset):
            over = False
            if line is None:
                continue
            points += "key" in line
            files += line.get("event") in ("artifact", "model")
            status = line["value"] if line.get("event") == "status" else status
    except OSError:  # the journal is gone, and with it whatever it still held
        pass
    return Unsent(points, files, status, over and not files)
