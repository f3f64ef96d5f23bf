"""Nested mappings, such as configs, by dotted key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def leaves(nested: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    """Each value with its dotted key, in their order; a mapping without anything in it is a value, and so is a list.

    >>> list(leaves({"optimizer": {"lr": 0.1, "betas": [0.9, 0.99]}, "callbacks": {}}))
    [('optimizer.lr', 0.1), ('optimizer.betas', [0.9, 0.99]), ('callbacks', {})]
    """
    for name, value in nested.items():
        if isinstance(value, Mapping) and value:
            yield from ((f"{name}.{key}", below) for key, below in leaves(value))
        else:
            yield str(name), value
