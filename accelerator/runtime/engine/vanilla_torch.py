"""Plain torch: on the CPU, on one GPU, or on several ranks with DistributedDataParallel."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from accelerator.errors import ConfigError, DeviceMemoryError
from accelerator.runtime.data.feed import Batch
from accelerator.runtime.engine.base import Clip, Objective, pieces
from accelerator.runtime.engine.device import backend_of, check_devices, find_device
from accelerator.runtime.engine.recompute import recompute_blocks
from accelerator.utilities import distributed
from accelerator.utilities.seed import rng_of, set_rng_of

if TYPE_CHECKING:
    from accelerator.runtime.engine.sharded import Sharded

    Wrapped = tuple[Callable[[Tensor], Tensor], DistributedDataParallel | Sharded | None]

log = logging.getLogger(__name__)

PRECISIONS = {"32": None, "16": torch.float16, "bf16": torch.bfloat16}
STRATEGIES = ("ddp", "fsdp")
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")


class VanillaTorch:
    """The reference engine: what a hand-written loop would do, and nothing else.

    Args:
        device: ``auto`` (the first GPU if there is one, else the CPU), ``cpu``, ``cuda`` or ``cuda:1``.
        devices: ranks to train on: a number, ``auto`` (every GPU), or the GPUs' own numbers; None: one, or as many as
            torchrun started.
        strategy: of several ranks: ``ddp``, each has the whole network; ``fsdp``, each keeps a part of every weight,
            gradient and moment, for networks that are too large for one GPU (one level only).
        precision: ``32``; ``bf16`` or ``16``: networks compute in half precision (autocast), losses and weights stay
            in float32, and ``16`` scales its losses (and leaves out steps that overflow all the same).
        compile: a mode of `torch.compile`; None does not compile. On small networks compiled steps are slower.
        gradient_checkpointing: compute the activations of repeated blocks twice instead of keeping them: true, or
            patterns of module names.
        find_unused_parameters: let DDP look for parameters that a step did not use; slower.
        timeout: seconds a rank waits for another before the run fails.
        restarts: how often the ranks are started again, from the last checkpoint, when one has died.
        threads: CPU threads of torch; None leaves torch's own choice.
        deterministic: refuse operations that have no deterministic form.

    Raises:
        ConfigError: the device is not there, or a value is out of range.
    """

    def __init__(
        self,
        device: str = "auto",
        devices: int | str | list[int] | None = None,
        strategy: str = "ddp",
        precision: int | str = "32",
        compile: str | None = None,
        gradient_checkpointing: bool | list[str] = False,
        find_unused_parameters: bool = False,
        timeout: float = 120.0,
        restarts: int = 0,
        threads: int | None = None,
        deterministic: bool = False,
    ) -> None:
        check_devices(devices, restarts, timeout)
        if strategy not in STRATEGIES:
            raise ConfigError(f"engine.strategy={strategy}: expected {' or '.join(STRATEGIES)}")
        if str(precision) not in PRECISIONS:
            raise ConfigError(f"engine.precision={precision}: expected 32, 16 or bf16")
        if compile is not None and compile not in COMPILE_MODES:
            raise ConfigError(f"engine.compile={compile}: expected null or one of {', '.join(COMPILE_MODES)}")
        self.device = find_device(device, devices)
        if compile is not None and self.device.type == "cpu" and shutil.which(os.environ.get("CXX", "g++")) is None:
            raise ConfigError(f"engine.compile={compile} needs a C++ compiler on the CPU; install g++, or leave it out")
        if threads is not None:
            if threads < 1:
                raise ConfigError(f"engine.threads={threads}: expected at least 1, or null for torch's own choice")
            torch.set_num_threads(threads)
        elif self.device.type == "cpu" and distributed.launched() is not None:
            # Ranks that each took all cores would wait for one another.
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
        if deterministic:
            # cuBLAS reads it when it is first used.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(deterministic)
        distributed.start(backend_of(self.device), timeout)
        self.accumulate = 1
        self._dtype, self._mode = PRECISIONS[str(precision)], compile
        self._recompute, self._unused = gradient_checkpointing, find_unused_parameters
        self.strategy, self._sharded = strategy, None
        self._scaler = torch.amp.GradScaler(self.device.type) if self._dtype is torch.float16 else None
        # A GPU that is full may still have room for half of the batch. Ranks could not agree on it.
        self.recovers = self.device.type == "cuda" and distributed.size() == 1
        self._prepared: dict[nn.Module, Wrapped] = {}

    def prepare(self, module: nn.Module) -> nn.Module:
        """Move a module to the device."""
        return module.to(self.device)

    def shard(self, levels: list[nn.Module]) -> None:
        """Divide the network's weights among the ranks, if the strategy says so; before an optimizer is made."""
        if self.strategy == "ddp":
            return
        if len(levels) > 1:
            raise ConfigError(
                f"engine.strategy={self.strategy} trains one network, this run has {len(levels)} levels, between which "
                "whole weights are carried: use engine.strategy=ddp, or multilevel=single"
            )
        if self._mode is not None:
            raise ConfigError(f"engine.compile={self._mode} is for engine.strategy=ddp; leave one of the two out")
        if distributed.size() > 1:
            self._sharded = self._shard(levels[0])

    def model_state(self, model: nn.Module) -> dict[str, Any]:
        """The network's state as a checkpoint holds it: whole on rank 0, whatever the ranks have of it; collective."""
        return model.state_dict() if self._sharded is None else self._sharded.state()

    def load_model_state(self, model: nn.Module, state: dict[str, Any]) -> None:
        """Take back what `model_state` returned on rank 0."""
        model.load_state_dict(state) if self._sharded is None else self._sharded.load_state(state)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The optimizer's state, likewise; collective."""
        return optimizer.state_dict() if self._sharded is None else self._sharded.optimizer_state(optimizer)

    def load_optimizer_state(self, optimizer: Optimizer, state: dict[str, Any]) -> None:
        """Take back what `optimizer_state` returned on rank 0."""
        if self._sharded is None:
            optimizer.load_state_dict(state)
        else:
            self._sharded.load_optimizer_state(optimizer, state)

    def bind(self, model: nn.Module, objective: Objective, optimizer: Optimizer, clip: Clip = Clip()) -> None:  # noqa: B008
        """Train ``model`` on ``objective(prediction, target)`` with ``optimizer`` from now on."""
        self.model, self.objective, self.optimizer, self.clip = model, objective, optimizer, clip
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        if model not in self._prepared:
            self._prepared[model] = self._wrap(model)
        self._forward, self._parallel = self._prepared[model]
        if self._scaler is not None:
            # A fused step that is told to do nothing still makes its state: of SGD a momentum of what memory held.
            optimizer._step_supports_amp_scaling = False  # pyright: ignore[reportAttributeAccessIssue]
            # A scaler unscales an optimizer's gradients once a step; a new one knows of no step that was begun.
            state = self._scaler.state_dict()
            self._scaler = torch.amp.GradScaler(self.device.type)
            self._scaler.load_state_dict(state)
        optimizer.zero_grad()

    def forward_backward(self, batch: Batch) -> Tensor:
        """Loss of the whole batch (0-dim, detached); its gradients, unscaled, are in ``.grad``."""
        return self._compute(batch) if not self.recovers else self._recovering(batch)

    def _compute(self, batch: Batch) -> Tensor:
        if self.accumulate > 1 or self._parallel is not None or self._dtype is not None:
            return self._in_pieces(batch)
        inputs, targets = batch
        loss = self.objective(self._forward(inputs), targets)
        loss.backward()
        return loss.detach()

    def optimizer_step(self) -> bool:
        """Clip, step, and forget the gradients; False if half precision overflowed and there was no step."""
        if self.clip.norm is not None or self.clip.value is not None:
            self.clip(self._parameters)
        stepped = True
        if self._scaler is None:
            self.optimizer.step()
        else:
            scale = self._scaler.get_scale()
            self._scaler.step(self.optimizer)
            self._scaler.update()
            stepped = self._scaler.get_scale() >= scale
        # The same as optimizer.zero_grad(), less its bookkeeping: 3 of a tiny network's 150 µs a step.
        for parameter in self._parameters:
            parameter.grad = None
        return stepped

    @torch.no_grad()
    def predict(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Prediction of the bound network and target for a batch, without gradients."""
        inputs, targets = batch
        model = self.model if self._sharded is None else self._sharded
        if self._dtype is None:
            return model(inputs), targets
        with self._autocast():
            prediction = model(inputs)
        return _full(prediction), targets

    def state_dict(self) -> dict[str, Any]:
        """The loss scale, and the number of pieces."""
        return {"accumulate": self.accumulate, "scaler": None if self._scaler is None else self._scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the loss scale, and with as many pieces as memory had room for."""
        self.accumulate = max(self.accumulate, state.get("accumulate", 1)) if self.recovers else self.accumulate
        if self._scaler is not None and state.get("scaler") is not None:
            self._scaler.load_state_dict(state["scaler"])

    def _recovering(self, batch: Batch) -> Tensor:
        """Compute a batch; out of memory, forget what was begun and do it in twice as many pieces."""
        random = rng_of(self.device)
        while True:
            try:
                return self._compute(batch)
            except torch.OutOfMemoryError as error:
                rows, text = len(batch[1]), str(error).split(". ")[0]
                if self.accumulate >= rows:
                    shape = tuple(batch[0].shape[1:])
                    raise DeviceMemoryError(
                        f"one sample of shape {shape} does not fit in the memory of {self.device}: {text}; take a "
                        "smaller model, engine.precision=bf16, engine.gradient_checkpointing=true, or allow more: "
                        "memory.limit_gb"
                    ) from error
            # Out of the handler: its traceback held the activations.
            self.accumulate = min(2 * self.accumulate, rows)
            log.warning(
                "out of memory (%s): batches are computed in %d pieces from now on, their steps stay the same; "
                "trainer.accumulate=%d does so from the start",
                text,
                self.accumulate,
                self.accumulate,
            )
            for parameter in self._parameters:
                parameter.grad = None
            set_rng_of(self.device, random)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _in_pieces(self, batch: Batch) -> Tensor:
        ranks, total = distributed.size(), torch.zeros((), device=self.device)
        parts = list((pieces if self._sharded is None else self._sharded.pieces)(batch, self.accumulate))
        for number, (inputs, targets, weight) in enumerate(parts, 1):
            with self._no_sync() if number < len(parts) else nullcontext():
                with self._autocast():
                    prediction = self._forward(inputs)
                # Gradients are averaged over the ranks; what is wanted is their sum, each with its weight.
                loss = self.objective(_full(prediction), targets) * (weight * ranks)
                (loss if self._scaler is None else self._scaler.scale(loss)).backward()
            total += loss.detach()
        if self._scaler is not None:
            self._scaler.unscale_(self.optimizer)
        return distributed.mean_(total)

    def _autocast(self) -> AbstractContextManager[None]:
        if self._dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, self._dtype)  # pyright: ignore[reportReturnType]

    def _no_sync(self) -> AbstractContextManager[None]:
        return nullcontext() if self._parallel is None else self._parallel.no_sync()

    def _wrap(self, model: nn.Module) -> Wrapped:
        """What the training steps call instead of the network; its parameters stay where they are."""
        if self._recompute:
            recompute_blocks(model, self._recompute)
        parallel = self._sharded
        if parallel is None and distributed.size() > 1 and any(p.requires_grad for p in model.parameters()):
            parallel = self._replicate(model)
        forward: Callable[[Tensor], Tensor] = model if parallel is None else parallel
        return (forward if self._mode is None else torch.compile(forward, mode=self._mode)), parallel

    def _replicate(self, model: nn.Module) -> DistributedDataParallel:
        """The network on every rank, with its gradients averaged."""
        return DistributedDataParallel(
            self._synced(model),
            device_ids=[self.device] if self.device.type == "cuda" else None,
            find_unused_parameters=self._unused,
            gradient_as_bucket_view=True,
        )

    def _shard(self, model: nn.Module) -> Sharded:
        """A part of the network on every rank."""
        from accelerator.runtime.engine.sharded import Sharded, shard  # a second of imports

        shard(self._synced(model))
        return Sharded(model)

    def _synced(self, model: nn.Module) -> nn.Module:
        """The network, with batch norms that see the whole batch (on GPUs)."""
        return nn.SyncBatchNorm.convert_sync_batchnorm(model) if self.device.type == "cuda" else model


def _full(prediction: Any) -> Any:
    """A half-precision prediction in float32, in which losses and metrics are computed."""
    half = isinstance(prediction, Tensor) and prediction.dtype in (torch.float16, torch.bfloat16)
    return prediction.float() if half else prediction
