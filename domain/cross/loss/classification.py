"""Losses between class scores and class labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from accelerator.errors import ConfigError


class CrossEntropy:
    """Cross-entropy of softmax scores, −Σ_c q_c log softmax(p)_c, mean over the batch.

    q is 1 at the label and 0 elsewhere, or (1 − α) of that plus α/C for label smoothing α. With class weights w the
    mean is Σ w_y ℓ / Σ w_y over the batch, as in `torch.nn.functional.cross_entropy`. Source of the smoothing: Szegedy
    et al., "Rethinking the Inception Architecture", CVPR 2016.

    Args:
        label_smoothing: α in [0, 1].
        class_weights: one weight for each of the C classes, or None for equal ones.

    Raises:
        ConfigError: α out of range, or a negative weight.
    """

    def __init__(self, label_smoothing: float = 0.0, class_weights: Sequence[float] | None = None) -> None:
        if not 0.0 <= label_smoothing <= 1.0:
            raise ConfigError(f"loss.label_smoothing={label_smoothing} must lie in [0, 1]")
        if class_weights is not None and (min(class_weights) < 0 or sum(class_weights) == 0):
            raise ConfigError(f"loss.class_weights={list(class_weights)} must not be negative, nor all zero")
        self.label_smoothing = label_smoothing
        self.class_weights = None if class_weights is None else torch.tensor(list(class_weights))

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The mean cross-entropy, 0-dimensional.

        Args:
            prediction: (batch, C, *positions), scores before the softmax.
            target: (batch, *positions), int64 labels in [0, C).

        Raises:
            ValueError: shapes that do not fit, or targets that are not labels.
        """
        if target.is_floating_point():
            raise ValueError(
                f"cross_entropy needs class labels (int64) as targets; these are {str(target.dtype)[6:]}, "
                f"of shape {tuple(target.shape)}: use a regression loss, or data whose targets are labels"
            )
        if prediction.ndim < 2 or target.shape != prediction.shape[:1] + prediction.shape[2:]:
            raise ValueError(
                f"cross_entropy: scores of shape {tuple(prediction.shape)} need labels of shape (batch, *positions) "
                f"without the class dimension, not {tuple(target.shape)}"
            )
        weights = self.class_weights
        if weights is not None and (weights.device != prediction.device or weights.dtype != prediction.dtype):
            self.class_weights = weights = weights.to(prediction)
        return functional.cross_entropy(prediction, target, weight=weights, label_smoothing=self.label_smoothing)
