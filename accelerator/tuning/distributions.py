"""What a value is drawn from: a range of numbers, of integers, or options to choose from.

Plain and typed, and no library's: the tuners translate them. A distribution *encodes* what it draws as a number or a
short text, which every storage can keep, and *decodes* it again: options may be lists and mappings.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from decimal import Decimal
from random import Random
from typing import Any

TOLERANCE = 1e-9  # relative: how far a number may be from where arithmetic in decimals would have put it


@dataclass(frozen=True)
class Float:
    """A number between two others, both included.

    Attributes:
        low: the smallest.
        high: the largest.
        log: every order of magnitude is as likely as any other.
        step: only ``low + k * step``; None takes every number.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def draw(self, random: Random) -> float:
        """One at random."""
        if self.step is not None:
            return random.choice(self.points(0))
        if self.log:
            drawn = math.exp(random.uniform(math.log(self.low), math.log(self.high)))
        else:
            drawn = random.uniform(self.low, self.high)
        return min(max(drawn, self.low), self.high)

    def points(self, number: int) -> list[float]:
        """All of them where there is a step, else this many, evenly spread."""
        if self.step is not None:
            low, high, step = (Decimal(str(value)) for value in (self.low, self.high, self.step))
            return [float(low + index * step) for index in range(int((high - low) / step) + 1)]
        shares = [index / max(1, number - 1) for index in range(number)]
        if self.log:
            inner = [self.low * (self.high / self.low) ** share for share in shares]
        else:
            inner = [self.low + (self.high - self.low) * share for share in shares]
        return [min(max(value, self.low), self.high) for value in inner]

    def contains(self, value: Any) -> bool:
        """Whether it could be drawn."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        if self.step is None:
            return True
        steps = (value - self.low) / self.step
        return abs(steps - round(steps)) <= TOLERANCE * max(1.0, abs(steps))

    def encode(self, value: float) -> float:
        """For a storage."""
        return float(value)

    def decode(self, stored: Any) -> float:
        """From a storage."""
        return float(stored)

    def __str__(self) -> str:
        return _range("uniform", self)


@dataclass(frozen=True)
class Integer:
    """An integer between two others, both included.

    Attributes:
        low: the smallest.
        high: the largest.
        log: every order of magnitude is as likely as any other.
        step: only ``low + k * step``.
    """

    low: int
    high: int
    log: bool = False
    step: int = 1

    def draw(self, random: Random) -> int:
        """One at random."""
        if not self.log:
            return random.randrange(self.low, self.high + 1, self.step)
        drawn = math.exp(random.uniform(math.log(self.low - 0.5), math.log(self.high + 0.5)))
        return min(max(round(drawn), self.low), self.high)

    def points(self, number: int) -> list[int]:
        """All of them; on a logarithmic range at most this many, evenly spread."""
        every = list(range(self.low, self.high + 1, self.step))
        if not self.log or len(every) <= number:
            return every
        return sorted({min(max(round(x), self.low), self.high) for x in _as_float(self).points(number)})

    def contains(self, value: Any) -> bool:
        """Whether it could be drawn."""
        whole = isinstance(value, int) and not isinstance(value, bool)
        return whole and self.low <= value <= self.high and (value - self.low) % self.step == 0

    def encode(self, value: int) -> int:
        """For a storage."""
        return int(value)

    def decode(self, stored: Any) -> int:
        """From a storage."""
        return int(stored)

    def __str__(self) -> str:
        return _range("int", self)


@dataclass(frozen=True)
class Choice:
    """One of several options, of any plain kind.

    Attributes:
        options: all of them.
    """

    options: tuple[Any, ...]

    def draw(self, random: Random) -> Any:
        """One at random."""
        return deepcopy(random.choice(self.options))

    def points(self, number: int) -> list[Any]:
        """All of them."""
        return deepcopy(list(self.options))

    def contains(self, value: Any) -> bool:
        """Whether it could be drawn."""
        return any(same(value, option) for option in self.options)

    @property
    def labels(self) -> list[Any]:
        """The options as they are stored."""
        return [label(option) for option in self.options]

    def encode(self, value: Any) -> Any:
        """For a storage."""
        return label(value)

    def decode(self, stored: Any) -> Any:
        """From a storage."""
        found = next(option for option in self.options if same(label(option), stored))
        return deepcopy(found)

    def __str__(self) -> str:
        return f"one of {', '.join(map(shown, self.options))}"


Distribution = Float | Integer | Choice


def label(option: Any) -> str | int | float | bool | None:
    """An option as storages and tables show it: itself, or its JSON where it is a list or a mapping."""
    if option is None or isinstance(option, str | int | float | bool):
        return option
    return json.dumps(option, ensure_ascii=False, separators=(",", ":"))


def shown(value: Any) -> str:
    """A value as YAML would have it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def brief(value: Any) -> str:
    """A value in a few characters."""
    return f"{value:.4g}" if isinstance(value, float) else shown(value)


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal and of one kind: 1, 1.0 and true are three different ones."""
    if isinstance(one, Sequence) and not isinstance(one, str) and isinstance(other, Sequence):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return type(one) is type(other) and one == other


def _range(name: str, found: Float | Integer) -> str:
    step = f" in steps of {found.step:g}" if found.step not in (None, 1) else ""
    return f"{'log_' if found.log else ''}{name} {found.low:g} … {found.high:g}{step}"


def _as_float(found: Integer) -> Float:
    return Float(found.low, found.high, found.log)
