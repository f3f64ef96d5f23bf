"""Widths while they are being found: which group of units lies on which dimension of which tensor.

Legend: a *group* is a set of n units (neurons, channels, heads, frequencies) that must be coarsened together. It lies
on a tensor dimension as a *span* outer × n × inner, i.e. unit u of the group owns the entries (o·n + u)·inner + i. A
plain layer has outer = inner = 1; flattening [B, C, H, W] to [B, C·H·W] gives inner = H·W; the rows of a fused
projection to queries, keys and values have outer = 3 and inner = head_dim around the heads. A dimension made by
concatenation holds several spans side by side: *pieces*.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from math import lcm
from typing import Literal

Axis = Literal["width", "modes"]
"""What a group's units are: `width` (neurons, channels, heads) or `modes` (kept Fourier frequencies of a layer)."""
AXES: tuple[Axis, ...] = ("width", "modes")

Role = Literal["row", "column", "unit", "variance", "invariant"]
"""What a tensor's dimension is to the group on it, i.e. how it changes when a unit's output is scaled by s:
`row` (weights and bias that produce the unit: × s), `column` (weights that read it: × 1/s), `unit` (other values of
the unit, such as a norm's bias or running mean: × s), `variance` (× s²), `invariant` (× 1)."""


class RefusalError(Exception):
    """A rule cannot follow the width through this place; the text is the reason."""


@dataclass(frozen=True)
class Span:
    """A group's place on a dimension: outer × width × inner entries."""

    group: int
    outer: int = 1
    inner: int = 1


@dataclass(frozen=True)
class Pieces:
    """Several spans side by side on one dimension: (span, entries in the traced network) of each; None is fixed."""

    parts: tuple[tuple[Span | None, int], ...]


Extent = Span | Pieces | None
"""What lies on a dimension; None where nothing may be coarsened (batch, space, the network's input)."""
Spans = tuple[Extent, ...]


def spans_on(*extents: Extent) -> Iterator[Span]:
    """The spans on these dimensions, in order."""
    for extent in extents:
        if isinstance(extent, Span):
            yield extent
        elif extent is not None:
            yield from (span for span, _ in extent.parts if span is not None)


def pieces(parts: Iterable[tuple[Extent, int]]) -> Extent:
    """Extents of these sizes side by side; nothing at all, or a single one, stays what it is."""
    flat: list[tuple[Span | None, int]] = []
    for extent, size in parts:
        flat += extent.parts if isinstance(extent, Pieces) else [(extent, size)]
    if not any(span for span, _ in flat):
        return None
    return flat[0][0] if len(flat) == 1 else Pieces(tuple(flat))


@dataclass(frozen=True)
class Layout:
    """One traced tensor.

    Args:
        shape: as for the example input.
        spans: for each dimension what lies on it.
        through: groups that reached this tensor through an operation without a rule. If nothing learned stands between
            here and the network's output, their width *is* the output's and stays.
        parameter: the tensor is this parameter or buffer itself, used directly by the user's `forward`, perhaps
            sliced, expanded or reordered.
        own: for each dimension the parameter's dimension it is; None for one that was added, expanded or sliced.
    """

    shape: tuple[int, ...]
    spans: Spans
    through: frozenset[int] = frozenset()
    parameter: str | None = None
    own: tuple[int | None, ...] = ()

    @classmethod
    def fixed(cls, shape: tuple[int, ...], through: frozenset[int] = frozenset()) -> Layout:
        """A tensor none of whose dimensions may be coarsened."""
        return cls(shape, (None,) * len(shape), through)

    def groups(self) -> frozenset[int]:
        """The groups on this tensor or that reached it through operations without a rule."""
        return self.through | {span.group for span in spans_on(*self.spans)}


@dataclass(frozen=True)
class Claim:
    """A dimension of a parameter or buffer, what lies on it, what it is to that, and where that was said first."""

    extent: Extent
    role: Role
    path: str


@dataclass(frozen=True)
class Stated:
    """What an attribute of a module states: the entries on a dimension, divided by `divisor`."""

    extent: Extent
    divisor: int = 1


