"""One MLflow run, as the uploader writes to it. Here alone MLflow's client is imported (1.5 s of processor time)."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerator.tracking.artifact_stores import elsewhere, same_place
from accelerator.tracking.limits import (
    PARAM_LENGTH,
    PARAMS_A_BATCH,
    TAG_LENGTH,
    TAGS_A_BATCH,
    cut,
    is_plain_path,
    legal_key,
)
from accelerator.tracking.locations import artifact_folder, sqlite_file
from accelerator.tracking.preflight import deleted
from accelerator.tracking.spool import RUNNING, SETTINGS, Settings, State, load, state_file

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking.client import MlflowClient

KEY_TAG = "accelerator.key"
PARENT_TAG = "mlflow.parentRunId"
NOTES_TAG = "accelerator.notes"

# Retries are the uploader's own business: it may repeat anything without doubling it, MLflow's would repeat the
# creation of a run. One attempt may take 3 s; a server that freezes is noticed, one that is slow gets smaller batches.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "3",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}

DATABASE_LOCK_TIMEOUT = 60.0

# What repeating will not mend: a value the store refuses, a run that is not there.
REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST")
DENIALS = ("UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED", "PERMISSION_DENIED")


class RecordRefusedError(Exception):
    """The store answers, and will never take this record; the message says what to do."""


class MlflowRun:
    """Writes to one run; whatever the store refuses is left out and noted, anything else raises and may be repeated.

    Args:
        client: the store.
        run_id: the run.
        experiment_id: its experiment.
        continued: the run was there before; it may hold what is about to be written.
        note: is told, in a sentence, what does not stand in MLflow as it was journaled.
    """

    def __init__(
        self, client: MlflowClient, run_id: str, experiment_id: str, *, continued: bool, note: Callable[[str], None]
    ) -> None:
        self.client = client
        self.run_id = run_id
        self.experiment_id = experiment_id
        self.continued = continued
        self._note = note

    def log_metrics(self, points: Sequence[Mapping[str, Any]]) -> None:
        """Log at most 1000 points, given as the journal's lines; one sent twice is stored once."""
        from mlflow.entities import Metric

        self._log("metrics", [Metric(point["key"], point["value"], point["time"], point["step"]) for point in points])

    def log_params(self, values: Mapping[str, Any]) -> None:
        """Log params; MLflow never changes one, so another value of a known param becomes the tag ``changed.<key>``."""
        from mlflow.entities import Param

        params = {legal_key(key): cut(str(value), PARAM_LENGTH) for key, value in values.items()}
        if self.continued and params:
            known = self.client.get_run(self.run_id).data.params
            self.log_tags({f"changed.{key}": value for key, value in params.items() if known.get(key, value) != value})
            params = {key: value for key, value in params.items() if key not in known}
        for batch in _batches([Param(key, value) for key, value in params.items()], PARAMS_A_BATCH):
            self._log("params", batch)

    def log_tags(self, values: Mapping[str, Any]) -> None:
        """Set tags."""
        from mlflow.entities import RunTag

        tags = [RunTag(legal_key(key), cut(str(value), TAG_LENGTH)) for key, value in values.items()]
        for batch in _batches(tags, TAGS_A_BATCH):
            self._log("tags", batch)

    def log_artifact(self, path: Path, artifact_path: str | None) -> None:
        """Copy a file, or a folder's content, to the run's artifacts."""
        from mlflow.exceptions import MlflowException

        if not path.exists():
            self._note(f"artifact {path.name} was gone before it could be logged")
            return
        if artifact_path is not None and not is_plain_path(artifact_path):
            self._note(f"artifact {path.name} was refused: '{artifact_path}' is no folder inside the run's")
            return
        log = self.client.log_artifacts if path.is_dir() else self.client.log_artifact
        try:
            log(self.run_id, str(path), artifact_path)
        except MlflowException as error:
            if error.error_code not in REFUSALS:
                raise
            self._note(f"artifact {path.name} was refused: {error.message}")

    def compare(self, file: Path) -> None:
        """Tell in what the run's params differ from those of its parent, else of the run before it in the experiment.

        Args:
            file: where the difference is written; it is logged too. Not written where there is nothing to compare with.
        """
        from accelerator.tracking.difference import as_text, difference

        own = self.client.get_run(self.run_id)
        if (before := self._before(own)) is None:
            return
        # A section the run does not have at all is another command's: of the study or pipeline it is a part of.
        sections = {key.split(".")[0] for key in own.data.params}
        theirs = {key: value for key, value in before.data.params.items() if key.split(".")[0] in sections}
        found = difference(theirs, own.data.params)
        tags = {"config.compared_with": before.info.run_id, "config.difference": as_text(found) or "none"}
        file.write_text(json.dumps({"compared_with": before.info.run_id, **found}, indent=1, ensure_ascii=False))
        self.log_tags(tags)
        self.log_artifact(file, None)

    def _before(self, own: Run) -> Run | None:
        tags = own.data.tags
        if (parent := tags.get(PARENT_TAG)) is not None:
            return self.client.get_run(parent)
        alike = f"tags.kind = '{tags['kind']}' and " if "kind" in tags else ""
        earlier = self.client.search_runs(
            [self.experiment_id],
            f"{alike}attributes.run_id != '{self.run_id}' and attributes.start_time <= {own.info.start_time}",
            order_by=["attributes.start_time DESC"],
            max_results=1,
        )
        return earlier[0] if earlier else None

    def note_place(self, settings: Settings) -> None:
        """Note where the experiment keeps its files, if it was asked to keep them elsewhere."""
        if settings.artifacts in (None, artifact_folder(settings.uri)):
            return
        experiment = self.client.get_experiment(self.experiment_id)
        if not same_place(settings.artifacts, experiment.artifact_location):
            self._note(elsewhere(experiment.name, experiment.artifact_location))

    def log_model(self, folder: Path) -> None:
        """Make a model folder the run's LoggedModel."""
        from accelerator.tracking.model_files import ModelRefusedError, log_model

        if not folder.is_dir():
            self._note(f"model {folder.name} was gone before it could be logged")
            return
        try:
            log_model(self.client, self.run_id, self.experiment_id, folder)
        except ModelRefusedError as error:
            self._note(f"model {folder.name} was refused: {error}")

    def log_dataset(self, facts: Mapping[str, Any]) -> None:
        """Name what the run is trained on among its inputs."""
        from accelerator.tracking.model_files import log_dataset

        log_dataset(self.client, self.run_id, facts)

    def steps(self, key: str) -> set[int]:
        """The steps at which the run holds a point of the metric."""
        return {metric.step for metric in self.client.get_metric_history(self.run_id, key)}

    def end(self, status: str, time: int) -> None:
        """Close the run; ``time`` is UTC in milliseconds."""
        self.client.set_terminated(self.run_id, status, end_time=time)

    def _log(self, kind: str, items: list[Any]) -> None:
        from mlflow.exceptions import MlflowException

        batch: dict[str, Any] = {kind: items}
        try:
            self.client.log_batch(self.run_id, **batch)
        except MlflowException as error:
            if error.error_code not in REFUSALS:
                raise
            self._require_active()
            if len(items) > 1:
                for item in items:
                    self._log(kind, [item])
            else:
                self._note(f"{kind[:-1]} {items[0].key} was refused: {error.message}")

    def _require_active(self) -> None:
        if not _is_active(self.client, self.run_id):
            raise RecordRefusedError(f"run {self.run_id} was deleted in MLflow; restore it there and upload again")


