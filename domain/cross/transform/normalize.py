"""Scaling to mean 0 and standard deviation 1."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from accelerator.errors import ConfigError, did_you_mean

PER = ("feature", "channel", "all")


class Normalize(nn.Module):
    """z = (x − μ) / σ, with statistics of the training split; ``inverse`` gives x = μ + σz back.

    σ is the population standard deviation. A feature that is constant in the training split gets σ = 1: it becomes 0
    there, and ``inverse`` restores it. μ and σ are buffers: a checkpoint carries them, and loading one needs no `fit`.

    Args:
        per: what shares one μ and σ, for x of shape (batch, *sample):

            - ``feature``: nothing, each entry of a sample has its own, shape (*sample);
            - ``channel``: all positions of a channel, shape (channels, 1, …);
            - ``all``: everything, shape ().

    Raises:
        ConfigError: no such choice of ``per``.
    """

    random = False
    mean: Tensor
    std: Tensor

    def __init__(self, per: str = "feature") -> None:
        super().__init__()
        if per not in PER:
            raise ConfigError(f"normalize: unknown per='{per}'{did_you_mean(per, PER)}")
        self.per = per
        self.register_buffer("mean", torch.empty(0))
        self.register_buffer("std", torch.empty(0))
        self.register_load_state_dict_pre_hook(_size_buffers)

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Take the statistics of x, the training split, (samples, *sample).

        Raises:
            ValueError: x holds no samples, or is not floating point (class labels).
        """
        if not x.is_floating_point():
            raise ValueError(
                f"normalize needs floating-point data, not {str(x.dtype)[6:]}: class labels are not to be normalised; "
                "use transform=normalize_input or transform=none"
            )
        if x.shape[0] == 0:
            raise ValueError(f"normalize cannot be fitted to no samples (shape {tuple(x.shape)})")
        shared = {"feature": (0,), "channel": (0, *range(2, x.ndim)), "all": tuple(range(x.ndim))}[self.per]
        # Summed in float64: over 10⁶ entries a float32 sum loses three digits.
        mean = x.mean(shared, keepdim=True, dtype=torch.float64).to(x.dtype)
        std = (x - mean).square().mean(shared, keepdim=True, dtype=torch.float64).sqrt().to(x.dtype)
        # Rounding alone can spread the values of a constant feature by one unit in the last place.
        std = torch.where(std <= torch.finfo(x.dtype).eps * mean.abs(), torch.ones_like(std), std)
        self.mean, self.std = (mean.reshape(()), std.reshape(())) if self.per == "all" else (mean[0], std[0])

    def forward(self, x: Tensor) -> Tensor:
        """(x − μ) / σ, the shape of x."""
        self._check(x)
        return (x - self.mean) / self.std

    def inverse(self, x: Tensor) -> Tensor:
        """μ + σx, the shape of x."""
        self._check(x)
        return x * self.std + self.mean

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        return f"per={self.per}"

    def _check(self, x: Tensor) -> None:
        expected = self.mean.shape
        if self.mean.numel() == 0:
            raise ValueError("normalize has no statistics yet: call fit(x) on the training split, or load a checkpoint")
        found = {"feature": x.shape[1:], "channel": x.shape[1:2] + expected[1:], "all": expected}[self.per]
        if found != expected:
            raise ValueError(
                f"normalize was fitted to samples of shape {tuple(expected)} (per={self.per}) and got "
                f"{tuple(x.shape[1:])}: transform data of the shape it was fitted to"
            )


def _size_buffers(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    # The buffers of an instance that was not fitted have no shape to load into.
    assert isinstance(module, Normalize)
    for name in ("mean", "std"):
        if (value := state_dict.get(prefix + name)) is not None:
            setattr(module, name, torch.empty_like(value, device=module.mean.device))
