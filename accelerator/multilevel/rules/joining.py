"""Operations that put tensors side by side or take them apart: cat, stack, chunk, split, unbind."""

from __future__ import annotations

from typing import Any

from torch import fx, nn

from accelerator.multilevel.layout import Extent, Pieces, RefusalError, Span, Spans, Widths, pieces, spans_on
from accelerator.multilevel.rules.elementwise import combined
from accelerator.multilevel.rules.place import Place, Several


def cat(widths: Widths, place: Place) -> Spans:
    """Tensors side by side: along a width, each keeps its own group there; the other dimensions are joined."""
    members = place.tensors_in("tensors", 0)
    dim = place.dimension("dim", 1, len(place.shape), 0)
    found = list(combined(widths, place, "unit", skip=dim))
    if any(x.through and x.spans[dim] is None for x in members) and any(x.spans[dim] for x in members):
        raise RefusalError("it joins a width to the result of an operation without a rule")
    found[dim] = pieces((x.spans[dim], x.shape[dim]) for x in members)
    return tuple(found)


def stack(widths: Widths, place: Place) -> Spans:
    """Tensors side by side along a dimension of its own."""
    members = place.tensors_in("tensors", 0)
    dim = place.dimension("dim", 1, len(place.shape), 0)
    if any(x.parameter is not None for x in members):
        raise RefusalError("it stacks parameters")
    found = members[0].spans
    for x in members[1:]:
        found = tuple(widths.join(one, other, place.path) for one, other in zip(found, x.spans, strict=True))
    return (*found[:dim], None, *found[dim:])


def parts(widths: Widths, place: Place) -> Several:
    """Chunk, split, unbind: equal parts of a width are the same units; a concatenation is cut where it was joined."""
    x = place.inputs[0]
    if place.name == "unbind":
        dim = place.dimension("dim", 1, len(x.shape), 0)
        if x.spans[dim] is not None:
            raise RefusalError("it takes a width apart unit by unit")
        return Several(((*x.spans[:dim], *x.spans[dim + 1 :]),) * len(place.shapes))
    dim = place.dimension("dim", 2, len(x.shape), 0)
    sizes = [shape[dim] for shape in place.shapes]
    found = _parts(widths, x.spans[dim], sizes)
    if place.name == "split":
        stated: Any = place.argument("split_size_or_sections", 1, place.argument("split_size", 1))
        stated = stated if isinstance(stated, (tuple, list)) else [stated]
        for number, extent in zip(stated, found, strict=False):
            if extent is not None and not isinstance(number, fx.Node) and not hasattr(number, "powers"):
                raise RefusalError(f"it hard-codes the size {number} of a width; use chunk, or x.size(dim) there")
            place.require(number, extent)
    return Several(tuple((*x.spans[:dim], extent, *x.spans[dim + 1 :]) for extent in found))


def _parts(widths: Widths, extent: Extent, sizes: list[int]) -> list[Extent]:
    if extent is None:
        return [None] * len(sizes)
    if isinstance(extent, Pieces):
        return _cut(extent, sizes)
    if len(set(sizes)) > 1:
        raise RefusalError("it takes unequal parts of a width; make equal parts, or several layers")
    span = widths.cut(extent, len(sizes), 1)
    return [Span(span.group, span.outer // len(sizes), span.inner)] * len(sizes)


def _cut(extent: Pieces, sizes: list[int]) -> list[Extent]:
    """A concatenation cut where it was joined."""
    left, found = list(extent.parts), []
    for size in sizes:
        mine: list[tuple[Span | None, int]] = []
        while left and sum(entries for _, entries in mine) < size:
            mine.append(left.pop(0))
        if sum(entries for _, entries in mine) != size:
            raise RefusalError("it cuts a concatenation elsewhere than it was joined")
        found.append(pieces(mine))
    return found


def glu(widths: Widths, place: Place) -> Spans:
    """A · σ(b) for the halves a | b of a dimension: the same units of both."""
    x = place.inputs[0]
    given = place.module.dim if isinstance(place.module, nn.GLU) else place.integer("dim", 1, -1)
    dim = given % len(x.shape)
    one, other = _parts(widths, x.spans[dim], [x.shape[dim] // 2] * 2)
    half = widths.join(one, other, place.path)
    spans = (*x.spans[:dim], half, *x.spans[dim + 1 :])
    widths.mark_inhomogeneous(spans, place.path)
    return spans


def repeat(widths: Widths, place: Place) -> Spans:
    """Copies along dimensions that are not widths."""
    x = place.inputs[0]
    times: Any = place.argument("repeats", 1)
    times = list(times) if isinstance(times, (tuple, list)) else list(place.node.args[1:])
    added = len(place.shape) - len(x.shape)
    for count, extent in zip(times[added:], x.spans, strict=True):
        if count != 1 and any(spans_on(extent)):
            raise RefusalError("it repeats a width")
    return (*(None,) * added, *x.spans)
