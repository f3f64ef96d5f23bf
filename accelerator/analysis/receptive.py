"""How much of an image each layer of a convolutional network sees.

A unit of a feature map sees r input points in a direction, and its neighbour sees the same j points further on. Through
a layer with kernel k, stride s and dilation d: r ← r + (k − 1)·d·j, j ← j·s; where branches meet, the larger r counts.
Source: Dumoulin & Visin (2016), *A guide to convolution arithmetic for deep learning*; for graphs Araujo, Norris & Sim
(2019), *Computing Receptive Fields of Convolutional Neural Networks*, Distill.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from accelerator.multilevel.tracing import evaluation_mode

_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_POINTWISE_MODULES = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.dropout._DropoutNd,
    nn.Identity,
    nn.PReLU,
)
_ARITHMETIC = ("add", "iadd", "sub", "isub", "mul", "imul", "div", "truediv", "itruediv", "neg", "float")
_ACTIVATIONS = ("relu", "relu_", "relu6", "gelu", "silu", "elu", "tanh", "sigmoid", "softplus", "leaky_relu", "prelu")
_OTHERS = ("hardtanh", "dropout", "dropout1d", "dropout2d", "dropout3d", "batch_norm", "contiguous", "clone")
_POINTWISE = frozenset((*_ARITHMETIC, *_ACTIVATIONS, *_OTHERS, "cat", "concat"))


@dataclass(frozen=True)
class Field:
    """What a unit sees, in each direction: points, and from one unit to the next."""

    points: tuple[int, ...]
    step: tuple[float, ...]


@dataclass(frozen=True)
class Seen:
    """What the units of a layer see."""

    path: str
    field: Field


@dataclass
class Receptive:
    """Of a network.

    Attributes:
        layers: those that make what is seen larger, in order.
        last: what the last feature map sees, before anything global.
        image: points of the input in each direction.
        stopped: what ended it: a pooling over all positions, a flattening, …; None if the output is a map.
    """

    layers: list[Seen]
    last: Field
    image: tuple[int, ...]
    stopped: str | None = None


def receptive_field(model: nn.Module, inputs: Tensor) -> Receptive | str:
    """Follow what units see through a network of convolutions and poolings.

    Args:
        model: any module `torch.fx` can trace.
        inputs: a batch, (B, C, …) with one to three directions.

    Returns:
        What is seen, or why that cannot be told.
    """
    if inputs.dim() < 3 or not inputs.is_floating_point():
        return "the inputs are no images"
    if not any(isinstance(module, _CONVOLUTIONS) for module in model.modules()):
        return "there is no convolution"
    try:
        with evaluation_mode(model), torch.no_grad():
            traced = fx.symbolic_trace(model)
            follower = _Follower(traced, inputs.dim() - 2)
            follower.run(inputs[:2])
    except Exception as error:
        return f"the network cannot be traced ({type(error).__name__}: {str(error).partition(chr(10))[0]})"
    if follower.last is None:
        return "no convolution is reached from the inputs"
    return Receptive(follower.layers, follower.last, tuple(inputs.shape[2:]), follower.stopped)


class _Follower(fx.Interpreter):
    """Runs the network and keeps beside each value what it sees; nothing for what is no map."""

    def __init__(self, traced: fx.GraphModule, directions: int) -> None:
        super().__init__(traced)
        self.directions = directions
        self.fields: dict[fx.Node, Field | None] = {}
        self.layers: list[Seen] = []
        self.last: Field | None = None
        self.stopped: str | None = None

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        self.fields[n] = self._field(n, result)
        return result

    def _field(self, node: fx.Node, result: Any) -> Field | None:
        ones = (1,) * self.directions
        if node.op == "placeholder":
            first = not any(found is not None for found in self.fields.values())
            return Field(ones, ones) if first and isinstance(result, Tensor) else None
        found = [field for source in node.all_input_nodes if (field := self.fields.get(source)) is not None]
        if not found:
            return None
        before = Field(
            tuple(max(field.points[at] for field in found) for at in range(self.directions)),
            tuple(min(field.step[at] for field in found) for at in range(self.directions)),
        )
        if node.op == "output":
            return before
        if node.op == "call_module":
            after = self._through(self.fetch_attr(str(node.target)), before)
            what = f"{node.target} ({type(self.fetch_attr(str(node.target))).__name__})"
        else:
            name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
            after = before if name in _POINTWISE else None
            what = name
        if after is None:
            self.stopped = self.stopped or what
        elif after != before:
            self.layers.append(Seen(str(node.target), after))
            self.last = after
        elif self.last is not None:
            self.last = Field(tuple(map(max, self.last.points, after.points)), after.step)  # type: ignore[arg-type]
        return after

    def _through(self, module: nn.Module, before: Field) -> Field | None:
        if isinstance(module, _CONVOLUTIONS + _POOLS):
            return self._window(module, before)
        if isinstance(module, _TRANSPOSED):
            kernel, stride, dilation = (
                _each(getattr(module, name), self.directions) for name in ("kernel_size", "stride", "dilation")
            )
            step = tuple(j / s for j, s in zip(before.step, stride, strict=True))
            reach = zip(before.points, kernel, dilation, step, strict=True)
            return Field(tuple(int(r + -(-(k - 1) * d * j // 1)) for r, k, d, j in reach), step)
        if isinstance(module, _POINTWISE_MODULES) or type(module).__module__ == "torch.nn.modules.activation":
            return None if isinstance(module, nn.MultiheadAttention) else before
        return None

    def _window(self, module: Any, before: Field) -> Field:
        stride = module.stride if module.stride is not None else module.kernel_size
        kernel, stride, dilation = (
            _each(value, self.directions) for value in (module.kernel_size, stride, getattr(module, "dilation", 1))
        )
        sizes = zip(before.points, before.step, kernel, dilation, strict=True)
        return Field(
            tuple(int(r + (k - 1) * d * j) for r, j, k, d in sizes),
            tuple(j * s for j, s in zip(before.step, stride, strict=True)),
        )


def _each(value: Any, directions: int) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (int(value),) * directions
