"""From what YAML says of one distribution to the distribution, with every mistake told."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from accelerator.errors import did_you_mean
from accelerator.tuning.distributions import Choice, Distribution, Float, Integer, label

# The short forms of a range: whether it is of integers, and whether it is logarithmic.
RANGES = {"uniform": (False, False), "log_uniform": (False, True), "int": (True, False), "log_int": (True, True)}
WORDS = (*RANGES, "choice", "low", "high")
_BESIDE = {
    **dict.fromkeys(RANGES, ("step", "when")),
    "choice": ("when",),
    "low": ("low", "high", "log", "step", "type", "when"),
}

# Everything a distribution may consist of.
PARTS = frozenset(WORDS) | {part for parts in _BESIDE.values() for part in parts}


def is_distribution(node: Mapping[str, Any]) -> bool:
    """Whether a mapping says what to draw, rather than leading on to keys."""
    return any(word in node for word in WORDS)


def read_distribution(written: Mapping[str, Any], place: str, problems: list[str]) -> Distribution | None:
    """One distribution.

    Args:
        written: the mapping, without ``when``.
        place: its key in the config, for messages.
        problems: every mistake is added here.

    Returns:
        None where there is a mistake.
    """
    words = [word for word in (*RANGES, "choice") if word in written]
    words += ["low"] if not words and ("low" in written or "high" in written) else []
    if len(words) > 1:
        problems.append(f"{place} holds {len(words)} distributions, {' and '.join(words)}: leave one")
        return None
    (word,) = words
    allowed = _BESIDE[word]
    unknown = [key for key in written if key != word and key not in allowed]
    if unknown:
        problems += [f"{place}.{key}: {_named(word)} has no such part{did_you_mean(key, allowed)}" for key in unknown]
        return None
    if word == "choice":
        return _choice(written["choice"], place, problems)
    if word == "low":
        return _whole_range(written, place, problems)
    bounds = written[word]
    if not isinstance(bounds, list) or len(bounds) != 2:
        problems.append(f"{place}.{word}={bounds}: expected [low, high]")
        return None
    whole, log = RANGES[word]
    return _range(whole, log, bounds[0], bounds[1], written.get("step"), place, problems)


def _choice(options: Any, place: str, problems: list[str]) -> Choice | None:
    if not isinstance(options, list):
        problems.append(f"{place}.choice={options}: expected a list of options, such as choice: [{options}, …]")
        return None
    if len(options) < 2:
        what = f"'{label(options[0])}' is the only option" if options else "there is no option"
        problems.append(f"{place}.choice: {what}; a value that is the same in every trial is set outright")
        return None
    labels = [label(option) for option in options]
    alike = [(a, b) for index, a in enumerate(labels) for b in labels[index + 1 :] if a == b]
    if alike:
        problems += [f"{place}.choice: two options are alike, {a!r} and {b!r}" for a, b in alike]
        return None
    return Choice(tuple(options))


def _whole_range(written: Mapping[str, Any], place: str, problems: list[str]) -> Distribution | None:
    missing = [key for key in ("low", "high") if key not in written]
    if missing:
        problems.append(f"{place}.{missing[0]} is missing: a range has low and high")
        return None
    kind = written.get("type", "float")
    if kind not in ("float", "int"):
        problems.append(
            f"{place}.type={kind}: expected float or int{did_you_mean(str(kind), ('float', 'int'), show=0)}"
        )
        return None
    log = written.get("log", False)
    if not isinstance(log, bool):
        problems.append(f"{place}.log={log}: expected true or false")
        return None
    return _range(kind == "int", log, written["low"], written["high"], written.get("step"), place, problems)


def _range(
    whole: bool, log: bool, low: Any, high: Any, step: Any, place: str, problems: list[str]
) -> Distribution | None:
    before = len(problems)
    numbers = {"low": low, "high": high} | ({} if step is None else {"step": step})
    for name, value in numbers.items():
        kind = int if whole else int | float
        if isinstance(value, bool) or not isinstance(value, kind) or not math.isfinite(value):
            problems.append(f"{place}: {name}={value} is no {'integer' if whole else 'number'}")
    if len(problems) > before:
        return None
    shown = f"{low:g} … {high:g}"
    if low == high:
        problems.append(f"{place}: {shown} holds one value; set it outright: {place.split('space.', 1)[-1]}={low:g}")
    elif low > high:
        problems.append(f"{place}: the range {shown} is empty; write the smaller number first")
    elif log and low <= 0:
        problems.append(f"{place}: a logarithmic range begins above 0, and this one at {low:g}")
    elif step is not None and log:
        problems.append(f"{place}: a logarithmic range has no steps; leave step={step:g} out, or list a choice")
    elif step is not None and step <= 0:
        problems.append(f"{place}: step={step:g} must be above 0")
    elif step is not None and (rest := (_decimal(high) - _decimal(low)) % _decimal(step)):
        last = _decimal(high) - rest
        problems.append(
            f"{place}: step={step:g} does not divide {shown}"
            + (f"; the last step would be at {last:g}" if last > _decimal(low) else "; it is longer than the range")
        )
    if len(problems) > before:
        return None
    if whole:
        return Integer(low, high, log, 1 if step is None else step)
    return Float(float(low), float(high), log, None if step is None else float(step))


def _decimal(number: float) -> Decimal:
    return Decimal(str(number))


def _named(word: str) -> str:
    return "a range" if word == "low" else f"'{word}'"
