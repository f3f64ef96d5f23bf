"""Post-training static quantization: weights and activations of products and convolutions in 8 bits.

x ≈ s (q − z) with q an integer of 8 bits; the scale s and zero point z of an activation come from the range it takes on
calibration samples, those of a weight from its own range (z = 0). What is made is an ONNX file with QuantizeLinear and
DequantizeLinear around each such operation (QDQ), which ONNX Runtime and others fuse into integer kernels: nothing is
compiled here. Activations are unsigned and weights signed: the pair that x86 processors multiply fastest.

Source: Jacob et al., *Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference*,
CVPR 2018; Nagel et al., *A White Paper on Neural Network Quantization*, 2021.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor

from accelerator.errors import ConfigError, did_you_mean

NEEDS = ("onnx", "onnxruntime")

# What has weights, and what may lie between two such without a way back to floating point.
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
BETWEEN = ("Add", "AveragePool", "GlobalAveragePool", "MaxPool", "ReduceMean", "Relu")

_BATCH = 32  # calibration samples a forward pass; the ranges are those over all of them


@dataclass(frozen=True, kw_only=True)
class Quantize:
    """Make an ONNX file of 8-bit integers from one of floating point.

    Args:
        samples: of the training split, to calibrate the ranges of activations with.
        per_channel: a scale for each output channel of a weight, not one for all of it.
        reduce_range: weights in 7 bits. x86 processors without VNNI add two products in 16 bits, where 8 can overflow:
            try it where the integer network is worse than it should be.
        leave_out: paths of modules that stay in floating point, with everything in them.

    Raises:
        ConfigError: a value is out of range.
    """

    samples: int = 256
    per_channel: bool = True
    reduce_range: bool = False
    leave_out: Collection[str] = ()

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ConfigError(f"samples={self.samples}: expected at least 1 to calibrate with")

    def convert(self, onnx_model: bytes, calibration: Tensor, root: str = "") -> bytes:
        """The quantized file.

        Args:
            onnx_model: with one input, as torch.onnx writes it: each operation tells the module it comes from.
            calibration: inputs as the model is given them, (B, …).
            root: path of the network in what was exported: `leave_out` counts from there, and what lies beside it
                (transforms) stays in floating point.

        Raises:
            ConfigError: a package is missing, a module left out is not there, or nothing can be quantized.
        """
        if missing := [name for name in NEEDS if find_spec(name) is None]:
            raise ConfigError(
                f"quantization needs {', '.join(missing)}: install them with pip install 'accelerator-platform[onnx]'"
            )
        import onnx
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

        model = onnx.load_from_string(onnx_model)
        name = model.graph.input[0].name
        batches = iter([{name: part.cpu().numpy()} for part in calibration[: self.samples].split(_BATCH)])

        class Reader(CalibrationDataReader):
            def get_next(self) -> Any:
                return next(batches, None)

        nodes = [node for node in model.graph.node if node.op_type in (*WEIGHTED, *BETWEEN)]
        paths = {node.name: _paths(node) for node in nodes}
        left = _left_out(paths, self.leave_out, root)
        chosen = _chosen(
            [node for node in nodes if node.name not in left and (not root or _within(paths[node.name], root))],
            {tensor.name for tensor in model.graph.initializer},
        )
        if not chosen:
            raise ConfigError(
                "nothing can be quantized: the network has no product or convolution with weights"
                + (" but those in leave_out" if left else "")
            )
        with tempfile.TemporaryDirectory() as folder, _silent():
            target = Path(folder) / "model.onnx"
            quantize_static(
                model,
                target,
                Reader(),
                quant_format=QuantFormat.QDQ,
                per_channel=self.per_channel,
                reduce_range=self.reduce_range,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_quantize=chosen,
                op_types_to_quantize=[*WEIGHTED, *BETWEEN],
            )
            return target.read_bytes()


def quantize(
    onnx_model: bytes,
    calibration: Tensor,
    *,
    samples: int = 256,
    per_channel: bool = True,
    reduce_range: bool = False,
    leave_out: Collection[str] = (),
) -> bytes:
    """An ONNX file of 8-bit integers from one of floating point; see `Quantize` for what each argument means.

    Args:
        onnx_model: the file's content, as torch.onnx writes it, with one input.
        calibration: inputs as the model is given them, (B, …).
        samples: see `Quantize`.
        per_channel: see `Quantize`.
        reduce_range: see `Quantize`.
        leave_out: see `Quantize`.

    Raises:
        ConfigError: a package is missing, a value is out of range, or nothing can be quantized.
    """
    method = Quantize(samples=samples, per_channel=per_channel, reduce_range=reduce_range, leave_out=leave_out)
    return method.convert(onnx_model, calibration)


def _chosen(nodes: Sequence[Any], constants: Collection[str]) -> list[str]:
    """The names of the nodes to quantize: those with weights, and what works on their results alone.

    A sum with anything else stays in floating point: of the masks of attention, whose −∞ would stretch the range over
    all there is, or of a residual stream that begins in an embedding.
    """
    names, results = [], set()
    for node in nodes:
        if node.op_type in WEIGHTED:
            wanted = len(node.input) > 1 and node.input[1] in constants
        else:
            wanted = node.input[0] in results and (node.op_type != "Add" or node.input[1] in results)
        if wanted:
            names.append(node.name)
            results.update(node.output)
    return names


def _within(paths: set[str], module: str) -> bool:
    return any(path == module or path.startswith(f"{module}.") for path in paths)


def _left_out(paths: Mapping[str, set[str]], leave_out: Collection[str], root: str) -> set[str]:
    """The names of the nodes that come from the modules left out.

    Args:
        paths: of the modules that each node comes from.
        leave_out: paths of modules in the network.
        root: the network's own path.
    """
    left: set[str] = set()
    for wanted in leave_out:
        found = {name for name, own in paths.items() if _within(own, f"{root}.{wanted}" if root else wanted)}
        if not found:
            known = {one.removeprefix(f"{root}.") for own in paths.values() for one in own if one != root}
            raise ConfigError(
                f"leave_out names '{wanted}', which holds nothing that is quantized{did_you_mean(wanted, known)}"
            )
        left |= found
    return left


def _paths(node: Any) -> set[str]:
    """The modules a node comes from: where the exporter says so, and whose weights it reads."""
    found = set()
    if node.op_type in WEIGHTED and len(node.input) > 1 and "." in node.input[1]:
        found.add(node.input[1].rpartition(".")[0])
    for entry in node.metadata_props:
        if entry.key == "pkg.torch.onnx.name_scopes":
            found |= {part.strip().strip("'\"") for part in entry.value.strip("[]").split(",")[:-1]} - {""}
    return found


@contextmanager
def _silent() -> Iterator[None]:
    """ONNX Runtime advises to pre-process a model, which the exporter has done."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
