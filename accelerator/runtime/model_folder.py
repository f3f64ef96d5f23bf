"""The model folder: a run's trained network for others to use, written at the run's end.

``model.safetensors`` is what `accelerator.load_model` reads; ``pt2/model.pt2`` runs under torch alone. See
`accelerator.runtime.model_manifest` for the facts beside them.

Shape legend: B batch, … the sample's own dimensions.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from accelerator.errors import AcceleratorError, CheckpointError
from accelerator.runtime.checkpoint.meta_handler import Meta, read_meta
from accelerator.runtime.checkpoint.operation import TEMPORARY, write_bytes
from accelerator.runtime.export import DifferentError, ExportError, example_inputs, export_model
from accelerator.runtime.model_manifest import (
    EXAMPLE,
    MANIFEST,
    PICKLE,
    PICKLE_MODULE,
    PT2,
    REQUIREMENTS,
    SERVED_EXAMPLE,
    WEIGHTS,
    Manifest,
    check_formats,
)
from accelerator.runtime.run_directory import MODEL
from accelerator.runtime.trained import TrainedModel, model_of, read_checkpoint, recipe_of

if TYPE_CHECKING:
    from accelerator.runtime.context.context import Context

# What `load_model` needs; everything else comes along with the first.
NEEDED = ("accelerator-platform", "torch", "numpy", "safetensors", "mlflow")

EXAMPLE_VALUES = 100_000  # numbers in the input example, which is text

_WRITERS = {"safetensors": ("safetensors", WEIGHTS), "pt2": ("torch", PT2), "pickle": ("pickle", PICKLE)}


def write_model(
    source: Path,
    folder: Path,
    formats: Sequence[str] = ("safetensors",),
    *,
    inputs: Tensor | None = None,
    data: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
    imports: Sequence[str] = (),
) -> Manifest:
    """Write the trained network of a run as a model folder, in place of an earlier one.

    Each file is run on examples and compared with the network before it counts. A format that cannot express the
    network is left out, and the manifest notes why.

    Args:
        source: a run directory (the best checkpoint is taken, the newest if none was rated), or a checkpoint file.
        folder: where it is written, whole or not at all.
        formats: of `accelerator.runtime.model_manifest.FORMATS`; ``safetensors`` is always among them.
        inputs: examples as the data gives them, (B, …), at least two for ``pt2``; read from the run's data by default.
        data: what is told of the data: its name, digest, and samples.
        metrics: of the run, to be told beside the checkpoint's own.
        imports: modules of the user's that a file outside a run's folder may name.

    Raises:
        CheckpointError: there is no checkpoint of the full network, it is damaged, or the folder cannot be written.
        ConfigError: a format is unknown.
    """
    formats = check_formats(list(formats), "formats")
    config, saved, path = read_checkpoint(source, imports)
    model, recipe, meta = model_of(config, saved, path), recipe_of(config, saved), read_meta(path)
    inputs = example_inputs(config) if inputs is None else inputs.cpu()
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}{TEMPORARY}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        notes = _write_formats(temporary, model, recipe, inputs, formats)
        notes += _write_companions(temporary, inputs, recipe["imports"])
        manifest = Manifest(
            model=config["model"].get("name") or config["model"]["_target_"],
            cls=f"{type(model.network).__module__}.{type(model.network).__qualname__}",
            parameters=sum(parameter.numel() for parameter in model.network.parameters()),
            inputs=_described(inputs),
            outputs=_described(_predicted(model, inputs)),
            metrics={**meta.metrics, **(metrics or {})},
            checkpoint={"file": path.name, "sha256": meta.sha256},
            data={"name": config["data"].get("name") or config["data"].get("_target_"), **(data or {})},
            imports=list(recipe["imports"]),
            files=_checksums(temporary),
            notes=notes,
            **_taken(meta),
        )
        write_bytes(temporary / MANIFEST, manifest.encoded())
        _replace(temporary, folder)
    except OSError as error:
        raise CheckpointError(f"could not write {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return manifest


def write_final_model(context: Context, formats: Sequence[str]) -> Manifest | None:
    """Write the best network of a run that ended well into its folder ``model``.

    A failure is told and costs the run nothing: its checkpoint has all that is needed to try again, with
    ``accelerator model register``.

    Returns:
        What was written; None if nothing was asked for, or nothing could be.
    """
    checkpoints, run_dir, source = context.checkpoints, context.run_dir, context.data.source
    if not formats or checkpoints is None or run_dir is None or not checkpoints.paths():
        return None
    try:
        return write_model(
            checkpoints.best() or run_dir,
            run_dir / MODEL,
            formats,
            inputs=source.examples() if source is not None else None,
            data={"digest": source.digest, "samples": source.samples} if source is not None else None,
            metrics={name: value for name, value in context.state.metrics.items() if name.startswith("test/")},
        )
    except Exception as error:  # the user's network on other data, another device
        told = str(error) if isinstance(error, AcceleratorError) else f"{type(error).__name__}: {error}"
        print(f"model: not written: {told}; the run's checkpoints are whole", file=sys.stderr)
        return None


def _write_formats(
    folder: Path, model: TrainedModel, recipe: Mapping[str, Any], inputs: Tensor, formats: Sequence[str]
) -> list[str]:
    """Write a file for each format; returns what could not be written, in sentences."""
    notes = []
    for name in formats:
        kind, file = _WRITERS[name]
        try:
            data = export_model(model, recipe, inputs, kind).data
        except (ExportError, DifferentError) as error:
            if name == "safetensors":
                raise
            notes.append(f"{name}: {error}")
            continue
        (folder / file).parent.mkdir(exist_ok=True)
        write_bytes(folder / file, data)
        if name == "pickle":
            write_bytes(folder / PICKLE_MODULE, b"pickle")
    return notes


def _write_companions(folder: Path, inputs: Tensor, imports: Sequence[str]) -> list[str]:
    """Write what MLflow wants beside a model; returns what is missing, in sentences."""
    lines, notes = _requirements(imports)
    write_bytes(folder / REQUIREMENTS, "".join(f"{line}\n" for line in lines).encode())
    environment = {
        "python": platform.python_version(),
        "build_dependencies": ["pip"],
        "dependencies": [f"-r {REQUIREMENTS}"],
    }
    write_bytes(folder / "python_env.yaml", json.dumps(environment, indent=1).encode())  # JSON is YAML too
    values = inputs[0].numel()
    if values > EXAMPLE_VALUES:
        return [*notes, f"input example: a sample has {values:,} values, which is too many for text"]
    shown = inputs[: max(1, EXAMPLE_VALUES // max(1, values))]
    text = json.dumps(_array(shown).tolist())
    write_bytes(folder / EXAMPLE, text.encode())
    write_bytes(folder / SERVED_EXAMPLE, f'{{"inputs": {text}}}'.encode())
    return notes


def _requirements(imports: Sequence[str]) -> tuple[list[str], list[str]]:
    """Pinned versions of what the model needs, and which modules of the user's come from no package."""
    lines, notes = [], []
    names = dict.fromkeys(NEEDED)
    for module in imports:
        if packages := _packages_of(module.partition(".")[0]):
            names |= dict.fromkeys(packages)
        else:
            notes.append(
                f"requirements: the module {module} is of no installed package; put it where the model is used"
            )
    for name in names:
        with suppress(PackageNotFoundError):
            # Without the local part: 2.13.0+cpu is on no index.
            lines.append(f"{name}=={version(name).partition('+')[0]}")
    return lines, notes


