"""Linear layers, convolutions and embeddings: what has rows and columns."""

from __future__ import annotations

from typing import Any

from torch import nn

from accelerator.multilevel.layout import Extent, Pieces, RefusalError, Span, Spans, Widths, pieces
from accelerator.multilevel.rules.place import Place


def linear(widths: Widths, place: Place) -> Spans:
    """The map x Wᵀ + b over the last dimension; W is [out, in]."""
    *others, last = place.inputs[0].spans
    module: Any = place.module
    weight, bias = place.tensors["weight"], place.tensors.get("bias")
    widths.claim(weight, 1, last, "column", place.path)
    out = widths.produce(weight, 0, module.out_features, place.module_path)
    if bias is not None:
        widths.claim(bias, 0, out, "row", place.path)
        widths.mark_inhomogeneous(others, place.path)
    widths.attribute(place.module_path, "in_features", last)
    widths.attribute(place.module_path, "out_features", out)
    return (*others, out)


def convolution(widths: Widths, place: Place) -> Spans:
    """Conv1d–3d and their transposes over [batch, channels, space…] or [channels, space…].

    The weight is [out, in/groups, kernel…], a transposed one's [in, out/groups, kernel…].
    """
    x, module = place.inputs[0], place.module
    assert isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED))
    at = len(x.shape) - len(module.kernel_size) - 1
    before, after = x.spans[:at], x.spans[at + 1 :]
    if any(after):
        raise RefusalError("it slides over a dimension that is a width")
    reads = x.spans[at]
    if module.groups == 1:
        out = _dense(widths, place, module, reads)
    elif reads is not None and module.groups >= module.in_channels // module.groups:
        reads, out = _whole_groups(widths, place, module, reads)
    else:
        reads, out = _within_groups(widths, place, module, reads)
    if module.bias is not None:
        widths.mark_inhomogeneous(before, place.path)
    widths.attribute(place.module_path, "in_channels", reads)
    widths.attribute(place.module_path, "out_channels", out)
    return (*before, out, *after)


TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def _dense(widths: Widths, place: Place, module: Any, reads: Extent) -> Span:
    weight, into = place.tensors["weight"], 0 if isinstance(module, TRANSPOSED) else 1
    widths.claim(weight, into, reads, "column", place.path)
    out = widths.produce(weight, 1 - into, module.out_channels, place.module_path)
    _bias(widths, place, out, "row")
    return out


def _whole_groups(widths: Widths, place: Place, module: Any, reads: Span | Pieces) -> tuple[Extent, Extent]:
    """The groups of channels are the units: what a group reads and what it gives are coarsened together.

    A depthwise convolution has one channel a group: its outputs are the units that it reads.
    """
    into, out_of = module.in_channels // module.groups, module.out_channels // module.groups

    def enlarged(span: Span | None) -> Span | None:
        return None if span is None else widths.cut(span, 1, into)

    parts = reads.parts if isinstance(reads, Pieces) else ((reads, module.in_channels),)
    if any(size % into for _, size in parts):
        raise RefusalError("its groups cut through a concatenation")
    taken = [(enlarged(span), size) for span, size in parts]
    given = [
        (span and Span(span.group, span.outer, span.inner // into * out_of), size // into * out_of)
        for span, size in taken
    ]
    taken_all, out = pieces(taken), pieces(given)
    first = taken_all if isinstance(module, TRANSPOSED) else out
    widths.claim(place.tensors["weight"], 0, first, "invariant", place.path)
    _bias(widths, place, out, "unit")
    widths.attribute(place.module_path, "groups", taken_all, divisor=into)
    return taken_all, out


def _within_groups(widths: Widths, place: Place, module: Any, reads: Extent) -> tuple[Extent, Span]:
    """Every group of channels keeps its place and is narrowed within, the inputs of all groups alike."""
    weight, groups = place.tensors["weight"], module.groups
    if isinstance(reads, Pieces):
        raise RefusalError("its groups of channels lie in a concatenation")
    inside: Extent = None
    if reads is not None:
        reads = widths.cut(reads, groups, 1)
        inside = Span(reads.group, reads.outer // groups, reads.inner)
    if isinstance(module, TRANSPOSED):
        widths.claim(weight, 0, reads, "column", place.path)
        found = widths.produce(weight, 1, module.out_channels // groups, place.module_path)
        out = Span(found.group, groups * found.outer, found.inner)
    else:
        widths.claim(weight, 1, inside, "column", place.path)
        out = widths.produce(weight, 0, module.out_channels, place.module_path)
        widths.divide(out, groups)
    _bias(widths, place, out, "row")
    return reads, out


def _bias(widths: Widths, place: Place, out: Extent, role: Any) -> None:
    if "bias" in place.tensors:
        widths.claim(place.tensors["bias"], 0, out, role, place.path)


def embedding(widths: Widths, place: Place) -> Spans:
    """Rows looked up in a table [entries, features]; EmbeddingBag reduces those of a bag."""
    module: Any = place.module
    if module.max_norm is not None:
        raise RefusalError("max_norm rescales its rows by their norm, which the width changes; set max_norm=None")
    weight = place.tensors["weight"]
    out = widths.produce(weight, 1, module.embedding_dim, place.module_path)
    widths.attribute(place.module_path, "embedding_dim", out)
    return (*(None for _ in place.shape[1:]), out)


def prelu(widths: Widths, place: Place) -> Spans:
    """One slope for all, or one for each channel (dimension 1)."""
    spans, module = place.inputs[0].spans, place.module
    assert isinstance(module, nn.PReLU)
    if module.num_parameters > 1:
        widths.claim(place.tensors["weight"], 0, spans[1], "invariant", place.path)
        widths.attribute(place.module_path, "num_parameters", spans[1])
    return spans
