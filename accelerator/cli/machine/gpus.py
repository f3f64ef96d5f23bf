"""``accelerator gpu-info`` and ``accelerator memory``: what there is of GPUs, and how much of them a run may take."""

from __future__ import annotations

import json
import os
from argparse import ArgumentParser, Namespace
from dataclasses import asdict, dataclass
from typing import Any

from accelerator.cli.actions import run_alone
from accelerator.errors import ConfigError

_GPU_INFO = """examples:
  accelerator gpu-info               a table
  accelerator gpu-info --json        for programs; [] without a GPU"""

_MEMORY = """examples:
  accelerator memory                 the limit in force
  accelerator memory --limit 40      what 40 GB would leave on each GPU"""


@dataclass
class Gpu:
    """A GPU as its driver tells of it; None for what it does not tell.

    Attributes:
        index: its number.
        name: of its model.
        total_gb: of memory, 10⁹ bytes.
        used_gb: by everybody.
        busy_percent: of the last moment.
        celsius: its temperature.
        driver: version of the driver.
    """

    index: int
    name: str
    total_gb: float
    used_gb: float
    busy_percent: float | None = None
    celsius: float | None = None
    driver: str | None = None


def gpus() -> list[Gpu]:
    """The machine's GPUs, asked of the driver (nvidia-ml-py), else of torch; none is an empty list."""
    try:
        import pynvml  # pyright: ignore[reportMissingImports] - of an extra

        pynvml.nvmlInit()
    except Exception:  # not installed, or no driver
        return _by_torch()
    found = []
    driver = str(pynvml.nvmlSystemGetDriverVersion())
    for index in range(pynvml.nvmlDeviceGetCount()):
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        memory: Any = pynvml.nvmlDeviceGetMemoryInfo(handle)
        gpu = Gpu(index, str(pynvml.nvmlDeviceGetName(handle)), memory.total / 1e9, memory.used / 1e9, driver=driver)
        try:
            gpu.busy_percent = float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
            gpu.celsius = float(pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU))
        except pynvml.NVMLError:
            pass
        found.append(gpu)
    return found


def gpu_info_command(arguments: list[str]) -> int:
    """The command line's entry; see `accelerator.cli.app.main` for the exit codes."""
    description = "Show the machine's GPUs, and what torch makes of them."
    return run_alone("gpu-info", description, _GPU_INFO, _arguments, _show_gpus, arguments)


def memory_command(arguments: list[str]) -> int:
    """The command line's entry; see `accelerator.cli.app.main` for the exit codes."""
    description = (
        "Show how much of a GPU's memory a run may take, or what a limit would mean.\n\n"
        "In force is, in this order: memory.limit_gb of the config (engine=single_gpu; experiment.memory_limit_gb\n"
        "of accelerator run), the variable ACCELERATOR_GPU_MEMORY_GB, 24. 0 means all there is."
    )
    return run_alone("memory", description, _MEMORY, _memory_arguments, _show_memory, arguments)


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print it for programs")


def _memory_arguments(parser: ArgumentParser) -> None:
    _arguments(parser)
    parser.add_argument("--show", action="store_true", help="show the limit in force (what happens without a flag)")
    parser.add_argument("--limit", type=float, metavar="GB", help="what this limit would leave on each GPU")


def _show_gpus(options: Namespace) -> None:
    found = gpus()
    if options.json:
        print(json.dumps([asdict(gpu) for gpu in found], indent=1))
        return
    import torch
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if found:
        table = Table("gpu", "name", "memory", "used", "busy", "°C", "driver")
        for gpu in found:
            table.add_row(
                str(gpu.index),
                gpu.name,
                f"{gpu.total_gb:.1f} GB",
                f"{gpu.used_gb:.1f} GB",
                "–" if gpu.busy_percent is None else f"{gpu.busy_percent:.0f} %",
                "–" if gpu.celsius is None else f"{gpu.celsius:.0f}",
                gpu.driver or "–",
            )
        console.print(table)
    else:
        console.print("this machine has no NVIDIA GPU that its driver or torch can see; runs compute on the CPU")
    cuda = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for CPUs alone"
    usable = torch.cuda.device_count() if torch.cuda.is_available() else 0
    console.print(f"torch {torch.__version__}: {cuda}, {usable} GPU(s) usable, {torch.get_num_threads()} CPU threads")


def _show_memory(options: Namespace) -> None:
    from accelerator.utilities.memory import DEFAULT_GB, VARIABLE, memory_limit

    wanted = options.limit
    try:
        limit = memory_limit(wanted)
    except ConfigError as error:
        raise ConfigError(str(error).replace("memory.limit_gb=", "--limit ")) from error
    found = gpus()
    rows = [{**asdict(gpu), "limit_gb": min(limit, gpu.total_gb) if limit else gpu.total_gb} for gpu in found]
    if options.json:
        print(json.dumps({"limit_gb": limit, "gpus": rows}, indent=1))
        return
    origin = "--limit" if wanted is not None else VARIABLE if VARIABLE in os.environ else "the default"
    print(f"limit: {f'{limit:g} GB' if limit else 'none, all there is'} ({origin})")
    for gpu, row in zip(found, rows, strict=True):
        share = f"{row['limit_gb']:.1f} of {gpu.total_gb:.1f} GB, {gpu.used_gb:.1f} GB in use by everybody"
        print(f"gpu {gpu.index}: {gpu.name}: a run may take {share}")
    if not found:
        print("this machine has no GPU: nothing to limit")
    if wanted is not None:
        print(f"to set it: export {VARIABLE}={wanted:g}, or memory.limit_gb={wanted:g} engine=single_gpu")
    elif limit == DEFAULT_GB and origin == "the default":
        print(f"to change it: export {VARIABLE}=40, or memory.limit_gb=40; 0 for all there is")


def _by_torch() -> list[Gpu]:
    import torch

    if not torch.cuda.is_available():
        return []
    found = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        found.append(Gpu(index, torch.cuda.get_device_name(index), total / 1e9, (total - free) / 1e9))
    return found
