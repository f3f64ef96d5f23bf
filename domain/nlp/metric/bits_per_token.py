"""The measure of language models."""

from __future__ import annotations

from math import log

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric


class BitsPerToken(Metric):
    """Bits a token costs when the predictions encode the text, −(1/N) Σ log₂ softmax(p)_y over all N tokens.

    Scores (batch, V, *positions) and tokens (batch, *positions); log₂ V is guessing, and bits per character when tokens
    are characters. It is the cross-entropy in another unit, whatever loss was trained. Sums are kept in float64.
    """

    is_differentiable = True
    higher_is_better = False
    full_state_update = False

    bits: Tensor
    tokens: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("bits", "tokens"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add a batch.

        Raises:
            ValueError: the target is not one class index for each position of the scores.
        """
        if target.is_floating_point() or target.shape != prediction.shape[:1] + prediction.shape[2:]:
            raise ValueError(
                f"bits_per_token: scores of shape {tuple(prediction.shape)} need a class index for each position, not "
                f"{str(target.dtype)[6:]} of shape {tuple(target.shape)}"
            )
        nats = functional.cross_entropy(prediction, target, reduction="sum")
        self.bits = self.bits + nats.double() / log(2)
        self.tokens = self.tokens + target.numel()

    def compute(self) -> Tensor:
        """Bits per token of everything since the last reset."""
        return self.bits / self.tokens
