"""Random perturbation of the inputs during training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from accelerator.errors import ConfigError


class Noise(nn.Module):
    """x + σε with ε ~ N(0, 1) independent for every entry: additive Gaussian noise, in training only.

    For a linear model and squared error it amounts to Tikhonov regularisation with weight σ²: Bishop, "Training with
    Noise is Equivalent to Tikhonov Regularization", Neural Computation 7 (1995).

    Args:
        std: σ ≥ 0, in the unit of x (after a `normalize` before it: in standard deviations).

    Raises:
        ConfigError: σ is negative.
    """

    random = True

    def __init__(self, std: float = 0.1) -> None:
        super().__init__()
        if std < 0:
            raise ConfigError(f"noise: std={std} must not be negative")
        self.std = std

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Add noise from ``generator``, which lives on the device of x; the shape of x."""
        noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        return x + self.std * noise

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        return f"std={self.std}"
