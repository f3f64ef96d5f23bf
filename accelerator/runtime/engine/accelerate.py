"""Hugging Face Accelerate: its DDP and FSDP2, with what ``accelerate config`` says.

Pieces, precision, clipping and the optimizer's step are those of `VanillaTorch`; Accelerate wraps the network. It is
given no DataLoader (feeds deal out shares already), no scheduler (it would step once for each rank), and not the run's
optimizer (its wrapper costs 136 µs a step, as much as a tiny network).

Source: https://huggingface.co/docs/accelerate (1.15).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from accelerator.errors import ConfigError
from accelerator.runtime.engine.vanilla_torch import VanillaTorch
from accelerator.utilities import distributed

if TYPE_CHECKING:
    from accelerator.runtime.engine.sharded import Sharded

STRATEGIES = ("ddp", "fsdp")
_OURS = {"no": "32", "fp16": "16", "bf16": "bf16"}
_THEIRS = {ours: theirs for theirs, ours in _OURS.items()}


class Accelerate(VanillaTorch):
    """For what was set up with ``accelerate config``, and for FSDP2 with all of its options.

    Started by ``accelerate launch -m accelerator train …``, torchrun or ``accelerator train engine.devices=…``. What
    is left open is as ``accelerate config`` says. One rank is trained as with `VanillaTorch`.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        devices: ranks to train on: a number, or ``auto`` (every GPU); None: one, or as many as were launched.
        strategy: ``ddp``, or ``fsdp`` (FSDP2, on GPUs; one level only); None: what ``accelerate config`` says, else
            ``ddp``.
        precision: ``32``, ``bf16`` or ``16``; None: what ``accelerate config`` says, else ``32``.
        plugin: with ``fsdp``, arguments of Accelerate's ``FullyShardedDataParallelPlugin``, such as
            ``{cpu_offload: true, auto_wrap_policy: transformer_based_wrap, transformer_cls_names_to_wrap: [Block]}``.
        compile: as `VanillaTorch`, like all that follow.
        gradient_checkpointing: repeated blocks to be computed twice.
        find_unused_parameters: of DDP.
        timeout: seconds a rank waits for another.
        restarts: of the ranks, when one has died.
        threads: CPU threads of torch.
        deterministic: refuse operations that have no deterministic form.

    Raises:
        ConfigError: Accelerate is not installed, it was launched otherwise than the config says, or a value is out of
            range.
    """

    def __init__(
        self,
        device: str = "auto",
        devices: int | str | None = None,
        strategy: str | None = None,
        precision: int | str | None = None,
        plugin: Mapping[str, Any] | None = None,
        compile: str | None = None,
        gradient_checkpointing: bool | list[str] = False,
        find_unused_parameters: bool = False,
        timeout: float = 120.0,
        restarts: int = 0,
        threads: int | None = None,
        deterministic: bool = False,
    ) -> None:
        try:
            import accelerate  # noqa: F401 - told before anything is built
        except ImportError as error:
            raise ConfigError(
                "engine=accelerate needs Hugging Face Accelerate: pip install 'accelerator-platform[accelerate]'"
            ) from error
        _check_launch(devices)
        if strategy is None:
            strategy = "fsdp" if _set("ACCELERATE_USE_FSDP") else "ddp"
        if strategy not in STRATEGIES or _set("ACCELERATE_USE_DEEPSPEED"):
            found = "deepspeed (of accelerate config)" if _set("ACCELERATE_USE_DEEPSPEED") else strategy
            raise ConfigError(
                f"engine.strategy={found}: expected {' or '.join(STRATEGIES)}; what DeepSpeed's ZeRO does, "
                "engine.strategy=fsdp does too"
            )
        if plugin and strategy != "fsdp":
            raise ConfigError(f"engine.plugin has options of FSDP2, but engine.strategy={strategy}")
        super().__init__(
            device="cpu" if device == "auto" and _set("ACCELERATE_USE_CPU") else device,
            devices=devices,
            precision=_configured_precision() if precision is None else precision,
            compile=compile,
            gradient_checkpointing=gradient_checkpointing,
            find_unused_parameters=find_unused_parameters,
            timeout=timeout,
            restarts=restarts,
            threads=threads,
            deterministic=deterministic,
        )
        if strategy == "fsdp" and self.device.type == "cpu":
            raise ConfigError(
                "engine.strategy=fsdp on the CPU: Accelerate would train a network of its own on each rank; use "
                "engine=vanilla_torch engine.strategy=fsdp"
            )
        self.strategy = strategy
        self._accelerator = self._start(dict(plugin or {})) if distributed.size() > 1 else None

    def _start(self, plugin: dict[str, Any]) -> Any:
        """Accelerate's own object, in the process group that is there."""
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
        from accelerate.utils import DistributedDataParallelKwargs, FullyShardedDataParallelPlugin

        options: dict[str, Any] = {"mixed_precision": "no"}  # `_in_pieces` has an autocast
        if self.strategy == "ddp":
            options["kwargs_handlers"] = [
                DistributedDataParallelKwargs(
                    find_unused_parameters=self._unused,
                    gradient_as_bucket_view=True,
                )
            ]
        else:
            half = {None: "no", torch.float16: "fp16", torch.bfloat16: "bf16"}[self._dtype]
            try:
                # Loading through rank 0 takes no batch norm's buffers; the network is there on every rank anyway.
                defaults = {"fsdp_version": 2, "cpu_ram_efficient_loading": False}
                options |= {"mixed_precision": half, "fsdp_plugin": FullyShardedDataParallelPlugin(**defaults | plugin)}
            except (TypeError, ValueError) as error:
                raise ConfigError(f"engine.plugin={plugin}: {error}") from error
        # State of the process, as a run before this one left it.
        AcceleratorState._reset_state(reset_partial_state=True)
        with _environment(
            ACCELERATE_TORCH_DEVICE=str(self.device),
            ACCELERATE_USE_FSDP=str(self.strategy == "fsdp").lower(),
            # On the CPU it sets the number of threads by itself, with a warning, if there is none.
            OMP_NUM_THREADS=os.environ.get("OMP_NUM_THREADS") or str(torch.get_num_threads()),
        ):
            accelerator = Accelerator(cpu=self.device.type == "cpu", **options)
        if accelerator.num_processes != distributed.size():
            raise ConfigError(
                f"Accelerate sees {accelerator.num_processes} process(es) where {distributed.size()} were launched, "
                "and would train as many separate networks; see `accelerate env`, or use engine=vanilla_torch"
            )
        return accelerator

    def _replicate(self, model: nn.Module) -> DistributedDataParallel:
        assert self._accelerator is not None
        return self._accelerator.prepare_model(self._synced(model))

    def _shard(self, model: nn.Module) -> Sharded:
        from accelerator.runtime.engine.sharded import Sharded, make_alike

        assert self._accelerator is not None
        make_alike(model)
        # It shards a network with its optimizer only; the run's own is made of the shards, later.
        self._accelerator.prepare(self._synced(model), torch.optim.SGD(model.parameters()))
        return Sharded(model)


def _check_launch(devices: Any) -> None:
    if isinstance(devices, list):
        raise ConfigError(
            f"engine.devices={devices}: Accelerate numbers GPUs itself; choose them with CUDA_VISIBLE_DEVICES="
            f"{','.join(map(str, devices))} and engine.devices={len(devices)}"
        )
    # `accelerate launch --cpu --num_processes 2` starts one process, which nothing but an address tells.
    if distributed.launched() is None and _set("ACCELERATE_USE_CPU") and "MASTER_ADDR" in os.environ:
        raise ConfigError(
            "accelerate launch was asked for several processes on the CPU, and started one; use "
            "accelerator train engine.devices=2 engine.device=cpu, or torchrun --nproc-per-node 2 -m accelerator train"
        )


def _configured_precision() -> str:
    """What ``accelerate config`` says."""
    name = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if name not in _OURS:
        raise ConfigError(f"accelerate config asks for mixed_precision={name}; set engine.precision to 32, 16 or bf16")
    return _OURS[name]


def _set(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("true", "1", "yes")


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Variables that Accelerate reads when it starts; it sets others, which the next run must not find."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
