"""Checkpoints of older formats, lifted to the present one when they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from accelerator.errors import CheckpointError
from accelerator.runtime.checkpoint.meta_handler import SCHEMA

State = dict[str, Any]


def migrate(state: Mapping[str, Any], schema: int, to: int = SCHEMA) -> State:
    """The state of a checkpoint as version ``to`` of the format has it.

    Args:
        state: as it was saved; it is left as it is.
        schema: the version it was saved in, from its sidecar.
        to: the version wanted; the present one by default.

    Raises:
        CheckpointError: the version is newer than ``to``, or none there ever was.
    """
    if schema > to:
        raise CheckpointError(
            f"the checkpoint has format {schema}; this version reads up to {to}: upgrade accelerator-platform"
        )
    lifted = dict(state)
    for version in range(schema, to):
        if version not in _NEXT:
            raise CheckpointError(f"the checkpoint has format {schema}; the oldest that can be read is {min(_NEXT)}")
        lifted = _NEXT[version](lifted)
    return lifted


def _to_2(state: State) -> State:
    """Averaged weights, the random state of every rank, and the engine's own state (its loss scale) came with 2."""
    return {**state, "average": None, "rng": [state["rng"]], "engine": {}}


# How a state of this version becomes one of the next.
_NEXT: dict[int, Callable[[State], State]] = {1: _to_2}
