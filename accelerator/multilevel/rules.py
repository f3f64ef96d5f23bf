"""How each layer and operation carries widths from its inputs to its output.

A rule is called with the widths found so far and the place in the traced network. It records what lies on the layer's
own tensors and returns the spans of the output's dimensions, or raises `RefusalError` with the reason. To teach the
tracing a new layer, add its class to `MODULES`; a new function or tensor method, its name to `OPERATIONS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import fx, nn

from accelerator.multilevel.layout import Layout, RefusalError, Span, Spans, Widths


@dataclass(frozen=True)
class Place:
    """A node of the traced network, as its rule sees it.

    Args:
        path: how messages call it.
        node: the node of the graph.
        inputs: the layouts of its tensor arguments, in order.
        shape: of its output on the example input.
        module: the layer and its path in the network; None for a function or method.
        tensors: canonical name of each of the layer's own parameters and buffers.
    """

    path: str
    node: fx.Node
    inputs: tuple[Layout, ...]
    shape: tuple[int, ...]
    module: nn.Module | None = None
    module_path: str = ""
    tensors: dict[str, str] = field(default_factory=dict)

    def argument(self, name: str, position: int, default: Any = None) -> Any:
        """An argument of the call, given by position or by name."""
        if name in self.node.kwargs:
            return self.node.kwargs[name]
        return self.node.args[position] if len(self.node.args) > position else default


Rule = Callable[[Widths, Place], Spans]


def linear(widths: Widths, place: Place) -> Spans:
    """The map x Wᵀ + b over the last dimension; W is [out, in]."""
    *others, last = place.inputs[0].spans
    return (*others, _layer(widths, place, last, "in_features", "out_features", others))


def convolution(widths: Widths, place: Place) -> Spans:
    """Conv1d–3d over [batch, channels, space…] or [channels, space…]; the weight is [out, in, kernel…]."""
    x, module = place.inputs[0], place.module
    assert isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
    if module.groups != 1:
        raise RefusalError(f"grouped convolution (groups={module.groups}) has no rule")
    channel = len(x.shape) - len(module.kernel_size) - 1
    before, after = x.spans[:channel], x.spans[channel + 1 :]
    if any(after):
        raise RefusalError("it slides over a dimension that is a width")
    out = _layer(widths, place, x.spans[channel], "in_channels", "out_channels", before)
    return (*before, out, *after)


def _layer(
    widths: Widths, place: Place, span: Span | None, reads: str, produces: str, others: Spans | list[Span | None]
) -> Span:
    size = getattr(place.module, produces)
    weight, bias = place.tensors["weight"], place.tensors.get("bias")
    widths.claim(weight, 1, span, "column", place.path)
    out = widths.produce(weight, 0, size, place.module_path)
    if bias is not None:
        widths.claim(bias, 0, out, "row", place.path)
        widths.mark_inhomogeneous(others, place.path)
    widths.attribute(place.module_path, reads, span)
    widths.attribute(place.module_path, produces, out)
    return out


def batch_norm(widths: Widths, place: Place) -> Spans:
    """Batch and instance norms: each channel (dimension 1) by its own statistics."""
    spans = place.inputs[0].spans
    _norm_tensors(widths, place, spans[1])
    widths.attribute(place.module_path, "num_features", spans[1])
    return spans


def group_norm(widths: Widths, place: Place) -> Spans:
    """Channels (dimension 1) in equal contiguous blocks, each by the statistics of its block."""
    spans, module = place.inputs[0].spans, place.module
    assert isinstance(module, nn.GroupNorm)
    channels = spans[1]
    _norm_tensors(widths, place, channels)
    widths.attribute(place.module_path, "num_channels", channels)
    if channels is None:
        return spans
    if module.num_groups == module.num_channels:
        widths.attribute(place.module_path, "num_groups", channels)
        return spans
    if module.num_groups > 1 and (channels.outer, channels.inner) != (1, 1):
        raise RefusalError("its blocks of channels cut through units")
    widths.divide(channels.group, module.num_groups)
    widths.mark_inhomogeneous([channels], place.path)
    return spans


def layer_norm(widths: Widths, place: Place) -> Spans:
    """Over the last dimensions together; scale and shift have their shape."""
    spans, module = place.inputs[0].spans, place.module
    assert isinstance(module, nn.LayerNorm)
    normalized = spans[len(spans) - len(module.normalized_shape) :]
    for index, span in enumerate(normalized):
        _norm_tensors(widths, place, span, index)
        widths.attribute(place.module_path, "normalized_shape", span, index)
    widths.mark_inhomogeneous(normalized, place.path)
    return spans


def _norm_tensors(widths: Widths, place: Place, span: Span | None, dim: int = 0) -> None:
    roles = {"weight": "unit", "bias": "unit", "running_mean": "unit", "running_var": "variance"}
    for attribute, name in place.tensors.items():
        if attribute in roles:
            widths.claim(name, dim, span, roles[attribute], place.path)  # pyright: ignore[reportArgumentType]


def prelu(widths: Widths, place: Place) -> Spans:
    """One slope for all, or one for each channel (dimension 1)."""
    spans, module = place.inputs[0].spans, place.module
    assert isinstance(module, nn.PReLU)
    if module.num_parameters > 1:
        widths.claim(place.tensors["weight"], 0, spans[1], "invariant", place.path)
        widths.attribute(place.module_path, "num_parameters", spans[1])
    return spans


def homogeneous(widths: Widths, place: Place) -> Spans:
    """Elementwise, with f(s·x) = s·f(x) for s > 0."""
    return place.inputs[0].spans


def elementwise(widths: Widths, place: Place) -> Spans:
    """Elementwise, of any other kind."""
    widths.mark_inhomogeneous(place.inputs[0].spans, place.path)
    return place.inputs[0].spans


def spatial(widths: Widths, place: Place) -> Spans:
    """Pooling and resampling: the last dimensions change, the others pass."""
    (x,) = place.inputs
    if len(place.shape) != len(x.shape):
        raise RefusalError("it changes the number of dimensions")
    kernel = next((int(digit) for digit in _name(place) if digit.isdigit()), len(x.shape) - 2)
    if any(x.spans[len(x.shape) - kernel :]):
        raise RefusalError("it pools over a dimension that is a width")
    return x.spans


def reduction(widths: Widths, place: Place) -> Spans:
    """Mean, sum or maximum over dimensions that are not widths."""
    (x,) = place.inputs
    dims = place.argument("dim", 1)
    dims = range(len(x.shape)) if dims is None else [dims] if isinstance(dims, int) else dims
    reduced = {dim % len(x.shape) for dim in dims}
    if any(x.spans[dim] for dim in reduced):
        raise RefusalError("it reduces over a dimension that is a width")
    if len(place.shape) == len(x.shape):
        return x.spans
    return tuple(span for dim, span in enumerate(x.spans) if dim not in reduced)


def reshape(widths: Widths, place: Place) -> Spans:
    """View, reshape, flatten, squeeze, unsqueeze: neighbouring dimensions merge or split, in row-major order."""
    (x,) = place.inputs
    spans: list[Span | None] = [None] * len(place.shape)
    sizes = _requested_sizes(place)
    for size, span in zip(x.shape, x.spans, strict=True):
        if size == 1 and span is not None:
            widths.keep(span.group, "it is a single unit")
    for old, new in _blocks(x.shape, place.shape):
        carried = [dim for dim in old if x.spans[dim] is not None]
        if not carried:
            continue
        if len(carried) > 1:
            raise RefusalError("it merges two widths into one dimension")
        span = x.spans[carried[0]]
        assert span is not None
        outer = span.outer * math.prod(x.shape[dim] for dim in old if dim < carried[0])
        inner = span.inner * math.prod(x.shape[dim] for dim in old if dim > carried[0])
        at = _position([place.shape[dim] for dim in new], outer, inner, widths.width[span.group])
        if at is None:
            raise RefusalError("it splits a width over several dimensions")
        if sizes is not None and isinstance(sizes[new[at[0]]], int) and sizes[new[at[0]]] != -1:
            raise RefusalError(f"it hard-codes the size {sizes[new[at[0]]]} of a width; write -1 or x.size(dim) there")
        spans[new[at[0]]] = Span(span.group, at[1], at[2])
    return tuple(spans)


def _requested_sizes(place: Place) -> tuple[Any, ...] | None:
    if _name(place) not in ("view", "reshape"):
        return None
    sizes = place.node.args[1:] or (place.node.kwargs.get("shape"),)
    return tuple(sizes[0]) if isinstance(sizes[0], (tuple, list)) else tuple(sizes)


def _blocks(old: tuple[int, ...], new: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """The finest cut of both shapes into runs of dimensions of equal product; dimensions of size 1 drop out."""
    left = [dim for dim, size in enumerate(old) if size != 1]
    right = [dim for dim, size in enumerate(new) if size != 1]
    blocks = []
    while left and right:
        run, other = [left.pop(0)], [right.pop(0)]
        while (a := math.prod(old[dim] for dim in run)) != (b := math.prod(new[dim] for dim in other)):
            if a < b:
                run.append(left.pop(0))
            else:
                other.append(right.pop(0))
        blocks.append((run, other))
    return blocks


def _position(sizes: list[int], outer: int, inner: int, width: int) -> tuple[int, int, int] | None:
    """Which of the new dimensions holds outer × width × inner, and the (outer, inner) left within it."""
    for index, size in enumerate(sizes):
        before, after = math.prod(sizes[:index]), math.prod(sizes[index + 1 :])
        if outer % before == 0 and inner % after == 0 and size == (outer // before) * width * (inner // after):
            return index, outer // before, inner // after
    return None


def permute(widths: Widths, place: Place) -> Spans:
    """The dimensions in another order."""
    (x,) = place.inputs
    dims = place.argument("dims", 1)
    order = dims if isinstance(dims, (tuple, list)) else place.node.args[1:]
    return tuple(x.spans[dim] for dim in order)  # pyright: ignore[reportArgumentType, reportCallIssue]


def transpose(widths: Widths, place: Place) -> Spans:
    """Two dimensions exchanged."""
    spans = list(place.inputs[0].spans)
    one, other = place.argument("dim0", 1), place.argument("dim1", 2)
    spans[one], spans[other] = spans[other], spans[one]
    return tuple(spans)


def addition(widths: Widths, place: Place) -> Spans:
    """Sums and differences: widths that meet are joined; a number shifts every unit."""
    if len(place.inputs) < 2:
        return elementwise(widths, place)
    return _combine(widths, place, "unit")


def product(widths: Widths, place: Place) -> Spans:
    """Products and quotients: of two widths, or of one and numbers."""
    if any(isinstance(argument, fx.Node) and "tensor_meta" not in argument.meta for argument in place.node.args):
        raise RefusalError("it scales by a number computed from a tensor's size")
    spans = _combine(widths, place, "invariant")
    if sum(any(x.spans) for x in place.inputs) > 1:
        widths.mark_inhomogeneous(spans, place.path)
    return spans


def _combine(widths: Widths, place: Place, role: Any) -> Spans:
    """Join the operands' spans on each dimension of the broadcast result; a parameter takes those of the others."""
    rank = len(place.shape)
    result: list[Span | None] = [None] * rank
    for dim in range(rank):
        present = [
            (x, x.spans[dim - rank])
            for x in place.inputs
            if len(x.shape) >= rank - dim and x.shape[dim - rank] != 1 and x.parameter is None
        ]
        if any(span for _, span in present) and any(x.through and not span for x, span in present):
            raise RefusalError("it joins a width to the result of an operation without a rule")
        if present:
            span = present[0][1]
            for _, other in present[1:]:
                span = widths.join(span, other, place.path)
            result[dim] = span
    for x in place.inputs:
        if x.parameter is not None:
            for dim, size in enumerate(x.shape):
                span = result[dim - len(x.shape)]
                if size != 1:
                    widths.claim(x.parameter, dim, span, role, place.path)
                elif span is not None and role == "unit":
                    widths.mark_inhomogeneous([span], place.path)
    return tuple(result)


