"""Widths while they are being found: which group of units lies on which dimension of which tensor.

Legend: a *group* is a set of n units (neurons, channels) that must be coarsened together. It lies on a tensor
dimension as a *span* outer × n × inner, i.e. unit u of the group owns the entries (o·n + u)·inner + i. A plain layer
has outer = inner = 1; flattening [B, C, H, W] to [B, C·H·W] gives inner = H·W.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import lcm
from typing import Literal

Role = Literal["row", "column", "unit", "variance", "invariant"]
"""What a tensor's dimension is to the group on it, i.e. how it changes when a unit's output is scaled by s:
`row` (weights and bias that produce the unit: × s), `column` (weights that read it: × 1/s), `unit` (other values of
the unit, such as a norm's bias or running mean: × s), `variance` (× s²), `invariant` (× 1)."""


class RefusalError(Exception):
    """A rule cannot follow the width through this place; the text is the reason."""


_TIED = "one of its tensors is used elsewhere in another role (tied weights)"


@dataclass(frozen=True)
class Span:
    """A group's place on a dimension: outer × width × inner entries."""

    group: int
    outer: int = 1
    inner: int = 1


Spans = tuple[Span | None, ...]


@dataclass(frozen=True)
class Layout:
    """One traced tensor.

    Args:
        shape: as for the example input.
        spans: for each dimension the group on it; None where nothing may be coarsened (batch, space, the network's
            input).
        through: groups that reached this tensor through an operation without a rule. If nothing learned stands between
            here and the network's output, their width *is* the output's and stays.
        parameter: the tensor is this parameter or buffer itself, used directly by the user's `forward`.
    """

    shape: tuple[int, ...]
    spans: Spans
    through: frozenset[int] = frozenset()
    parameter: str | None = None

    @classmethod
    def fixed(cls, shape: tuple[int, ...], through: frozenset[int] = frozenset()) -> Layout:
        """A tensor none of whose dimensions may be coarsened."""
        return cls(shape, (None,) * len(shape), through)

    def groups(self) -> frozenset[int]:
        """The groups on this tensor or that reached it through operations without a rule."""
        return self.through | {span.group for span in self.spans if span is not None}


@dataclass(frozen=True)
class Claim:
    """A dimension of a parameter or buffer, the group on it and what it is to the group."""

    span: Span | None
    role: Role


class Widths:
    """The groups found so far, merged (union-find) as operations join them."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self.width: list[int] = []
        self.blocks: list[int] = []
        self.producers: list[list[str]] = []
        self.inhomogeneous: list[list[str]] = []
        self.kept: dict[int, str] = {}
        self.claims: dict[tuple[str, int], Claim] = {}
        self.attributes: dict[tuple[str, str, int | None], Span] = {}

    def find(self, group: int) -> int:
        """The group that `group` has been merged into."""
        while self._parent[group] != group:
            group = self._parent[group]
        return group

    def resolve(self, span: Span) -> Span:
        """The span with its group's present number."""
        return replace(span, group=self.find(span.group))

    def produce(self, tensor: str, dim: int, width: int, layer: str) -> Span:
        """The group that the rows of a layer's weight produce: new, or the one of an earlier call of the same layer."""
        if (known := self.claims.get((tensor, dim))) is not None:
            if known.role != "row" or known.span is None:
                raise RefusalError(_TIED)
            self.producers[self.find(known.span.group)].append(layer)
            return known.span
        group = len(self._parent)
        self._parent.append(group)
        self.width.append(width)
        self.blocks.append(1)
        self.producers.append([layer])
        self.inhomogeneous.append([])
        span = Span(group)
        self.claims[tensor, dim] = Claim(span, "row")
        return span

    def claim(self, tensor: str, dim: int, span: Span | None, role: Role, path: str) -> None:
        """Record what lies on a dimension of a parameter or buffer; a second use of the tensor joins both."""
        known = self.claims.get((tensor, dim))
        if known is None:
            self.claims[tensor, dim] = Claim(span, role)
            return
        if known.role != role:
            raise RefusalError(_TIED)
        self.claims[tensor, dim] = Claim(self.join(known.span, span, path), role)

    def attribute(self, module: str, name: str, span: Span | None, index: int | None = None) -> None:
        """Record that a module's attribute (or its entry `index`) states the size of this span."""
        if span is not None:
            self.attributes[module, name, index] = span

    def join(self, one: Span | None, other: Span | None, path: str) -> Span | None:
        """Merge what a sum (or a second use of a weight) lays on the same dimension."""
        if one is None or other is None:
            span = one or other
            if span is not None:
                self.keep(span.group, f"joined in {path} to a dimension that is not coarsened")
            return span
        one, other = self.resolve(one), self.resolve(other)
        if one == other:
            return one
        if (one.outer, one.inner, self.width[one.group]) != (other.outer, other.inner, self.width[other.group]):
            raise RefusalError("it joins two widths that are laid out differently")
        self._merge(one.group, other.group)
        return one

    def keep(self, group: int, why: str) -> None:
        """Never coarsen this group."""
        self.kept.setdefault(self.find(group), why)

    def divide(self, group: int, blocks: int) -> None:
        """Units of different blocks (equal, contiguous) may not be aggregated."""
        group = self.find(group)
        self.blocks[group] = lcm(self.blocks[group], blocks)

    def mark_inhomogeneous(self, spans: Iterable[Span | None], path: str) -> None:
        """These groups pass an operation that is not positively homogeneous."""
        for span in spans:
            if span is not None:
                self.inhomogeneous[self.find(span.group)].append(path)

    def _merge(self, group: int, other: int) -> None:
        self._parent[other] = group
        self.blocks[group] = lcm(self.blocks[group], self.blocks[other])
        self.producers[group] += self.producers[other]
        self.inhomogeneous[group] += self.inhomogeneous[other]
        if other in self.kept:
            self.kept.setdefault(group, self.kept.pop(other))
