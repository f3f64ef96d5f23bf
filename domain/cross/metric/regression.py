"""Metrics of predicted numbers."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class R2(Metric):
    """Coefficient of determination, R² = 1 − Σ_j Σ_i (p_ij − t_ij)² / Σ_j Σ_i (t_ij − t̄_j)².

    i runs over samples and j over the entries of a sample, each with its own mean t̄_j: 1 is perfect, 0 is as good
    as predicting the mean sample, NaN means targets that do not vary. Prediction and target have one shape,
    (batch, *sample). Sums are kept in float64.

    Not torchmetrics' ``R2Score``: that one counts an entry whose squared errors sum to less than 1e-4 as perfect, so
    that small-valued targets (a solution of Poisson's equation) score 1 whatever is predicted.
    """

    is_differentiable = True
    higher_is_better = True
    full_state_update = False

    samples: Tensor
    total: Tensor
    total_of_squares: Tensor
    residual: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("samples", "total", "total_of_squares", "residual"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add a batch.

        Raises:
            ValueError: the shapes differ.
        """
        if prediction.shape != target.shape:
            raise ValueError(
                f"r2: the prediction has shape {tuple(prediction.shape)} and the target {tuple(target.shape)}; "
                "they must agree"
            )
        prediction, target = prediction.double(), target.double()
        self.samples = self.samples + len(target)
        self.total = self.total + target.sum(0)
        self.total_of_squares = self.total_of_squares + target.square().sum()
        self.residual = self.residual + (prediction - target).square().sum()

    def compute(self) -> Tensor:
        """R² of everything since the last reset."""
        variation = self.total_of_squares - self.total.square().sum() / self.samples
        return 1 - self.residual / variation
