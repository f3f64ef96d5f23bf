"""One GPU, fast and safe."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from accelerator.errors import ConfigError
from accelerator.runtime.data.feed import Batch
from accelerator.runtime.engine.vanilla_torch import VanillaTorch
from accelerator.utilities import distributed
from accelerator.utilities.memory import limit_gpu_memory

MATMUL = ("highest", "high", "medium")


class SingleGPU(VanillaTorch):
    """What makes one GPU fast and safe, beside what every engine does.

    Out of memory, a batch is computed in twice as many pieces, and the run goes on with the same steps. Optimizers are
    the fused ones of the configs. Data that fits in a quarter of the free memory lives on the GPU; what does not is
    copied ahead from page-locked memory while the GPU computes.

    Args:
        device: ``cuda`` or ``cuda:1``.
        precision: ``32``, ``bf16`` or ``16``; see `VanillaTorch`.
        compile: a mode of `torch.compile`; ``reduce-overhead`` records CUDA graphs, which pays for small networks.
        gradient_checkpointing: see `VanillaTorch`.
        channels_last: the memory format that convolutions on images are fast in; None: where the network has such.
        matmul_precision: of float32 products: ``highest``, ``high`` (TensorFloat-32) or ``medium`` (bfloat16).
        memory_limit_gb: memory this process may take, the config's ``memory.limit_gb``; None: the environment's
            ``ACCELERATOR_GPU_MEMORY_GB``, else 24; 0: all.
        threads: CPU threads of torch.
        deterministic: refuse operations that have no deterministic form; slower.

    Raises:
        ConfigError: there is no such GPU, or a value is out of range.
    """

    def __init__(
        self,
        device: str = "cuda",
        precision: int | str = "32",
        compile: str | None = None,
        gradient_checkpointing: bool | list[str] = False,
        channels_last: bool | None = None,
        matmul_precision: str = "high",
        memory_limit_gb: float | None = None,
        threads: int | None = None,
        deterministic: bool = False,
    ) -> None:
        if not torch.cuda.is_available():
            raise ConfigError("engine=single_gpu: this machine has no CUDA device; use engine=vanilla_torch")
        if not device.startswith("cuda"):
            raise ConfigError(f"engine.device={device}: engine=single_gpu needs cuda or cuda:<number>")
        if distributed.launched() is not None:
            raise ConfigError("engine=single_gpu trains on one GPU; for several ranks use engine=vanilla_torch")
        if matmul_precision not in MATMUL:
            raise ConfigError(f"engine.matmul_precision={matmul_precision}: expected one of {', '.join(MATMUL)}")
        super().__init__(
            device=device,
            precision=precision,
            compile=compile,
            gradient_checkpointing=gradient_checkpointing,
            threads=threads,
            deterministic=deterministic,
        )
        torch.cuda.set_device(self.device)
        self.memory_limit = limit_gpu_memory(memory_limit_gb, self.device)
        torch.set_float32_matmul_precision(matmul_precision)
        torch.backends.cudnn.allow_tf32 = matmul_precision != "highest"
        # Tries the algorithms of each convolution once; shapes do not change here.
        torch.backends.cudnn.benchmark = not deterministic
        self._channels_last = channels_last
        self._formats: dict[nn.Module, bool] = {}

    def prepare(self, module: nn.Module) -> nn.Module:
        """Move a module to the GPU, in the memory format its convolutions are fast in."""
        module = super().prepare(module)
        if self._by_channels(module):
            module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        return module

    def forward_backward(self, batch: Batch) -> Tensor:
        """Loss of the batch (0-dim, detached); its gradients, unscaled, are in ``.grad``."""
        return super().forward_backward(self._formatted(batch))

    def predict(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Prediction of the bound network and target for a batch, without gradients."""
        return super().predict(self._formatted(batch))

    def _by_channels(self, module: nn.Module) -> bool:
        if module not in self._formats:
            images = any(isinstance(part, nn.Conv2d) for part in module.modules())
            self._formats[module] = images if self._channels_last is None else self._channels_last
        return self._formats[module]

    def _formatted(self, batch: Batch) -> Batch:
        inputs, targets = batch
        if inputs.dim() != 4 or not self._by_channels(self.model):
            return batch
        return inputs.contiguous(memory_format=torch.channels_last), targets
