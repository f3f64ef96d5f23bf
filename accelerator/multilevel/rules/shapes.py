"""Operations that reorder, merge, split or reduce dimensions."""

from __future__ import annotations

import math
from typing import Any

from torch import fx, nn

from accelerator.multilevel.layout import Extent, Layout, Pieces, RefusalError, Span, Spans, Widths, pieces
from accelerator.multilevel.rules.place import Place
from accelerator.multilevel.sizes import Size


def spatial(widths: Widths, place: Place) -> Spans:
    """Pooling and resampling: the last dimensions change, the others pass."""
    x = place.inputs[0]
    if len(place.shape) != len(x.shape):
        raise RefusalError("it changes the number of dimensions")
    kernel = next((int(digit) for digit in place.name if digit.isdigit()), len(x.shape) - 2)
    if any(x.spans[len(x.shape) - kernel :]):
        raise RefusalError("it pools over a dimension that is a width")
    return x.spans


def reduction(widths: Widths, place: Place) -> Spans:
    """Mean, sum or maximum over dimensions that are not widths."""
    x = place.inputs[0]
    reduced = _reduced(place, len(x.shape))
    if any(x.spans[dim] for dim in reduced):
        raise RefusalError("it reduces over a dimension that is a width")
    if len(place.shape) == len(x.shape):
        return x.spans
    return tuple(span for dim, span in enumerate(x.spans) if dim not in reduced)


def nonlinear_reduction(widths: Widths, place: Place) -> Spans:
    """Variance and the like, over dimensions that are not widths."""
    spans = reduction(widths, place)
    widths.mark_inhomogeneous(spans, place.path)
    return spans


def along(widths: Widths, place: Place) -> Spans:
    """Softmax, cumulative sums, flips, …: along dimensions that are not widths; the shape stays."""
    x = place.inputs[0]
    dims = getattr(place.module, "dim", None)
    if place.module is None:
        keyword, position = {"flip": ("dims", 1), "roll": ("dims", 2)}.get(place.name, ("dim", 1))
        dims = place.argument(keyword, position)
    dims = dims if isinstance(dims, (tuple, list)) else [dims]
    if any(dim is None or x.spans[dim] for dim in dims):
        raise RefusalError("it acts along a dimension that is a width")
    widths.mark_inhomogeneous(x.spans, place.path)
    return x.spans


def _reduced(place: Place, rank: int) -> set[int]:
    dims = place.argument("dim", 1)
    dims = range(rank) if dims is None or isinstance(dims, bool) else [dims] if isinstance(dims, int) else dims
    return {dim % rank for dim in dims}


def reshape(widths: Widths, place: Place) -> Spans:
    """View, reshape, flatten, squeeze, unsqueeze: neighbouring dimensions merge or split, in row-major order.

    Where a width is split over several dimensions (heads × head_dim), the one whose size adapts (-1, or computed from
    shapes or attributes) is the width from here on, the others stay: the group's units become that much larger.
    """
    x = place.inputs[0]
    spans: list[Extent] = [None] * len(place.shape)
    sizes = _requested_sizes(place)
    for size, extent in zip(x.shape, x.spans, strict=True):
        if size == 1 and isinstance(extent, Span):
            widths.keep(extent.group, "it is a single unit")
    for old, new in _blocks(x.shape, place.shape):
        carried = [dim for dim in old if x.spans[dim] is not None]
        if not carried:
            continue
        if len(carried) > 1:
            raise RefusalError("it merges two widths into one dimension")
        extent = x.spans[carried[0]]
        before = math.prod(x.shape[dim] for dim in old if dim < carried[0])
        after = math.prod(x.shape[dim] for dim in old if dim > carried[0])
        if isinstance(extent, Pieces):
            spans[new[0]] = _reshaped_pieces(extent, before, after, len(new))
        else:
            assert extent is not None
            span = Span(extent.group, extent.outer * before, extent.inner * after)
            at, spans_there = _split(widths, place, span, new, sizes)
            spans[at] = spans_there
    if sizes is not None:
        for size, extent in zip(sizes, spans, strict=True):
            place.require(size, extent)
    if isinstance(place.module, nn.Unflatten):
        first = int(place.module.dim) % len(x.shape)  # pyright: ignore[reportArgumentType]
        for index, size in enumerate(place.module.unflattened_size):
            if size != -1:
                widths.attribute(place.module_path, "unflattened_size", spans[first + index], index)
    return tuple(spans)


