"""How much of a GPU's memory this process may take."""

from __future__ import annotations

import os

import torch

from accelerator.errors import ConfigError

VARIABLE = "ACCELERATOR_GPU_MEMORY_GB"
DEFAULT_GB = 24.0


def memory_limit(max_memory_gb: float | None = None) -> float:
    """The limit in GB (10⁹ bytes): what is given, else the environment's ``ACCELERATOR_GPU_MEMORY_GB``, else 24.

    0 means all there is.

    Raises:
        ConfigError: it is negative or no number.
    """
    origin = "memory.limit_gb"
    text: object = max_memory_gb
    if text is None:
        origin, text = VARIABLE, os.environ.get(VARIABLE, DEFAULT_GB)
    try:
        limit = float(text)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        limit = -1.0
    if not 0 <= limit < float("inf"):
        raise ConfigError(f"{origin}={text}: expected gigabytes, 0 for all there is")
    return limit


def limit_gpu_memory(max_memory_gb: float | None = None, device: torch.device | int | None = None) -> float | None:
    """Keep torch's allocator below a limit: what goes beyond is out of memory, on this process's side alone.

    Args:
        max_memory_gb: see `memory_limit`.
        device: which GPU; None: the current one.

    Returns:
        The limit in force in GB; None if there is none: 0, or more than the GPU has, or no GPU.
    """
    limit = memory_limit(max_memory_gb)
    if limit == 0 or not torch.cuda.is_available():
        return None
    whole = torch.cuda.get_device_properties(device).total_memory
    fraction = limit * 1e9 / whole
    torch.cuda.set_per_process_memory_fraction(min(fraction, 1.0), device)
    return limit if fraction < 1 else None
