"""Indexing and expansion, of activations and of parameters used directly."""

from __future__ import annotations

from typing import Any

from torch import fx

from accelerator.multilevel.layout import Layout, RefusalError, Spans, Widths
from accelerator.multilevel.rules.place import Place
from accelerator.multilevel.rules.shapes import order_of

PASS_PARAMETERS = frozenset(
    ("getitem", "expand", "expand_as", "unsqueeze", "transpose", "permute", "contiguous", "to", "type_as", "float")
)
"""Operations after which a parameter or buffer is still itself, dimension by dimension."""


def passed_parameter(place: Place) -> Layout | None:
    """The layout of a parameter that was indexed, expanded or reordered; None where it is no longer itself."""
    x = place.inputs[0]
    if x.parameter is None:
        return None
    kept: list[int | None]
    if place.name == "getitem":
        kept = indexed(place, x)
    elif place.name in ("expand", "expand_as"):
        kept = expanded(place, x)
    elif place.name == "unsqueeze":
        kept = [*range(len(x.shape))]
        dim = place.integer("dim", 1)
        kept.insert(dim if dim >= 0 else dim + len(place.shape), None)
    elif place.name in ("transpose", "permute"):
        kept = [*order_of(place, x)]
    else:
        kept = [*range(len(x.shape))]
    whole = [
        dim if dim is not None and size == x.shape[dim] else None for dim, size in zip(kept, place.shape, strict=True)
    ]
    own = tuple(None if dim is None else x.own[dim] for dim in whole)
    return Layout(place.shape, (None,) * len(place.shape), frozenset(), x.parameter, own)


def index(widths: Widths, place: Place) -> Spans:
    """x[…] with whole slices on widths; numbers and ranges elsewhere."""
    x = place.inputs[0]
    kept = indexed(place, x)
    found = []
    for dim, size in zip(kept, place.shape, strict=True):
        extent = None if dim is None else x.spans[dim]
        if extent is not None and size != x.shape[dim]:  # pyright: ignore[reportArgumentType, reportCallIssue]
            raise RefusalError("it takes a part of a width; use chunk or split for equal parts")
        found.append(extent)
    if any(x.spans[dim] is not None for dim in set(range(len(x.shape))) - set(kept)):
        raise RefusalError("it takes one entry of a width")
    return tuple(found)


def indexed(place: Place, x: Layout) -> list[int | None]:
    """For each dimension of x[…] the dimension of x it is (perhaps a range of); None for a new one.

    Raises:
        RefusalError: the index is a tensor or a mask.
    """
    parts: Any = place.node.args[1]
    parts = list(parts) if isinstance(parts, (tuple, list)) else [parts]
    taken = sum(part is not None and part is not Ellipsis for part in parts)
    if Ellipsis not in parts:
        parts.append(Ellipsis)
    kept: list[int | None] = []
    dim = 0
    for part in parts:
        if part is Ellipsis:
            rest = len(x.shape) - taken
            kept += range(dim, dim + rest)
            dim += rest
        elif part is None:
            kept.append(None)
        elif isinstance(part, slice):
            kept.append(dim)
            dim += 1
        elif isinstance(part, int) or (isinstance(part, fx.Node) and "tensor_meta" not in part.meta):
            dim += 1
        else:
            raise RefusalError("its index is a tensor")
    return kept


def expand(widths: Widths, place: Place) -> Spans:
    """Dimensions of size 1 repeated, without a copy."""
    x = place.inputs[0]
    found = tuple(None if dim is None else x.spans[dim] for dim in expanded(place, x))
    if place.name == "expand":
        sizes: Any = place.argument("size", 1)
        sizes = list(sizes) if isinstance(sizes, (tuple, list)) else list(place.node.args[1:])
        for size, extent in zip(sizes, found, strict=True):
            if extent is not None and size != -1 and not place.size(size).powers:
                raise RefusalError(f"it hard-codes the size {size} of a width; write -1 there")
            place.require(size, extent)
    return found


def expanded(place: Place, x: Layout) -> list[int | None]:
    """For each dimension of the expanded tensor the dimension of x it is; None for an added one."""
    added = len(place.shape) - len(x.shape)
    return [None] * added + list(range(len(x.shape)))
