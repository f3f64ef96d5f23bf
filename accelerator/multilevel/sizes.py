"""Numbers that a user's `forward` computes from shapes and from integers it keeps, such as `channels // self.heads`.

On a coarser level they must come out as the coarser tensors need them. A size is followed as a product of powers of
what it was computed from: the entries on a dimension of a tensor (`x.shape[2]`), or an integer attribute of a module
(`self.heads`), which is *bound* to a width, and rewritten in the narrower copies, where a size of that width is stated
by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from accelerator.multilevel.layout import Extent, Pieces, Span, Widths, spans_on


@dataclass(frozen=True)
class Stating:
    """An integer attribute of a module, and its value in the traced network."""

    module: str
    name: str
    value: int

    def __str__(self) -> str:
        return f"'{self.module}.{self.name}'" if self.module else f"'{self.name}'"


Source = Stating | Span | Pieces
Powers = Mapping[Source, int]


@dataclass(frozen=True)
class Size:
    """A number and the powers of the sources it is proportional to; a constant has none."""

    value: Any
    powers: Powers = field(default_factory=dict)


class StatedInt(int):
    """An attribute's integer, or a product or quotient of such, while a network is traced: it remembers its sources."""

    powers: Powers
    used_as_number: set[Source]

    def __new__(cls, value: int, powers: Powers, used_as_number: set[Source]) -> StatedInt:  # noqa: D102
        self = super().__new__(cls, value)
        self.powers, self.used_as_number = powers, used_as_number
        return self

    def _times(self, other: Any, value: Any, mine: int, theirs: int) -> Any:
        if not isinstance(other, int):
            return value  # a proxy's answer, or NotImplemented
        return StatedInt(value, scaled(self.powers, mine, getattr(other, "powers", {}), theirs), self.used_as_number)

    def __mul__(self, other: Any) -> Any:
        return self._times(other, super().__mul__(other), 1, 1)

    __rmul__ = __mul__

    def __floordiv__(self, other: Any) -> Any:
        return self._times(other, super().__floordiv__(other), 1, -1)

    def __rfloordiv__(self, other: Any) -> Any:
        return self._times(other, super().__rfloordiv__(other), -1, 1)


def _as_number(operation: str) -> Any:
    def method(self: StatedInt, *others: Any) -> Any:
        self.used_as_number.update(self.powers)
        return getattr(int, operation)(self, *others)

    return method


for _operation in ("add", "radd", "sub", "rsub", "truediv", "rtruediv", "pow", "rpow", "float", "neg"):
    setattr(StatedInt, f"__{_operation}__", _as_number(f"__{_operation}__"))


def scaled(one: Powers, power: int, other: Powers, other_power: int) -> dict[Source, int]:
    """The powers of one^power · other^other_power."""
    total = {source: power * count for source, count in one.items()}
    for source, count in other.items():
        total[source] = total.get(source, 0) + other_power * count
    return {source: count for source, count in total.items() if count}


@contextmanager
def stated_attributes(modules: Mapping[str, nn.Module], used_as_number: set[Source]) -> Iterator[None]:
    """While it lasts, integer attributes of these modules remember where they come from."""
    changed: list[tuple[nn.Module, str, int]] = []
    try:
        for path, module in modules.items():
            for name, value in list(vars(module).items()):
                if type(value) is int and value > 1 and not name.startswith("_"):
                    vars(module)[name] = StatedInt(value, {Stating(path, name, value): 1}, used_as_number)
                    changed.append((module, name, value))
        yield
    finally:
        for module, name, value in changed:
            vars(module)[name] = value


Bound = tuple[Extent, int]
"""What an attribute states: entries over a divisor."""


@dataclass(frozen=True)
class _Required:
    """A product of powers of sources that must be the number of entries of the extent, or constant without one."""

    powers: Powers
    extent: Extent
    path: str


class Sizes:
    """What the sizes met must be on every level; solved when the whole network has been seen."""

    def __init__(self, widths: Widths) -> None:
        self._widths = widths
        self._required: list[_Required] = []
        self.used_as_number: set[Source] = set()

    def require(self, size: Size, extent: Extent, path: str) -> None:
        """The size must be the number of entries of this extent, or constant where there is none."""
        if size.powers:
            self._required.append(_Required(size.powers, extent, path))

    def solve(self) -> list[tuple[int, str]]:
        """Bind attributes to widths, tie widths that sizes make proportional; (group, why) of what cannot be met."""
        bound: dict[Stating, Bound] = {}
        rest = list(self._required)
        while rest:
            left = [item for item in rest if not self._bind(bound, item)]
            if len(left) == len(rest):
                break
            rest = left
        blocked: list[tuple[int, str]] = []
        for required in rest:
            blocked += self._settle(self._left(bound, required), required.path)
        for attribute, (extent, divisor) in bound.items():
            if attribute in self.used_as_number:
                blocked += [(span.group, f"{attribute} states it and is used as a number") for span in spans_on(extent)]
            self._widths.attribute(attribute.module, attribute.name, extent, divisor=divisor)
        return blocked

    def _bind(self, bound: dict[Stating, Bound], required: _Required) -> bool:
        """Bind the attribute of unknown meaning, if there is just one, to the one width beside it."""
        left = self._left(bound, required)
        unknown = [source for source in left if isinstance(source, Stating)]
        known = [source for source in left if not isinstance(source, Stating)]
        if len(unknown) != 1 or len(known) != 1 or left[unknown[0]] != -left[known[0]] or abs(left[known[0]]) != 1:
            return False
        (attribute,), (width,) = unknown, known
        entries = self._widths.size(width)
        if entries % attribute.value == 0:
            bound[attribute] = (width, entries // attribute.value)
        elif attribute.value % entries == 0 and isinstance(width, Span):
            bound[attribute] = (replace(width, inner=width.inner * (attribute.value // entries)), 1)
        return attribute in bound

    def _left(self, bound: Mapping[Stating, Bound], required: _Required) -> dict[Source, int]:
        """The powers of size / entries of the extent, bound attributes and groups replaced by what they are now."""
        total: dict[Source, int] = {}
        sources = [*required.powers.items(), *([(required.extent, -1)] if required.extent is not None else [])]
        for source, count in sources:
            found: Any = bound[source][0] if isinstance(source, Stating) and source in bound else source
            found = self._widths.resolve(found) if isinstance(found, Span) else found
            total[found] = total.get(found, 0) + count
        return {source: count for source, count in total.items() if count}

    def _settle(self, left: Powers, path: str) -> list[tuple[int, str]]:
        widths = [source for source in left if not isinstance(source, Stating)]
        if len(left) == len(widths) == 2 and sum(left.values()) == 0 and set(map(abs, left.values())) == {1}:
            one, other = widths
            if isinstance(one, Span) and isinstance(other, Span):
                self._widths.require_equal(one, other, path)
                return []
        return [(span.group, f"{path}: it uses the size of a width as a number") for span in spans_on(*widths)]
