"""Trained models by the name they have in a store: ``models:/NAME@champion``, ``models:/NAME/3``, ``runs:/ID``."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from accelerator.errors import CheckpointError
from accelerator.runtime.model_manifest import Manifest, read_manifest, verify
from accelerator.tracking.answers import answering
from accelerator.tracking.artifact_stores import explain
from accelerator.tracking.model_files import DIGEST_TAG, MLMODEL, MLMODEL_TAG, logged_models

if TYPE_CHECKING:
    import torch

    from accelerator.runtime.trained import TrainedModel
    from accelerator.tracking.query import Store

_RUN = re.compile(r"runs:/+(?P<id>[^/]+)(?:/(?P<name>.+))?")
_BARE_ID = re.compile(r"[0-9a-f]{32}")
_LOGGED = re.compile(r"(?:models:/+)?(?P<id>m-[0-9a-f]{32})")


class Fetched(NamedTuple):
    """A model's files, here.

    Attributes:
        folder: where they are.
        tags: what the store says of them.
        said: what the model is called in messages.
    """

    folder: Path
    tags: dict[str, str]
    said: str

    @property
    def recorded(self) -> bool:
        """Whether the store knows what the files must be."""
        return DIGEST_TAG in self.tags

    def manifest(self) -> Manifest:
        """The facts of the model, if they are those that were recorded.

        Raises:
            CheckpointError: they are not, or it is no model of ours.
        """
        return read_manifest(self.folder, digest=self.tags.get(DIGEST_TAG))

    def check(self) -> Manifest:
        """Compare every file with what was recorded of it.

        Raises:
            CheckpointError: one is missing, or differs.
        """
        manifest = self.manifest()
        verify(self.folder, manifest)
        self.check_description()
        return manifest

    def check_description(self) -> None:
        """Compare MLflow's file, which the manifest does not know, with what the store says of it.

        Raises:
            CheckpointError: it is missing, or differs.
        """
        path = self.folder / MLMODEL
        if (wanted := self.tags.get(MLMODEL_TAG)) is not None and (
            not path.is_file() or sha256(path.read_bytes()).hexdigest() != wanted
        ):
            raise CheckpointError(f"{path} is not the file that was logged; the model is refused")


def load_model(
    source: str | Path,
    device: str | torch.device = "cpu",
    *,
    imports: Sequence[str] = (),
    uri: str | None = None,
) -> TrainedModel:
    """A trained network: from raw inputs to predictions in the data's own units.

    >>> model = load_model("outputs/2026-01-31/12-00-00-000000-1")  # doctest: +SKIP
    >>> model = load_model("models:/digits@champion")  # doctest: +SKIP
    >>> predictions = model(inputs)  # doctest: +SKIP

    Args:
        source: a run directory (its best checkpoint is taken, the newest if none was rated), a checkpoint file, a model
            folder or an exported ``.safetensors``; or, from a store, ``models:/NAME@ALIAS``, ``models:/NAME/VERSION``,
            ``models:/NAME`` (the newest), ``runs:/ID`` or a run's whole id.
        device: where the network is put.
        imports: modules of yours that a file outside a run's folder may name; those of a run's folder are imported
            anyway.
        uri: the store; MLFLOW_TRACKING_URI, else ``mlflow.db`` in the current directory, by default.

    Returns:
        In evaluation mode, without gradients.

    Raises:
        CheckpointError: there is none, it is damaged or was tampered with, or it was saved while a coarse level was
            trained.
        UserError: the store does not answer, or has no such model.
    """
    from accelerator.runtime import trained

    if not in_store(source):
        return trained.load_model(source, device, imports=imports)
    from accelerator.tracking.query import open_store

    with fetched(open_store(uri), str(source)) as found:
        found.manifest()
        found.check_description()
        return trained.load_model(found.folder, device, imports=imports)


def in_store(source: str | Path) -> bool:
    """Whether a source is a name in a store, rather than a path."""
    if isinstance(source, Path):
        return False
    return source.startswith(("models:/", "runs:/")) or (
        _BARE_ID.fullmatch(source) is not None and not Path(source).exists()
    )


@contextmanager
def fetched(store: Store, source: str) -> Iterator[Fetched]:
    """The files of a model, copied here where they are elsewhere, and gone again afterwards.

    Raises:
        UserError: there is no such model, or its files cannot be fetched.
    """
    location, tags, said = _located(store, source)
    from mlflow.utils.file_utils import local_file_uri_to_path
    from mlflow.utils.uri import is_local_uri

    if is_local_uri(location):
        folder = Path(local_file_uri_to_path(location))
        if not folder.is_dir():
            raise CheckpointError(f"the files of {said} are gone: there is no {folder}")
        yield Fetched(folder, tags, said)
        return
    with tempfile.TemporaryDirectory(prefix="accelerator-model-") as copies:
        yield Fetched(_downloaded(store, location, said, Path(copies)), tags, said)


def _downloaded(store: Store, location: str, said: str, folder: Path) -> Path:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    try:
        repository = get_artifact_repository(location, tracking_uri=store.client.tracking_uri)
        return Path(repository.download_artifacts("", str(folder)))
    except Exception as error:  # each kind of store raises its own
        raise CheckpointError(
            f"the files of {said} cannot be fetched from {location}: {explain(location, error)}"
        ) from error


def _located(store: Store, source: str) -> tuple[str, dict[str, str], str]:
    """Where a model's files are, what the store says of them, and what the model is called."""
    from accelerator.tracking.model_registry import Registry

    run = _RUN.fullmatch(source)
    if run is not None or _BARE_ID.fullmatch(source):
        id = run["id"] if run is not None else source
        stored = store.find(id)
        with answering(store.uri):
            models = logged_models(store.client, stored.id)
        name = run["name"] if run is not None else None
        models = [model for model in models if name in (None, model.name)]
        if not models:
            raise CheckpointError(
                f"{source}: this run has logged no model{f' {name}' if name else ''}; "
                f"accelerator model register {stored.id[:8]} NAME makes one of its checkpoint"
            )
        return models[0].artifact_location, models[0].tags, source
    if logged := _LOGGED.fullmatch(source):
        with answering(store.uri):
            model = store.client.get_logged_model(logged["id"])
        return model.artifact_location, model.tags, source
    version = Registry(store).find(source)
    with answering(store.uri):
        location = store.client.get_model_version_download_uri(version.name, str(version.number))
    return location, version.tags, f"models:/{version}"
