"""The files of runs that were deleted: MLflow hides such a run, and its files stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from accelerator.tracking.answers import answering
from accelerator.tracking.query import Store


class DeletedRun(NamedTuple):
    """A deleted run and the folder of its files, where that is one of this machine; else the address as it stands."""

    id: str
    name: str
    folder: Path | None
    address: str


def deleted_runs(store: Store) -> list[DeletedRun]:
    """The runs of a store that are deleted, of deleted experiments too.

    Raises:
        UserError: the store does not answer.
    """
    from mlflow.entities import ViewType

    with answering(store.uri):
        ids = [found.experiment_id for found in store.client.search_experiments(view_type=ViewType.ALL)]
        found, token = [], None
        while True:
            page = store.client.search_runs(ids, run_view_type=ViewType.DELETED_ONLY, page_token=token)
            found += list(page)
            token = page.token
            if not token:
                break
    return [
        DeletedRun(run.info.run_id, run.info.run_name or "", _folder(run.info), run.info.artifact_uri or "")
        for run in found
    ]


def _folder(info: Any) -> Path | None:
    """The folder of a run's files; None if it is elsewhere, or not the run's own: the address is the store's word."""
    parts = urlsplit(info.artifact_uri or "")
    if parts.scheme not in ("", "file") or not parts.path:
        return None
    folder = Path(unquote(parts.path))
    return folder if info.run_id in folder.parts else None