def _reshaped_pieces(extent: Pieces, before: int, after: int, dims: int) -> Extent:
    if before > 1 or dims > 1:
        raise RefusalError("it splits a concatenation of widths, or lays it behind another dimension")
    return pieces(
        (span and Span(span.group, span.outer, span.inner * after), size * after) for span, size in extent.parts
    )


def _split(widths: Widths, place: Place, span: Span, new: list[int], sizes: tuple[Any, ...] | None) -> tuple[int, Span]:
    """Which of the new dimensions is the width, and the span there; its group's units are enlarged as needed."""
    span = widths.resolve(span)
    shape = [place.shape[dim] for dim in new]
    stated = [None if sizes is None else sizes[dim] for dim in new]
    adapts = [size is None or isinstance(size, fx.Node) or size == -1 or hasattr(size, "powers") for size in stated]
    total, found = math.prod(shape), []
    for at in range(len(new)):
        outer = math.lcm(span.outer, math.prod(shape[:at]))
        inner = math.lcm(span.inner, math.prod(shape[at + 1 :]))
        units, rest = divmod(total, outer * inner)
        if rest == 0 and (units > 1 or widths.width[span.group] == 1):
            constant = bool(place.size(stated[at]).powers) and not _grows(place.size(stated[at]))
            found.append((constant, -units, at, outer, inner))
    if not found:
        raise RefusalError("it splits a width over several dimensions")
    free = [choice for choice in found if adapts[choice[2]]]
    if not free:
        _, _, at, *_ = min(found)
        raise RefusalError(f"it hard-codes the size {shape[at]} of a width; write -1 or x.size(dim) there")
    if len(new) > 1 and place.name in ("view", "reshape", "unflatten", "Unflatten"):
        free.sort(key=lambda choice: (choice[0], choice[2]))
    else:
        free.sort(key=lambda choice: choice[1])
    _, _, at, outer, inner = free[0]
    span = widths.cut(span, outer, inner)
    before, after = math.prod(shape[:at]), math.prod(shape[at + 1 :])
    return new[at], Span(span.group, span.outer // before, span.inner // after)


def _grows(size: Size) -> bool:
    """Whether a size is one width or attribute, not a quotient such as channels // heads."""
    return sum(size.powers.values()) > 0


def _requested_sizes(place: Place) -> tuple[Any, ...] | None:
    """What the operation asks each dimension of its output to be; None for what it does not say."""
    if place.name == "unflatten":
        dim, sizes = place.dimension("dim", 1, len(place.inputs[0].shape)), place.argument("sizes", 2)
        return (*(None,) * dim, *sizes, *(None,) * (len(place.shape) - dim - len(sizes)))
    if place.name not in ("view", "reshape"):
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


def permute(widths: Widths, place: Place) -> Spans:
    """The dimensions in another order."""
    (x,) = place.inputs
    return tuple(x.spans[dim] for dim in order_of(place, x))


def order_of(place: Place, x: Layout) -> list[int]:
    """For each dimension of the result of permute or transpose, the dimension of x it was."""
    if place.name in ("permute", "movedim"):
        dims = place.argument("dims", 1)
        return list(dims if isinstance(dims, (tuple, list)) else place.node.args[1:])  # pyright: ignore[reportReturnType]
    order = list(range(len(x.shape)))
    one, other = (-2, -1) if place.name in ("mT", "t") else (place.integer("dim0", 1), place.integer("dim1", 2))
    order[one], order[other] = order[other], order[one]
    return order
