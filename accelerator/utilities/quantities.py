"""Measured values, times and sizes as people read them."""

from __future__ import annotations


def number(value: float | None) -> str:
    """A measured value to five digits; a dash where there is none.

    >>> number(0.123456789), number(46757.6), number(None)
    ('0.12346', '46758', '–')
    """
    return "–" if value is None else f"{value:.5g}"


def measured(value: float, digits: int = 5) -> str:
    """A measured value to some digits, and never with an exponent where it counts something.

    >>> measured(0.123456789), measured(112400.0), measured(380150.4), measured(1e-7), measured(3e20)
    ('0.12346', '112,400', '380,150', '1e-07', '3e+20')
    """
    if float(value).is_integer() or abs(value) >= 10**digits - 0.5:
        return f"{value:,.0f}" if abs(value) < 1e15 else f"{value:.{digits}g}"
    return f"{value:.{digits}g}"


def duration(seconds: float | None) -> str:
    """A time in the two units that matter; a dash where it is not known.

    >>> duration(0.85), duration(12.34), duration(245), duration(12000), duration(None)
    ('850 ms', '12.3 s', '4 min 5 s', '3 h 20 min', '–')
    """
    if seconds is None:
        return "–"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for length, unit, below, lesser in ((86400, "d", 3600, "h"), (3600, "h", 60, "min")):
        if whole >= length:
            return _in_two(whole, length, unit, below, lesser)
    return _in_two(whole, 60, "min", 1, "s")


def size(count: int) -> str:
    """A number of bytes.

    >>> size(512), size(1_230_000)
    ('512 B', '1.23 MB')
    """
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 999.5:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:,.3g} GB"


def _in_two(whole: int, length: int, unit: str, below: int, lesser: str) -> str:
    rest = whole % length // below
    return f"{whole // length} {unit}" + (f" {rest} {lesser}" if rest else "")
