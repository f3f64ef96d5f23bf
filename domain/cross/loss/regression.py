"""Losses between a prediction and a target of the same shape, (batch, *sample). Each is a mean over the batch."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def mse(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error, mean over all entries of (p − t)².

    Raises:
        ValueError: the shapes differ; nothing is broadcast.
    """
    if prediction.shape != target.shape:
        raise _shapes_differ("mse", prediction, target)
    return functional.mse_loss(prediction, target)


def mae(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error, mean over all entries of |p − t|.

    Raises:
        ValueError: the shapes differ; nothing is broadcast.
    """
    if prediction.shape != target.shape:
        raise _shapes_differ("mae", prediction, target)
    return functional.l1_loss(prediction, target)


def huber(prediction: Tensor, target: Tensor, delta: float = 1.0) -> Tensor:
    """Huber's loss, mean over all entries of r²/2 where |r| ≤ δ and δ(|r| − δ/2) beyond, with r = p − t.

    Source: Huber, "Robust Estimation of a Location Parameter", Ann. Math. Statist. 35 (1964).

    Args:
        prediction: (batch, *sample).
        target: the same shape.
        delta: δ > 0, where the square turns into a line; in the target's unit.

    Raises:
        ValueError: the shapes differ, or δ is not positive.
    """
    if prediction.shape != target.shape:
        raise _shapes_differ("huber", prediction, target)
    return functional.huber_loss(prediction, target, delta=delta)


def relative_l2(prediction: Tensor, target: Tensor, eps: float = 1e-8) -> Tensor:
    """Relative L² error, mean over the batch of ‖p − t‖₂ / (‖t‖₂ + ε), the norms over a whole sample.

    On a uniform grid the cell sizes cancel, so the value does not depend on the resolution. The usual loss of operator
    learning: Li et al., "Fourier Neural Operator for Parametric Partial Differential Equations", ICLR 2021.

    Args:
        prediction: (batch, *sample).
        target: the same shape.
        eps: ε, keeps samples whose target is zero finite.

    Raises:
        ValueError: the shapes differ; nothing is broadcast.
    """
    if prediction.shape != target.shape:
        raise _shapes_differ("relative_l2", prediction, target)
    samples = (len(target), -1)  # a sample may be a single number, without dimensions
    error = (prediction - target).reshape(samples).norm(dim=1)
    return (error / (target.reshape(samples).norm(dim=1) + eps)).mean()


def _shapes_differ(loss: str, prediction: Tensor, target: Tensor) -> ValueError:
    return ValueError(
        f"{loss}: the prediction has shape {tuple(prediction.shape)} and the target {tuple(target.shape)}; "
        "they must agree, nothing is broadcast"
    )
