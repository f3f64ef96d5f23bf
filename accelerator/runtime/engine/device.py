"""Which device a rank computes on."""

from __future__ import annotations

import torch

from accelerator.errors import ConfigError
from accelerator.utilities import distributed

Devices = int | str | list[int] | None


def count_of(devices: Devices) -> int:
    """How many ranks ``engine.devices`` asks for.

    Raises:
        ConfigError: it is not a number, ``auto``, or a list of GPUs that are there.
    """
    if devices is None:
        return 1
    if devices == "auto":
        return max(torch.cuda.device_count(), 1)
    if isinstance(devices, list) and devices and all(isinstance(d, int) and d >= 0 for d in devices):
        present = torch.cuda.device_count()
        missing = [d for d in devices if d >= present]
        if missing:
            raise ConfigError(
                f"engine.devices={devices}: this machine has {present} CUDA device(s), numbered from 0; "
                f"for {len(devices)} ranks on the CPU: engine.device=cpu engine.devices={len(devices)}"
            )
        if len(set(devices)) < len(devices):
            raise ConfigError(f"engine.devices={devices}: each GPU at most once")
        return len(devices)
    if isinstance(devices, int) and not isinstance(devices, bool) and devices >= 1:
        return devices
    raise ConfigError(f"engine.devices={devices}: expected a number of ranks, auto, or a list of GPUs such as [0,1]")


def check_devices(devices: Devices, restarts: int = 0, timeout: float = 1.0) -> None:
    """Compare what is asked for with what was launched.

    Raises:
        ConfigError: a value is out of range, or there are more or fewer ranks than the config says.
    """
    if restarts < 0:
        raise ConfigError(f"engine.restarts={restarts}: expected at least 0")
    if timeout <= 0:
        raise ConfigError(f"engine.timeout={timeout}: expected seconds, more than 0")
    wanted, there = count_of(devices), distributed.launched() or 1
    if devices is not None and distributed.launched() is not None and there != wanted:
        raise ConfigError(
            f"engine.devices={devices} asks for {wanted} rank(s), torchrun started {there}: leave engine.devices out, "
            "or start as many"
        )
    if wanted > 1 and distributed.launched() is None:
        raise ConfigError(
            f"engine.devices={devices}: this process is alone; `accelerator train` and `accelerator.train` start the "
            "ranks themselves, your own code needs torchrun"
        )


def find_device(name: str, devices: Devices = None) -> torch.device:
    """The device of this rank.

    Args:
        name: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        devices: the config's ``engine.devices``; a list names each rank's GPU.

    Raises:
        ConfigError: there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ConfigError(f"engine.device={name}: expected auto, cpu, cuda or cuda:<number>")
    if device.type == "cpu":
        return device
    if distributed.launched() is not None:
        place = distributed.local_rank()
        device = torch.device("cuda", devices[place] if isinstance(devices, list) else place)
        name = f"{name} for rank {place}"
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (device.index or 0) >= count:
        raise ConfigError(
            f"engine.device={name}: this machine has {count} CUDA device(s); use engine.device=auto or cpu"
        )
    if distributed.launched() is not None:
        torch.cuda.set_device(device)
    return device


def backend_of(device: torch.device) -> str:
    """How ranks on such devices talk: counters and agreements over gloo, GPU tensors over NCCL."""
    return "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
