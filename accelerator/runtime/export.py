"""A trained model as a file that other programs run: torch.export, ONNX, plain safetensors, or a pickle.

Each writer gives the file's bytes and a function that runs what was written; nothing is handed out before the two
have been compared.

Shape legend: B batch, … the sample's own dimensions.
"""

from __future__ import annotations

import io
import json
import logging
import re
import warnings
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from safetensors.torch import load, save
from torch import Tensor

from accelerator.errors import AcceleratorError, ConfigError, UserError
from accelerator.runtime.context.component import build
from accelerator.runtime.data.splits import EXAMPLES, as_splits, first_inputs
from accelerator.runtime.trained import RECIPE, TrainedModel, build_model

# What rounding may move a prediction by, relative to the largest: single precision through a hundred layers.
TOLERANCE = 1e-4

_EXTRA = ("onnx", "onnxscript", "onnxruntime")
Runner = Callable[[Tensor], Tensor]


class Exported(NamedTuple):
    """A model as bytes.

    Attributes:
        data: the file's content.
        difference: largest absolute difference of its predictions from the original's.
        largest: largest absolute prediction.
    """

    data: bytes
    difference: float
    largest: float


class ExportError(UserError):
    """The model cannot be expressed in the format asked for."""


class DifferentError(AcceleratorError):
    """What was exported does not predict what the original predicts."""


def export_model(model: TrainedModel, recipe: Mapping[str, Any], inputs: Tensor, kind: str) -> Exported:
    """Write a model in a format, run what was written, and compare.

    Args:
        model: in evaluation mode, on the CPU.
        recipe: what it is built from; see `accelerator.runtime.trained.recipe_of`.
        inputs: examples as the data gives them, (B, …), at least two.
        kind: one of `FORMATS`.

    Raises:
        ExportError: the format cannot express the model.
        ConfigError: the extra the format needs is not installed.
        DifferentError: the predictions differ by more than rounding, for these inputs or for one of them alone.
    """
    data, run = FORMATS[kind](model, recipe, inputs)
    difference = largest = 0.0
    for batch in (inputs, inputs[:1], torch.cat([inputs, inputs])):
        with torch.inference_mode():
            expected = model(batch)
            found = run(batch)
        if found.shape != expected.shape:
            raise DifferentError(
                f"the exported model gives shape {tuple(found.shape)}, the original {tuple(expected.shape)}, for "
                f"{len(batch)} samples: nothing was written"
            )
        difference = max(difference, (found.double() - expected.double()).abs().max().item())
        largest = max(largest, expected.abs().max().item())
    if not difference <= TOLERANCE * largest:
        raise DifferentError(
            f"the exported model differs from the original by {difference:.3g} where predictions reach {largest:.3g}, "
            "which is more than rounding: nothing was written"
        )
    return Exported(data, difference, largest)


def example_inputs(config: Mapping[str, Any], count: int = EXAMPLES) -> Tensor:
    """The first inputs of a run's test split (the last split it has), before any transform, (count, …)."""
    source = build("data", config["data"], "data", imports=tuple(config["imports"]))
    return first_inputs(as_splits(source, config["loader"]["split"], config["seed"]), count)


def _safetensors(model: TrainedModel, recipe: Mapping[str, Any], _: Tensor) -> tuple[bytes, Runner]:
    # Copies: tied weights share memory, which the format refuses.
    tensors = {name: tensor.clone().contiguous() for name, tensor in model.state_dict().items()}
    data = save(tensors, metadata={"format": "pt", RECIPE: json.dumps(recipe)})
    again = build_model(recipe)
    again.load_state_dict(load(data))
    return data, again.eval()


def _torch_export(model: TrainedModel, _: Mapping[str, Any], inputs: Tensor) -> tuple[bytes, Runner]:
    program = _program(model, inputs)
    buffer = io.BytesIO()
    with _silent():
        torch.export.save(program, buffer)
        return buffer.getvalue(), torch.export.load(io.BytesIO(buffer.getvalue())).module()


def _onnx(model: TrainedModel, _: Mapping[str, Any], inputs: Tensor) -> tuple[bytes, Runner]:
    if missing := [name for name in _EXTRA if find_spec(name) is None]:
        raise ConfigError(
            f"--format onnx needs {', '.join(missing)}: install them with pip install 'accelerator-platform[onnx]'"
        )
    import onnxruntime

    program = _program(model, inputs)
    with _silent():
        try:
            written = torch.onnx.export(
                program, (inputs,), dynamo=True, input_names=["inputs"], output_names=["predictions"], verbose=False
            )
        except torch.onnx.OnnxExporterError as error:
            raise ExportError(_no_operator(error)) from error
    assert written is not None
    data = written.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return data, lambda batch: torch.from_numpy(session.run(None, {name: batch.numpy()})[0])


def _pickle(model: TrainedModel, _: Mapping[str, Any], inputs: Tensor) -> tuple[bytes, Runner]:
    buffer = io.BytesIO()
    try:
        torch.save(model, buffer)
    except Exception as error:  # whatever the user's objects meet when they are pickled
        raise ExportError(
            f"{type(model.network).__name__} cannot be pickled: {type(error).__name__}: {_first_line(error)}"
        ) from error
    # Of bytes that were written a moment ago; nothing else that is read is ever unpickled.
    return buffer.getvalue(), torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)


FORMATS: dict[str, Callable[[TrainedModel, Mapping[str, Any], Tensor], tuple[bytes, Runner]]] = {
    "safetensors": _safetensors,
    "onnx": _onnx,
    "torch": _torch_export,
    "pickle": _pickle,  # only where it was asked for by name
}


def _program(model: TrainedModel, inputs: Tensor) -> torch.export.ExportedProgram:
    """The model as one graph, for any number of samples."""
    if len(inputs) < 2:
        raise ExportError("the run's data has a single test sample; an export for any batch size needs two to try")
    batch = torch.export.Dim("batch")
    with _silent():
        try:
            return torch.export.export(model, (inputs,), dynamic_shapes=({0: batch},))
        except Exception as error:  # whatever the user's forward meets when it is traced
            raise ExportError(
                f"torch.export cannot trace {type(model.network).__name__} for any batch size: "
                f"{type(error).__name__}: {_first_line(error)}"
            ) from error


def _no_operator(error: BaseException) -> str:
    text, cause = str(error), error.__cause__
    while cause is not None:
        text, cause = f"{text}\n{cause}", cause.__cause__
    operator = re.search(r"No ONNX function found for <OpOverload\(op='([\w.]+)'", text)
    complex_valued = " on complex numbers (as Fourier transforms give)" if "complex" in text else ""
    what = f"the operator {operator[1]}{complex_valued}" if operator else f"this model: {_first_line(error)}"
    return f"ONNX cannot express {what}; use --format torch, which can"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def _silent():
    """The exporters report their own progress and deprecations, which nobody who exports can act on."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
