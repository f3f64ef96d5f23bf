"""PyTorch under a train function.

>>> from accelerator.experiment.frameworks.pytorch import load_checkpoint, save_checkpoint
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from accelerator.errors import CheckpointError, ConfigError
from accelerator.experiment.protocols import TrainingContext
from accelerator.runtime.checkpoint.operation import write_bytes
from accelerator.utilities.memory import limit_gpu_memory
from accelerator.utilities.seed import seed_everything

CHECKPOINT = "last.pt"


def seed(number: int) -> None:
    """Seed Python's, NumPy's and torch's generators."""
    seed_everything(number)


def device(wanted: str) -> str:
    """The device meant: ``auto`` is the first GPU, else the CPU.

    Raises:
        ConfigError: torch knows no such device, or it is not there.
    """
    if wanted == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device("cuda" if wanted == "gpu" else wanted)
    except RuntimeError as error:
        raise ConfigError(f"experiment.device={wanted}: expected auto, cpu, cuda or cuda:<number>") from error
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"experiment.device={wanted}: torch sees {torch.cuda.device_count()} GPU(s) on this machine")
    return str(found)


def limit_memory(max_memory_gb: float | None, on: str) -> float | None:
    """Keep this process below a limit of GPU memory; see `accelerator.utilities.memory.limit_gpu_memory`."""
    return limit_gpu_memory(max_memory_gb, torch.device(on)) if on.startswith("cuda") else None


def save_checkpoint(ctx: TrainingContext, name: str = CHECKPOINT, **state: Any) -> Path:
    """Write a checkpoint, whole or not at all.

    Args:
        ctx: of the training.
        name: of the file, in ``ctx.checkpoint_dir``.
        state: what has a ``state_dict`` (networks, optimizers, schedulers), tensors and plain values, by name.

    Returns:
        The file.
    """
    import io

    buffer = io.BytesIO()
    plain = {key: value.state_dict() if hasattr(value, "state_dict") else value for key, value in state.items()}
    torch.save(plain, buffer)
    path = ctx.checkpoint_dir / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, buffer.getvalue())
    return path


def load_checkpoint(ctx: TrainingContext, name: str = CHECKPOINT, **state: Any) -> dict[str, Any] | None:
    """Read a checkpoint back into the same objects; nothing in the file can run code.

    Returns:
        Everything that was saved; None where there is no such file.

    Raises:
        CheckpointError: the file is damaged, or holds what `torch.load` refuses to read.
    """
    path = ctx.checkpoint_dir / name
    if not path.exists():
        return None
    try:
        saved = torch.load(path, map_location=ctx.device, weights_only=True)
    except Exception as error:  # zip, pickle and torch raise what they like
        raise CheckpointError(f"{path} cannot be read: {type(error).__name__}: {str(error).splitlines()[0]}") from error
    for key, value in state.items():
        if hasattr(value, "load_state_dict"):
            value.load_state_dict(saved[key])
    return saved