def _name(place: Place) -> str:
    """The operation's name: the class of a layer, the name of a function or method (in-place ones without `_`)."""
    if place.module is not None:
        return type(place.module).__name__
    target = place.node.target
    return (target if isinstance(target, str) else target.__name__).rstrip("_")


_HOMOGENEOUS = (nn.Identity, nn.ReLU, nn.LeakyReLU, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_ELEMENTWISE = (
    nn.GELU, nn.Tanh, nn.Sigmoid, nn.SiLU, nn.Mish, nn.ELU, nn.SELU, nn.CELU, nn.Softplus, nn.Softsign, nn.ReLU6,
    nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.LogSigmoid, nn.Tanhshrink, nn.Softshrink, nn.Hardshrink,
    nn.AlphaDropout,
)  # fmt: skip
_SPATIAL = (
    nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d, nn.Upsample,
)  # fmt: skip
_BATCH_NORM = (
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm,
    nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
)  # fmt: skip

_HOMOGENEOUS_NAMES = (
    "relu", "leaky_relu", "abs", "neg", "clone", "contiguous", "detach",
    "dropout", "dropout1d", "dropout2d", "dropout3d",
)  # fmt: skip
_ELEMENTWISE_NAMES = (
    "gelu", "tanh", "sigmoid", "silu", "mish", "elu", "selu", "celu", "softplus", "softsign", "relu6", "hardtanh",
    "hardswish", "hardsigmoid", "logsigmoid", "tanhshrink", "softshrink", "hardshrink", "alpha_dropout",
    "sin", "cos", "exp", "square", "sqrt", "pow", "clamp",
)  # fmt: skip
_POOLS = [f"{kind}_pool{n}d" for kind in ("avg", "max", "adaptive_avg", "adaptive_max") for n in (1, 2, 3)]

MODULES: dict[type[nn.Module], Rule] = {
    nn.Linear: linear,
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), convolution),
    **dict.fromkeys(_BATCH_NORM, batch_norm),
    nn.GroupNorm: group_norm,
    nn.LayerNorm: layer_norm,
    nn.PReLU: prelu,
    nn.Flatten: reshape,
    **dict.fromkeys(_HOMOGENEOUS, homogeneous),
    **dict.fromkeys(_ELEMENTWISE, elementwise),
    **dict.fromkeys(_SPATIAL, spatial),
}

OPERATIONS: dict[str, Rule] = {
    **dict.fromkeys(("add", "sub", "iadd", "isub", "rsub"), addition),
    **dict.fromkeys(("mul", "truediv", "imul", "itruediv", "div"), product),
    **dict.fromkeys(_HOMOGENEOUS_NAMES, homogeneous),
    **dict.fromkeys(_ELEMENTWISE_NAMES, elementwise),
    **dict.fromkeys((*_POOLS, "interpolate"), spatial),
    **dict.fromkeys(("mean", "sum", "amax", "amin"), reduction),
    **dict.fromkeys(("view", "reshape", "flatten", "squeeze", "unsqueeze"), reshape),
    "permute": permute,
    "transpose": transpose,
}
