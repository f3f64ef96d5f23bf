"""What a store holds: runs found, read and removed; nothing is made or changed but what is to be deleted.

MLflow is imported when a store is opened: 0.8 s, and 0.5 s more for a SQLite file, whose tables are looked over.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerator.errors import UserError, did_you_mean
from accelerator.tracking.answers import answering, check_file
from accelerator.tracking.locations import UI, locate, run_link
from accelerator.tracking.mlflow_run import ENVIRONMENT

if TYPE_CHECKING:
    from mlflow.tracking.client import MlflowClient

PARENT_TAG, NAME_TAG, DIFFERENCE_TAG = "mlflow.parentRunId", "mlflow.runName", "config.difference"

WHOLES = ("pipeline", "sweep", "tune")  # kinds of runs that consist of others

SHORTEST_ID = 6  # digits; shorter words of them could be anything

_ID = re.compile(r"[0-9a-f]{1,32}")

_PAGE = 1000  # runs asked for at a time; a server refuses more than 50,000
_NAMES = 200  # runs whose names are compared with one that is not there


@dataclass(frozen=True)
class StoredRun:
    """A run as the store has it.

    Attributes:
        id: its MLflow id.
        name: its name; several runs may share one.
        experiment: its experiment's name.
        experiment_id: that one's id.
        status: RUNNING, FINISHED, FAILED, KILLED or SCHEDULED.
        started: UTC, milliseconds since 1970.
        ended: the same; None while it runs.
        params: its config, flattened.
        tags: MLflow's own too.
        metrics: the last value of each.
        artifacts: where its files are.
    """

    id: str
    name: str
    experiment: str
    experiment_id: str
    status: str
    started: int
    ended: int | None
    params: dict[str, str] = field(default_factory=dict, repr=False)
    tags: dict[str, str] = field(default_factory=dict, repr=False)
    metrics: dict[str, float] = field(default_factory=dict, repr=False)
    artifacts: str = ""

    @property
    def seconds(self) -> float | None:
        """How long it took; None while it runs."""
        return None if self.ended is None else (self.ended - self.started) / 1000

    @property
    def parent(self) -> str | None:
        """The id of the run it is a part of."""
        return self.tags.get(PARENT_TAG)

    @property
    def is_whole(self) -> bool:
        """Whether it consists of other runs, as a sweep does."""
        return self.tags.get("kind") in WHOLES

    @property
    def group(self) -> str | None:
        """The word it shares with others."""
        return self.tags.get("group")

    @property
    def monitor(self) -> tuple[str, str] | None:
        """The metric it was rated by, and ``min`` or ``max``."""
        if metric := self.params.get("checkpoint.monitor"):
            return metric, self.params.get("checkpoint.mode", "min")
        metric = self.tags.get("primary_metric")  # of a train function
        return (metric, self.tags.get("primary_metric.mode", "min")) if metric else None

    def rated(self, metric: str) -> float | None:
        """A metric of its best checkpoint, where the record has it, else its last value.

        A whole has the best of its parts on record: it is none of them.
        """
        last = self.metrics.get(metric)
        return last if self.is_whole else self.metrics.get(f"best/{metric}", last)

    @property
    def folder(self) -> Path | None:
        """Its folder, where it is on this machine and still this run's."""
        told = self.tags.get("run_dir")
        return Path(told) if told and is_folder_of(Path(told), self.id) else None


