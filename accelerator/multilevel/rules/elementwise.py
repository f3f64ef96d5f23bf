"""Operations that act on every entry by itself, and those that join tensors entry by entry."""

from __future__ import annotations

from typing import Any

from accelerator.multilevel.layout import Extent, Layout, RefusalError, Role, Spans, Widths
from accelerator.multilevel.rules.place import Place


def homogeneous(widths: Widths, place: Place) -> Spans:
    """Elementwise, with f(s·x) = s·f(x) for s > 0."""
    return place.inputs[0].spans


def elementwise(widths: Widths, place: Place) -> Spans:
    """Elementwise, of any other kind."""
    widths.mark_inhomogeneous(place.inputs[0].spans, place.path)
    return place.inputs[0].spans


def addition(widths: Widths, place: Place) -> Spans:
    """Sums and differences: widths that meet are joined; a number shifts every unit."""
    if len(place.inputs) < 2:
        return elementwise(widths, place)
    return combined(widths, place, "unit")


def product(widths: Widths, place: Place) -> Spans:
    """Products and quotients: of two widths, or of one and numbers."""
    spans = combined(widths, place, "invariant")
    if sum(any(x.spans) for x in place.inputs) > 1:
        widths.mark_inhomogeneous(spans, place.path)
    return spans


def choice(widths: Widths, place: Place) -> Spans:
    """Entries of one tensor or another, or numbers, as a mask says: masked_fill, where, maximum, minimum."""
    spans = combined(widths, place, "unit")
    widths.mark_inhomogeneous(spans, place.path)
    return spans


def combined(widths: Widths, place: Place, role: Role, skip: int | None = None) -> Spans:
    """Join the operands' spans on each dimension of the broadcast result; a parameter takes those of the others.

    Args:
        widths: found so far.
        place: of the operation.
        role: what a parameter among the operands is to the units.
        skip: a dimension of the result to leave alone.
    """
    rank = len(place.shape)
    result: list[Extent] = [None] * rank
    for dim in range(rank):
        if dim == skip:
            continue
        present = [
            (x, x.spans[dim - rank])
            for x in place.inputs
            if len(x.shape) >= rank - dim and x.shape[dim - rank] != 1 and x.parameter is None
        ]
        if any(extent for _, extent in present) and any(x.through and not extent for x, extent in present):
            raise RefusalError("it joins a width to the result of an operation without a rule")
        if present:
            extent = present[0][1]
            for _, other in present[1:]:
                extent = widths.join(extent, other, place.path)
            result[dim] = extent
    for x in place.inputs:
        if x.parameter is not None:
            _claim_parameter(widths, place, x, result, role, skip)
    return tuple(result)


def _claim_parameter(
    widths: Widths, place: Place, x: Layout, result: list[Extent], role: Any, skip: int | None
) -> None:
    assert x.parameter is not None
    for dim, size in enumerate(x.shape):
        at = dim - len(x.shape) + len(result)
        if at == skip:
            continue
        extent = result[at]
        if size != 1 and x.own[dim] is not None:
            widths.claim(x.parameter, x.own[dim], extent, role, place.path)  # pyright: ignore[reportArgumentType]
        elif size != 1 and extent is not None:
            widths.join(extent, None, place.path)
        elif extent is not None and role == "unit":
            widths.mark_inhomogeneous([extent], place.path)