class Widths:
    """The groups found so far, merged and split (union-find) as operations relate them."""

    def __init__(self) -> None:
        self._place: list[Span] = []  # where each group lies in the one that replaced it; in itself for a root
        self.width: list[int] = []
        self.axis: list[Axis] = []
        self.centred: list[bool] = []
        self.blocks: list[int] = []
        self.producers: list[list[str]] = []
        self.inhomogeneous: list[list[str]] = []
        self.kept: dict[int, str] = {}
        self.claims: dict[tuple[str, int], Claim] = {}
        self.attributes: dict[tuple[str, str, int | None], Stated] = {}
        self.equal: list[tuple[Span, Span, str]] = []

    def new(self, width: int, producers: list[str], axis: Axis = "width", *, centred: bool = False) -> Span:
        """A group of its own."""
        group = len(self._place)
        self._place.append(Span(group))
        self.width.append(width)
        self.axis.append(axis)
        self.centred.append(centred)
        self.blocks.append(1)
        self.producers.append(producers)
        self.inhomogeneous.append([])
        return Span(group)

    def find(self, group: int) -> int:
        """The group that `group` has become part of."""
        return self.resolve(Span(group)).group

    def resolve(self, span: Span) -> Span:
        """The same entries as a span of the present group."""
        while (place := self._place[span.group]).group != span.group:
            span = Span(place.group, span.outer * place.outer, place.inner * span.inner)
        return span

    def size(self, extent: Extent) -> int:
        """Entries of what lies on a dimension; 0 for nothing."""
        if isinstance(extent, Span):
            return extent.outer * self.width[extent.group] * extent.inner
        return 0 if extent is None else sum(size for _, size in extent.parts)

    def produce(self, tensor: str, dim: int, width: int, layer: str) -> Span:
        """The group that the rows of a layer's weight produce: new, or the one of an earlier call of the same layer."""
        known = self.claims.get((tensor, dim))
        if known is None:
            span = self.new(width, [layer])
            self.claims[tensor, dim] = Claim(span, "row", f"'{layer}'")
            return span
        if known.role != "row" or not isinstance(known.extent, Span):
            raise _tied(tensor, known)
        span = self.resolve(known.extent)
        self.producers[span.group].append(layer)
        return span

    def claim(self, tensor: str, dim: int, extent: Extent, role: Role, path: str) -> None:
        """Record what lies on a dimension of a parameter or buffer; a second use of the tensor joins both."""
        known = self.claims.get((tensor, dim))
        if known is None:
            self.claims[tensor, dim] = Claim(extent, role, path)
            return
        if known.role != role and not (known.extent is None and extent is None):
            raise _tied(tensor, known)
        self.claims[tensor, dim] = replace(known, extent=self.join(known.extent, extent, path))

    def attribute(self, module: str, name: str, extent: Extent, index: int | None = None, divisor: int = 1) -> None:
        """Record that a module's attribute (or its entry `index`) states the size of this extent over `divisor`."""
        if extent is not None:
            self.attributes[module, name, index] = Stated(extent, divisor)

    def join(self, one: Extent, other: Extent, path: str) -> Extent:
        """Merge what a sum (or a second use of a weight) lays on the same dimension.

        Spans of different layout meet in units that both can be cut into: lcm(outer), lcm(inner).
        """
        if one is None or other is None:
            present = one or other
            for span in spans_on(present):
                self.keep(span.group, f"joined in {path} to a dimension that is not coarsened")
            return present
        if isinstance(one, Pieces) or isinstance(other, Pieces):
            return self._join_pieces(one, other, path)
        one, other = self.resolve(one), self.resolve(other)
        if one == other:
            return one
        outer, inner = lcm(one.outer, other.outer), lcm(one.inner, other.inner)
        units = self.size(one) // (outer * inner)
        if one.group == other.group or self.size(one) != self.size(other) or self.size(one) % (outer * inner):
            raise RefusalError("it joins two widths that are laid out differently")
        if units == 1 and max(self.width[one.group], self.width[other.group]) > 1:
            raise RefusalError("it joins two widths that have no common unit")
        self._check_merge(one.group, other.group)
        one, other = self.cut(one, outer, inner), self.cut(other, outer, inner)
        self._merge(one.group, other.group)
        return one

    def _join_pieces(self, one: Extent, other: Extent, path: str) -> Extent:
        if (
            not isinstance(one, Pieces)
            or not isinstance(other, Pieces)
            or [size for _, size in one.parts] != [size for _, size in other.parts]
        ):
            raise RefusalError("it joins a concatenation of widths to a width that is not put together so")
        sizes = [size for _, size in one.parts]
        both = zip(one.parts, other.parts, sizes, strict=True)
        return pieces((self.join(mine, theirs, path), size) for (mine, _), (theirs, _), size in both)

    def split(self, span: Span, outer: int, inner: int) -> Span:
        """The units of a span's group become outer × (larger units) × inner; returns the span of these units."""
        span = self.resolve(span)
        if (outer, inner) == (1, 1):
            return span
        group, width = span.group, self.width[span.group]
        if self.axis[group] != "width" or width % (outer * inner):
            raise RefusalError(f"it cuts {width} units into {outer} × … × {inner}")
        blocks = self.blocks[group]
        if outer % blocks == 0:
            blocks = 1
        elif outer > 1 or (width // blocks) % inner:
            raise RefusalError("it cuts through the blocks of a GroupNorm")
        found = self.new(width // (outer * inner), self.producers[group])
        self._place[group] = Span(found.group, outer, inner)
        self.blocks[found.group] = blocks
        self.inhomogeneous[found.group] = self.inhomogeneous[group]
        if group in self.kept:
            self.kept[found.group] = self.kept.pop(group)
        return self.resolve(span)

    def cut(self, span: Span, outer: int, inner: int) -> Span:
        """The span in units so large that its outer is a multiple of `outer` and its inner one of `inner`."""
        span = self.resolve(span)
        return self.split(span, lcm(span.outer, outer) // span.outer, lcm(span.inner, inner) // span.inner)

    def require_equal(self, one: Span, other: Span, path: str) -> None:
        """Two widths that need not be the same units must have the same size on every level."""
        if self.resolve(one) != self.resolve(other):
            self.equal.append((one, other, path))

    def keep(self, group: int, why: str) -> None:
        """Never coarsen this group."""
        self.kept.setdefault(self.find(group), why)

    def divide(self, extent: Extent, blocks: int) -> None:
        """Units of different blocks (equal, contiguous parts of the extent) may not be aggregated."""
        if extent is None or blocks == 1:
            return
        if isinstance(extent, Pieces):
            raise RefusalError("its blocks of channels lie in a concatenation; normalise before concatenating")
        span = self.resolve(extent)
        if span.outer % blocks == 0:
            return
        if span.outer > 1 or self.width[span.group] % blocks:
            raise RefusalError("its blocks of channels cut through units")
        self.blocks[span.group] = lcm(self.blocks[span.group], blocks)

    def mark_inhomogeneous(self, extents: Iterable[Extent], path: str) -> None:
        """These groups pass an operation that is not positively homogeneous."""
        for span in spans_on(*extents):
            self.inhomogeneous[self.find(span.group)].append(path)

    def _check_merge(self, group: int, other: int) -> None:
        if self.axis[group] != self.axis[other] or self.centred[group] != self.centred[other]:
            raise RefusalError("it joins a width to frequencies, or frequencies of different kinds")

    def _merge(self, group: int, other: int) -> None:
        self._place[other] = Span(group)
        self.blocks[group] = lcm(self.blocks[group], self.blocks[other])
        self.producers[group] += self.producers[other]
        self.inhomogeneous[group] += self.inhomogeneous[other]
        if other in self.kept:
            self.kept.setdefault(group, self.kept.pop(other))


def _tied(tensor: str, known: Claim) -> RefusalError:
    return RefusalError(
        f"its tensor '{tensor}' is used in another role in {known.path} (tied weights); give it a tensor of its own"
    )