class Store:
    """A tracking store, for reading; see `open_store`.

    Everything that asks the store raises `UserError` where it does not answer.

    Args:
        uri: the address without credentials, for messages and links.
        client: MLflow's.
    """

    def __init__(self, uri: str, client: MlflowClient) -> None:
        self.uri = uri
        self.client = client

    @cached_property
    def experiments(self) -> dict[str, str]:
        """The names of the experiments that are not deleted, by id."""
        with self._answering():
            return {found.experiment_id: found.name for found in self.client.search_experiments()}

    def runs(
        self,
        condition: str = "",
        *,
        experiment: str | None = None,
        group: str | None = None,
        order: Sequence[str] = ("attributes.start_time DESC",),
        limit: int | None = None,
    ) -> list[StoredRun]:
        """The runs of the store that are not deleted, newest first.

        Args:
            condition: in MLflow's filter syntax.
            experiment: the name of the only one that is meant.
            group: the tag of the only ones that are meant.
            order: in MLflow's order syntax.
            limit: how many at most.

        Raises:
            UserError: there is no such experiment, or MLflow does not read the condition.
        """
        ids = list(self.experiments) if experiment is None else [self._experiment_id(experiment)]
        conditions = [condition] if condition.strip() else []
        if group is not None:
            conditions.append(f"tags.group = {_quoted(group)}")
        asked = " and ".join(conditions)
        found: list[StoredRun] = []
        token = None
        with self._answering(condition):
            while limit is None or len(found) < limit:
                size = _PAGE if limit is None else min(_PAGE, limit - len(found))
                page = self.client.search_runs(ids, asked, order_by=list(order), max_results=size, page_token=token)
                found += [self._stored(run) for run in page]
                token = page.token
                if not token:
                    break
        return found

    def find(self, wanted: str) -> StoredRun:
        """One run by its id, the first six or more digits of that, its name, or ``last``: the one started last.

        Raises:
            UserError: there is none, or more than one.
        """
        if wanted == "last":
            found = [run for run in self.runs(limit=_PAGE) if run.parent is None][:1]
            if not found:
                raise UserError(f"{self.uri} holds no runs yet: accelerator train makes one")
            return found[0]
        found: list[StoredRun] = []
        word = wanted.lower()
        is_id = _ID.fullmatch(word) is not None
        if is_id and len(word) >= SHORTEST_ID:
            found = self.runs(f"attributes.run_id LIKE '{word}%'")
        found = found or self.runs(f"attributes.run_name = {_quoted(wanted)}")
        if len(found) == 1:
            return found[0]
        if not found:
            known = [run.name for run in self.runs(limit=_NAMES)]
            short = "; of an id, give at least 6 digits" if is_id and len(word) < SHORTEST_ID else ""
            near = did_you_mean(wanted, known, show=0)
            raise UserError(f"no run '{wanted}' in {self.uri}{near}{short}; accelerator runs list shows what there is")
        rows = "".join(f"\n  {run.id}  {run.experiment}  {when(run.started)}  {run.name}" for run in found[:12])
        give = "more digits of the id" if found[0].id.startswith(word) else "the id"
        raise UserError(f"'{wanted}' may be {len(found)} runs; give {give} of one:{rows}")

    def by_ids(self, ids: Iterable[str]) -> list[StoredRun]:
        """Those of these runs that are there and not deleted."""
        wanted = sorted(set(ids))
        if not wanted:
            return []
        return self.runs(f"attributes.run_id IN ({', '.join(map(_quoted, wanted))})")

    def children(self, run: StoredRun) -> list[StoredRun]:
        """The runs that are part of it, and those that are part of these, in the order they started."""
        return self._children(run, {run.id})

    def history(self, run: StoredRun, metric: str) -> list[tuple[int, float, int]]:
        """Every point of a metric: step, value and time, by step."""
        with self._answering():
            points = self.client.get_metric_history(run.id, metric)
        return sorted((point.step, point.value, point.timestamp) for point in points)

    def files(self, run: StoredRun, folder: str | None = None) -> list[tuple[str, int]]:
        """Path and bytes of every file the run has logged.

        Args:
            run: the run.
            folder: where to look; everywhere by default.
        """
        found: list[tuple[str, int]] = []
        with self._answering():
            for file in self.client.list_artifacts(run.id, folder):
                found += self.files(run, file.path) if file.is_dir else [(file.path, file.file_size or 0)]
        return found

    def download(self, run: StoredRun, path: str, folder: Path) -> None:
        """Copy one logged file, below a folder that is there."""
        with self._answering():
            self.client.download_artifacts(run.id, path, str(folder))

    def delete(self, run: StoredRun) -> None:
        """Delete a run as MLflow does: it is hidden, and can be restored."""
        with self._answering():
            self.client.delete_run(run.id)

    def delete_files(self, run: StoredRun) -> None:
        """Delete what a run has logged, for good."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        check_own_files(run)
        with self._answering():
            get_artifact_repository(run.artifacts, tracking_uri=self.client.tracking_uri).delete_artifacts()

    def link(self, run: StoredRun) -> str:
        """The run's page in MLflow's UI: on the store's own server if one lives, else where it would be."""
        from accelerator.tracking.server import live_server

        return run_link(self.uri, run.experiment_id, run.id, server=live_server(self.uri) or UI)

    def _children(self, run: StoredRun, seen: set[str]) -> list[StoredRun]:
        """Those not seen yet: tags are anybody's to write, and may name a run its own grandparent."""
        found = self.runs(f"tags.`{PARENT_TAG}` = {_quoted(run.id)}", order=("attributes.start_time ASC",))
        found = [child for child in found if child.id not in seen]
        seen.update(child.id for child in found)
        return [below for child in found for below in (child, *self._children(child, seen))]

    def _experiment_id(self, name: str) -> str:
        ids = {known: id for id, known in self.experiments.items()}
        if name not in ids:
            raise UserError(f"no experiment '{name}' in {self.uri}{did_you_mean(name, ids)}")
        return ids[name]

    def _stored(self, run: Any) -> StoredRun:
        info, data = run.info, run.data
        return StoredRun(
            id=info.run_id,
            name=info.run_name or data.tags.get(NAME_TAG) or info.run_id[:8],
            experiment=self.experiments.get(info.experiment_id) or str(info.experiment_id),
            experiment_id=info.experiment_id,
            status=info.status,
            started=info.start_time or 0,
            ended=info.end_time,
            params=dict(data.params),
            tags=dict(data.tags),
            metrics=dict(data.metrics),
            artifacts=info.artifact_uri or "",
        )

    def _answering(self, condition: str = "") -> AbstractContextManager[None]:
        return answering(self.uri, condition)


