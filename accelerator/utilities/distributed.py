"""The processes of one run (its ranks): who am I, and what do the others say.

Every function works in a run of one process too, where it costs nothing. Those that say *collective* must be called
by all ranks at the same point.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed

T = TypeVar("T")


def launched() -> int | None:
    """How many ranks a launcher (torchrun, or ours) started with this one; None if none did."""
    size = os.environ.get("WORLD_SIZE") if "RANK" in os.environ else None
    return None if size is None else int(size)


def local_rank() -> int:
    """The number of this rank on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def start(backend: str, timeout: float) -> None:
    """Meet the other ranks a launcher started; nothing if there are none, or they have met.

    Args:
        backend: ``gloo`` for the CPU, ``nccl`` for GPUs; both where both are used.
        timeout: seconds that any of them waits for another before the run fails.
    """
    if launched() is not None and not distributed.is_initialized():
        distributed.init_process_group(backend, timeout=timedelta(seconds=timeout))


def stop() -> None:
    """Leave the others, when all is done."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def size() -> int:
    """How many ranks there are."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """The number of this one; known before the ranks have met."""
    return 0 if launched() is None else int(os.environ["RANK"])


def from_main(value: T) -> T:
    """What rank 0 has; collective. Plain values and picklable objects."""
    if size() == 1:
        return value
    values = [value]
    distributed.broadcast_object_list(values, src=0)
    return values[0]


def of_all(value: T) -> list[T]:
    """What every rank has, in their order; collective."""
    if size() == 1:
        return [value]
    values: list[T | None] = [None] * size()
    distributed.all_gather_object(values, value)
    return values  # pyright: ignore[reportReturnType]


def total(values: Iterable[float]) -> list[float]:
    """The sums over all ranks, in float64; collective."""
    values = list(values)
    if size() == 1:
        return values
    sums = torch.tensor(values, dtype=torch.float64)
    distributed.all_reduce(sums)
    return sums.tolist()


def mean_(value: Tensor) -> Tensor:
    """A tensor's mean over all ranks, in place; collective."""
    if size() > 1:
        distributed.all_reduce(value)
        value /= size()
    return value


def copy_from_main(tensors: Iterable[Tensor]) -> None:
    """Give every rank rank 0's tensors, in place; collective."""
    if size() > 1:
        for tensor in tensors:
            distributed.broadcast(tensor, src=0)