def is_denied(error: Exception) -> bool:
    """Whether the store does not let us in: repeating mends that only if somebody changes the rights."""
    return getattr(error, "error_code", None) in DENIALS


def connect(settings: Settings, uri: str, state: State, *, note: Callable[[str], None], search: bool) -> MlflowRun:
    """Open the store, making it where it is a SQLite file that is absent, and continue or make the run.

    Args:
        settings: what is asked for.
        uri: the store, with credentials where it needs them.
        state: of an earlier uploader of this run; a run that was since deleted is made anew.
        note: see `MlflowRun`.
        search: the run may have been made although its id never arrived here.

    Raises:
        RecordRefusedError: the experiment was deleted, or the run to adopt is not there.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    gc.disable()  # collecting while 2000 modules are imported costs 15 % and finds nothing
    from mlflow.tracking.client import MlflowClient

    gc.freeze()
    gc.enable()
    with _database_lock(uri):
        if (file := sqlite_file(uri)) is not None and not file.exists():
            _make_database(file, settings.artifacts)
        client = MlflowClient(uri)
        if settings.adopt is not None:
            if not _is_active(client, settings.adopt):
                raise RecordRefusedError(f"run {settings.adopt}, named by MLFLOW_RUN_ID, is not in {settings.uri}")
            return _continue(client, settings.adopt, settings, note)
        if state.run_id is not None and state.uri == settings.uri and _is_active(client, state.run_id):
            return _continue(client, state.run_id, settings, note)
        experiment_id = _experiment(client, settings)
        if search and (
            found := client.search_runs([experiment_id], f"tags.`{KEY_TAG}` = '{settings.key}'", max_results=1)
        ):
            return _continue(client, found[0].info.run_id, settings, note)
        tags = {KEY_TAG: settings.key} | _nested_in(settings, note)
        run = client.create_run(experiment_id, start_time=settings.started, tags=tags, run_name=settings.run_name)
    return MlflowRun(client, run.info.run_id, experiment_id, continued=False, note=note)


def _nested_in(settings: Settings, note: Callable[[str], None]) -> dict[str, str]:
    """The tag by which MLflow shows a run below another.

    Raises:
        ConnectionError: the other has not arrived yet; it will.
    """
    if settings.part_of is None:
        return {}
    folder = Path(settings.part_of)
    theirs = load(folder / SETTINGS, Settings)
    state = load(state_file(folder, settings.uri, theirs.uri), State) if theirs is not None else None
    if state is not None and state.run_id is not None and state.uri == settings.uri:
        return {PARENT_TAG: state.run_id}
    if theirs is None or theirs.uri != settings.uri:
        note(f"the run stands by itself: {folder}, which it is a part of, keeps no record in {settings.uri}")
        return {}
    raise ConnectionError(f"the run in {folder}, which this one is a part of, has not arrived yet")


def _continue(client: MlflowClient, run_id: str, settings: Settings, note: Callable[[str], None]) -> MlflowRun:
    client.update_run(run_id, status=RUNNING, name=settings.run_name)
    experiment_id = client.get_run(run_id).info.experiment_id
    return MlflowRun(client, run_id, experiment_id, continued=True, note=note)


def _experiment(client: MlflowClient, settings: Settings) -> str:
    from mlflow.exceptions import MlflowException

    name = settings.experiment
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name, artifact_location=settings.artifacts)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)  # another run was quicker
        assert found is not None
    if found.lifecycle_stage != "active":
        raise RecordRefusedError(deleted(name, found.experiment_id, settings.uri))
    return found.experiment_id


def _is_active(client: MlflowClient, run_id: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id).info.lifecycle_stage == "active"
    except MlflowException as error:
        if error.error_code not in REFUSALS:
            raise
        return False


def _database_lock(uri: str) -> AbstractContextManager[Any]:
    """One process at a time makes or opens a database file: without it, three of four die on a fresh one."""
    if (file := sqlite_file(uri)) is None:
        return nullcontext()
    from filelock import FileLock

    file.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(f"{file}.lock", timeout=DATABASE_LOCK_TIMEOUT)


def make_store(uri: str) -> None:
    """Make the SQLite file of a store where it is absent; any other store is left alone."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with _database_lock(uri):
        if (file := sqlite_file(uri)) is not None and not file.exists():
            _make_database(file, artifact_folder(uri))


def _make_database(file: Path, artifacts: str | None) -> None:
    """Make MLflow's tables in a file beside ``file``, which takes its place once whole: a kill leaves no half of one.

    MLflow's migrations write to the disk 1100 times; waiting for each takes 1 s to 10 s, and here they need not.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def do_not_wait_for_the_disk(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA journal_mode = MEMORY")

    new = file.with_name(f"{file.name}.new")
    new.unlink(missing_ok=True)
    event.listen(Engine, "connect", do_not_wait_for_the_disk)
    try:
        SqlAlchemyStore(f"sqlite:///{new}", artifacts or str(file.parent / "mlartifacts")).engine.dispose()
    finally:
        event.remove(Engine, "connect", do_not_wait_for_the_disk)
    with new.open("rb+") as made:
        os.fsync(made.fileno())
    new.replace(file)


def _batches(items: list[Any], size: int) -> list[list[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