def open_store(uri: str | None = None) -> Store:
    """Open a store to read it; none is made.

    Args:
        uri: an MLflow tracking URI; see `accelerator.tracking.locations.locate` for what None means.

    Raises:
        UserError: it is not there, is not MLflow's, or does not answer.
    """
    location = locate(uri)
    check_file(location.uri)
    for name, value in (ENVIRONMENT | {"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}).items():
        os.environ.setdefault(name, value)
    secrets = dict(location.secrets)
    whole = secrets.pop("MLFLOW_TRACKING_URI", location.uri)
    os.environ.update(secrets)
    with answering(location.uri):
        from mlflow.tracking.client import MlflowClient

        store = Store(location.uri, MlflowClient(whole))
        assert store.experiments is not None  # asked for here, so that a store that does not answer is told at once
        return store


def check_own_files(run: StoredRun) -> None:
    """See that a run's files have a folder of their own.

    The address is the store's word: it may not talk us into removing something else.

    Raises:
        UserError: they have none.
    """
    if run.id not in run.artifacts.split("/"):
        raise UserError(
            f"run {run.id} keeps its files in {run.artifacts}, not in a folder of its own: remove them there"
        )


def is_folder_of(folder: Path, run_id: str) -> bool:
    """Whether a folder is a run's, and of the run with this id."""
    from accelerator.tracking import spool

    state = spool.load(folder / spool.STATE, spool.State)
    return state is not None and state.run_id == run_id


def when(milliseconds: int) -> str:
    """A time of the store, as clocks here show it: ``2026-11-26 14:07``."""
    from datetime import datetime

    with suppress(ValueError, OverflowError, OSError):
        return f"{datetime.fromtimestamp(milliseconds / 1000).astimezone():%Y-%m-%d %H:%M}"
    return "?"


def _quoted(text: str) -> str:
    """A value in MLflow's filter syntax, which knows no escape."""
    if "'" not in text:
        return f"'{text}'"
    if '"' in text:
        raise UserError(f"MLflow cannot search for {text!r}, which has both kinds of quotes in it; use the run's id")
    return f'"{text}"'
