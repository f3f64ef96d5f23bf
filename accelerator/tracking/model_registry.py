"""The registry: versions of models under a name, and aliases that say which is used for what.

``champion`` is the version in use, ``challenger`` one that may take its place, ``previous`` the champion before: where
a new champion is named, the old one becomes previous, so that going back is one command. MLflow's stages are gone; who
still speaks of them finds them in the tag ``stage``, which follows the aliases.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from accelerator.errors import UserError, did_you_mean
from accelerator.tracking.answers import answering
from accelerator.tracking.model_files import (
    DATA_TAG,
    DIGEST_TAG,
    FORMATS_TAG,
    INPUTS_TAG,
    MLMODEL_TAG,
    OUTPUTS_TAG,
    logged_models,
)
from accelerator.tracking.query import Store, StoredRun

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
STAGE_TAG = "stage"
STAGES = ("None", "Staging", "Production", "Archived")
STAGE_OF = {CHAMPION: "Production", CHALLENGER: "Staging", PREVIOUS: "Archived"}

METRIC_TAG = "metric."  # a metric's value in a version's tags
DEFAULT_STORE = "MLFLOW_TRACKING_URI"
SET_TAG = "mlflow.modelVersions"  # by which the page of a LoggedModel links to its versions

_NAME = re.compile(r"[A-Za-z0-9][\w. -]*")
_ALIAS = re.compile(r"[A-Za-z][\w-]*")
_RESERVED = re.compile(r"(?i)latest|v\d+")
_WANTED = re.compile(r"(?:models:/+)?(?P<name>[^/@:]+)(?:/(?P<version>[^/@]*)|@(?P<alias>[^/@]*))?")
_PAGE = 1000
_COPIED = (DIGEST_TAG, MLMODEL_TAG, FORMATS_TAG, DATA_TAG, INPUTS_TAG, OUTPUTS_TAG)  # from the LoggedModel


@dataclass(frozen=True)
class ModelVersion:
    """One version of a registered model.

    Attributes:
        name: the model's.
        number: from 1.
        model_id: of the LoggedModel it is; None for a version that was registered from plain files.
        run_id: the run it came from.
        location: where its files are.
        created: UTC, milliseconds since 1970.
        description: what was said of it.
        aliases: that point to it.
        tags: what is known of it; metrics as ``metric.<name>``.
    """

    name: str
    number: int
    model_id: str | None
    run_id: str | None
    location: str
    created: int
    description: str = ""
    aliases: tuple[str, ...] = ()
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def stage(self) -> str:
        """What it is used for, in the words of before aliases."""
        return self.tags.get(STAGE_TAG, "None")

    @property
    def metrics(self) -> dict[str, float]:
        """What it measured."""
        found = {}
        for key, text in self.tags.items():
            if key.startswith(METRIC_TAG):
                with suppress(ValueError):
                    found[key.removeprefix(METRIC_TAG)] = float(text)
        return found

    def __str__(self) -> str:
        return f"{self.name}/{self.number}"


class Registry:
    """The registered models of a store.

    Everything here raises `UserError` where the store does not answer, or what is meant is not there.

    Args:
        store: see `accelerator.tracking.query.open_store`.
    """

    def __init__(self, store: Store) -> None:
        self.store, self.client = store, store.client

    def names(self) -> list[str]:
        """The names of all models."""
        found, token = [], None
        with self._answering():
            while True:
                page = self.client.search_registered_models(max_results=_PAGE, page_token=token)
                found += [model.name for model in page]
                if not (token := page.token):
                    return sorted(found)

    def versions(self, name: str) -> list[ModelVersion]:
        """The versions of a model, the newest first.

        Raises:
            UserError: there is no such model.
        """
        model = self._model(name)
        aliases: dict[int, list[str]] = {}
        for alias, number in model.aliases.items():
            aliases.setdefault(int(number), []).append(alias)
        found, token = [], None
        with self._answering():
            while True:
                page = self.client.search_model_versions(f"name = '{name}'", max_results=_PAGE, page_token=token)
                found += [_version(version, aliases.get(int(version.version), ())) for version in page]
                if not (token := page.token):
                    return sorted(found, key=lambda version: version.number, reverse=True)

    def description(self, name: str) -> str:
        """What was said of the model as a whole."""
        return self._model(name).description or ""

    def find(self, wanted: str) -> ModelVersion:
        """One version: ``NAME/3``, ``NAME@champion``, or ``NAME``, which is the newest; ``models:/`` may stand before.

        Raises:
            UserError: there is none.
        """
        asked = _WANTED.fullmatch(wanted)
        if asked is None:
            raise UserError(f"'{wanted}' names no model: write NAME, NAME/3 or NAME@champion")
        versions = self.versions(asked["name"])
        if not versions:
            raise UserError(f"model {asked['name']} has no versions; accelerator model register RUN {asked['name']}")
        if (alias := asked["alias"]) is not None:
            for version in versions:
                if alias in version.aliases:
                    return version
            known = [alias for version in versions for alias in version.aliases]
            near = did_you_mean(alias, known) or "; it has no aliases: accelerator model promote sets one"
            raise UserError(f"model {asked['name']} has no alias '{alias}'{near}")
        number = asked["version"]
        if number is None or number.lower() == "latest":
            return versions[0]
        for version in versions:
            if str(version.number) == number:
                return version
        known = ", ".join(str(version.number) for version in reversed(versions[:12]))
        raise UserError(f"model {asked['name']} has no version '{number}'; it has {known}")

    def register(
        self, run: StoredRun, name: str, *, description: str = "", tags: Mapping[str, str] | None = None
    ) -> ModelVersion:
        """Make the newest model of a run the next version of a name; two at once are two versions.

        Raises:
            UserError: the run has logged no model, or the name will not do.
        """
        check_name(name)
        if (model := self.logged(run)) is None:
            raise UserError(f"run {run.id} has logged no model")
        known = _known(run, model) | dict(tags or {})
        with self._answering():
            self._ensure(name)
            with _as_default_store(self.client.tracking_uri):
                made = self.client.create_model_version(
                    name,
                    f"models:/{model.model_id}",
                    run_id=run.id,
                    tags=known,
                    description=description or None,
                    model_id=model.model_id,
                    await_creation_for=0,  # nothing is copied: it is there at once
                )
            # What MLflow's own register_model notes, so that its pages link to one another.
            told = [*json.loads(model.tags.get(SET_TAG, "[]")), {"name": name, "version": str(made.version)}]
            self.client.set_logged_model_tags(model.model_id, {SET_TAG: json.dumps(told)})
        return self.find(f"{name}/{made.version}")

    def logged(self, run: StoredRun) -> LoggedModel | None:
        """The newest model a run has logged; None if it has none."""
        with self._answering():
            return next(iter(logged_models(self.client, run.id)), None)

    def promote(self, version: ModelVersion, alias: str) -> ModelVersion | None:
        """Point an alias at a version.

        A champion that is replaced becomes ``previous``; a challenger that becomes champion is no challenger any more.

        Returns:
            The version that had the alias before; None if none had.

        Raises:
            UserError: the alias will not do.
        """
        check_alias(alias)
        before = next((other for other in self.versions(version.name) if alias in other.aliases), None)
        if before is not None and before.number == version.number:
            return before
        self._set(alias, version)
        if alias == CHAMPION:
            for gone in {CHALLENGER, PREVIOUS}.intersection(version.aliases):
                self.delete_alias(version.name, gone)
            if before is not None:
                self._set(PREVIOUS, before)
        return before

    def set_stage(self, version: ModelVersion, stage: str) -> None:
        """Write the tag that stands for MLflow's former stages.

        Raises:
            UserError: there was no such stage.
        """
        known = {name.lower(): name for name in STAGES}
        if stage.lower() not in known:
            raise UserError(f"there is no stage '{stage}'{did_you_mean(stage, STAGES)}")
        with self._answering():
            self.client.set_model_version_tag(version.name, str(version.number), STAGE_TAG, known[stage.lower()])

    def delete_alias(self, name: str, alias: str) -> ModelVersion:
        """Remove an alias; its version stays.

        Returns:
            The version it pointed to.

        Raises:
            UserError: there is no such alias.
        """
        version = self.find(f"{name}@{alias}")
        with self._answering():
            self.client.delete_registered_model_alias(name, alias)
        if version.stage == STAGE_OF.get(alias):
            self.set_stage(version, "None")
        return version

    def delete(self, version: ModelVersion) -> None:
        """Remove a version from the registry; the run and its model stay. A name without versions goes too."""
        with self._answering():
            for alias in version.aliases:
                self.client.delete_registered_model_alias(version.name, alias)
            self.client.delete_model_version(version.name, str(version.number))
        if not self.versions(version.name):
            self.delete_name(version.name)

    def delete_name(self, name: str) -> None:
        """Remove a name, and whatever versions it has."""
        with self._answering():
            self.client.delete_registered_model(name)

    def _set(self, alias: str, version: ModelVersion) -> None:
        with self._answering():
            self.client.set_registered_model_alias(version.name, alias, str(version.number))
        if alias in STAGE_OF:
            self.set_stage(version, STAGE_OF[alias])

    def _model(self, name: str) -> Any:
        from mlflow.exceptions import MlflowException

        with self._answering():
            try:
                return self.client.get_registered_model(name)
            except MlflowException as error:
                if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    raise
        near = did_you_mean(name, self.names()) or "; nothing is registered there yet: accelerator model register"
        raise UserError(f"no model '{name}' in {self.store.uri}{near}")

    def _ensure(self, name: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _answering(self) -> Any:
        return answering(self.store.uri)


def check_name(name: str) -> None:
    """See that a model can be called so, and found by it.

    Raises:
        UserError: it cannot.
    """
    if _NAME.fullmatch(name) is None:
        raise UserError(
            f"'{name}' cannot be a model's name: it begins with a letter or a digit, and has letters, digits, spaces, "
            "'.', '_' and '-' only"
        )


def check_alias(alias: str) -> None:
    """See that MLflow takes an alias.

    Raises:
        UserError: it does not.
    """
    if _ALIAS.fullmatch(alias) is None or _RESERVED.fullmatch(alias):
        raise UserError(
            f"'{alias}' cannot be an alias: it begins with a letter, has letters, digits, '_' and '-' only, and is "
            "neither latest nor v1, v2, …"
        )


def _version(found: Any, aliases: Any) -> ModelVersion:
    model_id = found.model_id
    if model_id is None and (found.source or "").startswith("models:/m-"):
        model_id = found.source.removeprefix("models:/")
    return ModelVersion(
        name=found.name,
        number=int(found.version),
        model_id=model_id,
        run_id=found.run_id or None,
        location=found.source or "",
        created=found.creation_timestamp or 0,
        description=found.description or "",
        aliases=tuple(sorted(aliases)),
        tags=dict(found.tags),
    )


def _known(run: StoredRun, model: LoggedModel) -> dict[str, str]:
    """What is told of a version: enough to know it by, should its run be deleted."""
    from accelerator.tracking.limits import TAG_LENGTH, cut, legal_key

    told = {name: run.tags.get(name) for name in ("config.fingerprint", "git.commit", "git.dirty", "group", "run_dir")}
    told |= {name: model.tags.get(name) for name in _COPIED}
    told |= {f"{METRIC_TAG}{metric.key}": repr(metric.value) for metric in model.metrics or ()}
    told |= {"model": model.model_type, "run": run.name, "experiment": run.experiment}
    return {legal_key(name): cut(value, TAG_LENGTH) for name, value in told.items() if value}


@contextmanager
def _as_default_store(uri: str) -> Iterator[None]:
    """MLflow's SQLite registry looks a LoggedModel up in the process's default store, not in the client's own."""
    # Not mlflow.set_tracking_uri, which would stay the default for whatever else this process does.
    before = os.environ.get(DEFAULT_STORE)
    os.environ[DEFAULT_STORE] = uri
    try:
        yield
    finally:
        if before is None:
            del os.environ[DEFAULT_STORE]
        else:
            os.environ[DEFAULT_STORE] = before