def _packages_of(module: str) -> list[str]:
    """The installed packages a top-level module may be of; asking for all there are takes 0.3 s."""
    spec = find_spec(module)
    places = [spec.origin or "", *(spec.submodule_search_locations or ())] if spec else []
    if not any("-packages" in place for place in places):  # site- or dist-
        return []
    return packages_distributions().get(module, [])


def _predicted(model: TrainedModel, inputs: Tensor) -> Tensor:
    with torch.inference_mode():
        return model(inputs)


def _array(values: Tensor) -> Any:
    # NumPy has no bfloat16.
    return (values.float() if values.dtype is torch.bfloat16 else values).numpy()


def _described(values: Tensor) -> dict[str, Any]:
    return {"shape": [-1, *values.shape[1:]], "dtype": str(_array(values[:1]).dtype)}


def _taken(meta: Meta) -> dict[str, Any]:
    return {name: getattr(meta, name) for name in ("step", "epoch", "fingerprint", "created", "versions", "commit")}


def _checksums(folder: Path) -> dict[str, dict[str, Any]]:
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            found[path.relative_to(folder).as_posix()] = {"sha256": digest, "bytes": path.stat().st_size}
    return found


def _replace(new: Path, folder: Path) -> None:
    """Put a folder in the place of another. A kill in between leaves none, and the next run's end writes it again."""
    old = new.with_name(f"{new.name}.old")
    if folder.exists():
        folder.replace(old)
    new.replace(folder)
    shutil.rmtree(old, ignore_errors=True)
