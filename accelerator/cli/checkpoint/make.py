"""``accelerator checkpoint convert|average|export``: files made from checkpoints, each written whole or not at all."""

from __future__ import annotations

import hashlib
import io
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from accelerator.cli.checkpoint.look import checkpoint_file
from accelerator.errors import CheckpointError, ConfigError
from accelerator.runtime.checkpoint.average import average
from accelerator.runtime.checkpoint.checkpoint_handler import CheckpointHandler
from accelerator.runtime.checkpoint.meta_handler import SCHEMA, Meta, sidecar, versions, write_meta
from accelerator.runtime.checkpoint.operation import encode, write_bytes
from accelerator.runtime.run_directory import CHECKPOINTS, CONFIG
from accelerator.runtime.trained import (
    config_of,
    load_finest,
    load_model,
    network_weights,
    read_checkpoint,
    read_config,
    recipe_of,
)


def convert(options: Namespace) -> None:
    """Write a checkpoint in the present format, or its weights alone."""
    path, out = checkpoint_file(options.source), options.out
    if options.to == "checkpoint":
        _check_out(out, force=options.force, checkpoint=True)
        state, meta = CheckpointHandler(path.parent).load(path)
        run_dir = path.absolute().parent.parent
        if (run_dir / CONFIG).is_file():
            state["config"] = read_config(run_dir)
        _write_checkpoint(out, state, meta)
        print(f"wrote {out}: format {SCHEMA}, step {meta.step:,}, {out.stat().st_size:,} bytes")
        return
    _check_out(out, force=options.force)
    weights = network_weights(load_finest(path)[0])
    out.parent.mkdir(exist_ok=True)
    write_bytes(out, _torch_bytes(weights) if options.to == "torch" else save(weights, metadata={"format": "pt"}))
    values = sum(tensor.numel() for tensor in weights.values())
    reader = "torch.load(…, weights_only=True)" if options.to == "torch" else "safetensors.torch.load_file"
    print(f"wrote {out}: {len(weights)} tensors, {values:,} values, for {reader}")


def average_files(options: Namespace) -> None:
    """Write the average of several checkpoints' networks as a checkpoint."""
    files, out = options.sources, options.out
    if len(files) < 2:
        raise ConfigError(f"an average is of two checkpoints or more; only {files[0]} was given")
    weights = _numbers(options.weights) if options.weights else None
    _check_out(out, force=options.force, checkpoint=True)
    for file in files:
        if not file.is_file():
            raise CheckpointError(f"{file}: no such file")
    loaded = [load_finest(file) for file in files]
    configs = [config_of(file, state, imports=_named(state)) for file, (state, _) in zip(files, loaded, strict=True)]
    for file, config in zip(files, configs, strict=True):
        if config["model"] != configs[0]["model"]:
            raise CheckpointError(f"{file} was trained with another model=… than {files[0]}: they cannot be averaged")
    state = average([state for state, _ in loaded], weights) | {"config": configs[0]}
    meta = replace(
        loaded[-1][1],
        metrics={},
        fingerprint="",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=versions(),
    )
    _write_checkpoint(out, state, meta)
    print(f"wrote {out}: the average of {len(files)} checkpoints, step {meta.step:,}, {out.stat().st_size:,} bytes")
    if any(not _same(loaded[0][0]["transforms"], state["transforms"]) for state, _ in loaded[1:]):
        print(f"the transforms' statistics differ among them; those of {files[0]} were taken")


def export(options: Namespace) -> None:
    """Write a trained model for other programs, after running what is written and comparing."""
    from accelerator.runtime.export import example_inputs, export_model

    path, out = checkpoint_file(options.source), options.out
    _check_out(out, force=options.force)
    form = _format(out, options.format)
    config, state, _ = read_checkpoint(path, options.imports)
    model = load_model(path, imports=options.imports)
    inputs = example_inputs(config)
    exported = export_model(model, recipe_of(config, state), inputs, form)
    out.parent.mkdir(exist_ok=True)
    write_bytes(out, exported.data)
    print(
        f"wrote {out} ({len(exported.data):,} bytes) from {path.name}: inputs {_described(inputs)}\n"
        f"largest difference from the original: {exported.difference:.3g}, where predictions reach "
        f"{exported.largest:.3g} (1, {len(inputs)} and {2 * len(inputs)} samples)"
    )


def _format(out: Path, wanted: str | None) -> str:
    """What an export is to be: as its name says, and as it is asked for."""
    named = {".safetensors": "safetensors", ".onnx": "onnx", ".pt2": "torch"}.get(out.suffix)
    if named is None and wanted is None:
        raise ConfigError(f"{out}: name it .safetensors, .onnx or .pt2, or give --format")
    if named is not None and wanted is not None and named != wanted:
        raise ConfigError(f"--format {wanted}, but {out} is the name of a file of format {named}")
    return wanted or named or ""


def _check_out(out: Path, *, force: bool, checkpoint: bool = False) -> None:
    """Refuse an output before anything is computed for it."""
    if checkpoint and out.suffix != ".safetensors":
        raise ConfigError(f"{out}: a checkpoint's name ends in .safetensors; its sidecar's in .json")
    folder = out.absolute().parent
    if out.is_dir() or not folder.parent.is_dir():
        what = "is a folder" if out.is_dir() else f"cannot be written: there is no folder {out.parent.parent}"
        raise ConfigError(f"{out} {what}; give the name of a file")
    if folder.name == CHECKPOINTS and (folder.parent / CONFIG).is_file():
        raise ConfigError(
            f"{out} lies among a run's own checkpoints, which that run resumes from and clears out; "
            f"write it beside them, such as to {out.parent.parent / 'made' / out.name}"
        )
    for path in (out, *((sidecar(out),) if checkpoint else ())):
        if path.exists() and not force:
            raise ConfigError(f"{path} exists; give another name, or --force to replace it")


def _write_checkpoint(out: Path, state: Mapping[str, Any], meta: Meta) -> None:
    data = encode(state)
    out.parent.mkdir(exist_ok=True)
    # Without a sidecar it does not count, should a kill come in between.
    sidecar(out).unlink(missing_ok=True)
    write_bytes(out, data)
    write_meta(out, replace(meta, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data), schema=SCHEMA))


def _torch_bytes(weights: Mapping[str, Tensor]) -> bytes:
    buffer = io.BytesIO()
    torch.save(dict(weights), buffer)
    return buffer.getvalue()


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--weights {text}: expected a number for each checkpoint, such as 3,1") from error


def _named(state: Mapping[str, Any]) -> list[str]:
    """Nothing of an average's config is imported here, so whatever it names may stand in it."""
    return state.get("config", {}).get("imports", [])


def _same(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(tensor, right[name]) for name, tensor in left.items())


def _described(inputs: Tensor) -> str:
    return f"(batch, {', '.join(map(str, inputs.shape[1:]))}) {str(inputs.dtype).removeprefix('torch.')}"
