"""Metrics of class predictions."""

from __future__ import annotations

from torchmetrics.classification import MulticlassAccuracy


class Accuracy(MulticlassAccuracy):
    """The fraction of labels predicted right, from scores (batch, C, *positions) and labels (batch, *positions).

    torchmetrics' default is the mean of the classes' recalls (``macro``); this one counts samples (``micro``).

    Args:
        num_classes: C.
        top_k: a prediction counts as right when its label is among the k highest scores.
        average: ``micro``, or ``macro``, ``weighted``, ``none`` as in torchmetrics.
    """

    def __init__(self, num_classes: int, top_k: int = 1, average: str = "micro") -> None:
        super().__init__(num_classes=num_classes, top_k=top_k, average=average)  # pyright: ignore[reportArgumentType]
