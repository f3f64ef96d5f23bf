"""Command lines as people read them, and can paste."""

from __future__ import annotations

import shlex
from collections.abc import Sequence


def quote(word: str) -> str:
    r"""A word as a shell takes it; one with single quotes in it stands in double ones, which are easier to read.

    >>> quote("seed=1"), quote("a=[1, 2]"), quote("tracking.uri='http://here:5000'")
    ('seed=1', "'a=[1, 2]'", '"tracking.uri=\'http://here:5000\'"')
    """
    if "'" in word and not any(sign in word for sign in '"$`\\!'):  # those mean something between double quotes
        return f'"{word}"'
    return shlex.quote(word)


def join(words: Sequence[str]) -> str:
    """The words in a line, each quoted where it must be; `shlex.split` takes it apart."""
    return " ".join(map(quote, words))
