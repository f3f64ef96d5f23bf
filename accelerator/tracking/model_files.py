"""The model folder of a run becomes an MLflow LoggedModel; done in the uploader, which has imported MLflow anyway.

The training process has written everything that takes torch (see `accelerator.runtime.model_folder`); what is added
here is the file ``MLmodel``, by which MLflow knows how to load the rest.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerator.errors import CheckpointError
from accelerator.runtime.model_manifest import (
    EXAMPLE,
    MANIFEST,
    PICKLE_FOLDER,
    PT2_FOLDER,
    SERVED_EXAMPLE,
    WEIGHTS,
    Manifest,
    read_manifest,
    verify,
)
from accelerator.tracking.limits import METRICS_A_BATCH
from accelerator.tracking.masking import masked

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.tracking.client import MlflowClient

    from accelerator.runtime.data.pipeline import Data

MLMODEL = "MLmodel"
FLAVOR = "accelerator"
LOADER = "accelerator.tracking.pyfunc"
MODEL_NAME = "model"  # so that runs:/<id>/model is its address

# Tags of a LoggedModel: what its manifest and its MLmodel must hash to, and what it is.
DIGEST_TAG, MLMODEL_TAG, FORMATS_TAG, CLASS_TAG, DATA_TAG, NOTES_TAG, INPUTS_TAG, OUTPUTS_TAG = (
    f"accelerator.{name}" for name in ("digest", "mlmodel", "formats", "class", "data", "notes", "inputs", "outputs")
)


class ModelRefusedError(Exception):
    """The folder is not what was written: it is not logged."""


def log_model(client: MlflowClient, run_id: str, experiment_id: str, folder: Path) -> str:
    """Log a model folder as the run's model; one that was logged before, whole or in part, is not logged twice.

    Returns:
        The LoggedModel's id.

    Raises:
        ModelRefusedError: a file of the folder is missing, or not the one that was written.
    """
    try:
        manifest = read_manifest(folder)
        verify(folder, manifest)
    except CheckpointError as error:
        raise ModelRefusedError(str(error)) from error
    digest = sha256((folder / MANIFEST).read_bytes()).hexdigest()
    model = _found(client, run_id, experiment_id, digest) or client.create_logged_model(
        experiment_id,
        name=MODEL_NAME,
        source_run_id=run_id,
        tags={
            DIGEST_TAG: digest,
            FORMATS_TAG: " ".join(manifest.formats),
            CLASS_TAG: manifest.cls,
            INPUTS_TAG: array(manifest.inputs),
            OUTPUTS_TAG: array(manifest.outputs),
            DATA_TAG: f"{manifest.data['name']} {manifest.data.get('digest', '')}".strip(),
            **({NOTES_TAG: "; ".join(manifest.notes)[:5000]} if manifest.notes else {}),
        },
        params=dict(client.get_run(run_id).data.params),
        model_type=manifest.model,
    )
    if model.status == "READY":
        return model.model_id
    _link(client, run_id, model, manifest)
    _write_mlmodel(folder, manifest, model, digest)
    client.set_logged_model_tags(model.model_id, {MLMODEL_TAG: sha256((folder / MLMODEL).read_bytes()).hexdigest()})
    client.log_model_artifacts(model.model_id, str(folder))
    client.finalize_logged_model(model.model_id, "READY")
    return model.model_id


def array(facts: Mapping[str, Any]) -> str:
    """Shape and type of what a model takes or gives: ``(batch, 64) float32``."""
    return f"({', '.join(map(str, ['batch', *facts['shape'][1:]]))}) {facts['dtype']}"


def logged_models(client: MlflowClient, run_id: str) -> list[LoggedModel]:
    """The models a run has logged and finished, the newest first."""
    outputs = client.get_run(run_id).outputs
    ids = dict.fromkeys(output.model_id for output in (outputs.model_outputs if outputs else []))
    models = [client.get_logged_model(id) for id in ids]
    ready = [model for model in models if model.status == "READY"]
    return sorted(ready, key=lambda model: model.creation_timestamp, reverse=True)


def _found(client: MlflowClient, run_id: str, experiment_id: str, digest: str) -> LoggedModel | None:
    models = client.search_logged_models([experiment_id], filter_string=f"tags.`{DIGEST_TAG}` = '{digest}'")
    return next((model for model in models if model.source_run_id == run_id), None)


def _link(client: MlflowClient, run_id: str, model: LoggedModel, manifest: Manifest) -> None:
    """Make the model an output of the run, and the run's metrics of it the model's own."""
    from mlflow.entities import LoggedModelOutput, Metric

    outputs = client.get_run(run_id).outputs
    if not any(output.model_id == model.model_id for output in (outputs.model_outputs if outputs else [])):
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, manifest.step)])
    metrics = []
    for key, value in manifest.metrics.items():
        if math.isnan(value):
            continue
        # The run's own point again, for the model: the store keeps one of the two in the run.
        points = [point for point in client.get_metric_history(run_id, key) if point.value == value]
        if points:
            point, data = points[-1], manifest.data
            metrics.append(
                Metric(
                    key,
                    value,
                    point.timestamp,
                    point.step,
                    model_id=model.model_id,
                    dataset_name=data["name"] if data.get("digest") else None,
                    dataset_digest=data.get("digest"),
                    run_id=run_id,
                )
            )
    if metrics:
        client.log_batch(run_id, metrics=metrics[:METRICS_A_BATCH])


def _write_mlmodel(folder: Path, manifest: Manifest, model: LoggedModel, digest: str) -> None:
    from mlflow.models.model import Model
    from mlflow.models.signature import ModelSignature
    from mlflow.pyfunc import add_to_model

    example = {"artifact_path": EXAMPLE, "type": "ndarray", "serving_input_path": SERVED_EXAMPLE}
    described = Model(
        artifact_path=model.artifact_location,
        run_id=model.source_run_id,
        model_uuid=model.model_id,
        model_id=model.model_id,
        signature=ModelSignature(inputs=_schema(manifest.inputs), outputs=_schema(manifest.outputs)),
        saved_input_example_info=example if EXAMPLE in manifest.files else None,
        metadata={DIGEST_TAG: digest, "fingerprint": manifest.fingerprint, "commit": manifest.commit},
        model_size_bytes=sum(facts["bytes"] for facts in manifest.files.values()),
    )
    add_to_model(described, LOADER, python_env="python_env.yaml", model_config={"imports": []})
    described.add_flavor(
        FLAVOR, manifest=MANIFEST, weights=WEIGHTS, formats=manifest.formats, versions=manifest.versions
    )
    for name, data in (("pt2", PT2_FOLDER), ("pickle", PICKLE_FOLDER)):
        if name in manifest.formats:  # MLflow reads one; pt2 rather than a pickle
            described.add_flavor("pytorch", model_data=data, pytorch_version=manifest.versions["torch"])
            break
    described.save(str(folder / MLMODEL))


def _schema(spec: dict[str, Any]) -> Any:
    import numpy as np
    from mlflow.types.schema import Schema, TensorSpec

    return Schema([TensorSpec(np.dtype(spec["dtype"]), tuple(spec["shape"]))])


def dataset_facts(config: Mapping[str, Any], unresolved: Mapping[str, Any] | None, data: Data) -> dict[str, Any] | None:
    """What a run's record tells of its data, for the journal's event ``dataset``; None where nobody looked at it.

    Args:
        config: resolved, plain.
        unresolved: the same before interpolation; what comes from the environment is told in this form.
        data: as it was built.
    """
    if data.source is None:
        return None
    section = masked(config, unresolved)["data"]
    return {
        "name": section.get("name") or section.get("_target_"),
        "digest": data.source.digest,
        "source": section,
        "samples": data.source.samples,
        "shapes": {"inputs": list(data.input_shape), "outputs": list(data.output_shape or ())},
    }


def log_dataset(client: MlflowClient, run_id: str, facts: Mapping[str, Any]) -> None:
    """Make a dataset an input of the run; a second time changes nothing.

    Args:
        client: the store.
        run_id: the run.
        facts: see `dataset_facts`.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name=str(facts["name"])[:500],
        digest=str(facts["digest"])[:36],
        source_type="accelerator",
        source=json.dumps(facts["source"]),
        schema=json.dumps(facts["shapes"]),
        profile=json.dumps({"samples": facts["samples"]}),
    )
    client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
