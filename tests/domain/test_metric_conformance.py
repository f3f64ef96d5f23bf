"""One suite for all metrics. A new member needs an entry in CASES."""

from dataclasses import dataclass, field
from math import log2
from typing import Any

import pytest
import torch
from domain_members import component, members


@dataclass
class Case:
    prediction: torch.Tensor
    target: torch.Tensor
    value: float
    knobs: dict[str, Any] = field(default_factory=dict)


SCORES = torch.eye(3)[[0, 0, 0, 1, 2]]  # predicts 0, 0, 0, 1, 2
LABELS = torch.tensor([0, 0, 0, 1, 1])

# Two sequences of three tokens out of two: scores (batch, classes, positions) with p = 3/4 for token 1.
SEQUENCE_SCORES = torch.tensor([0.25, 0.75]).log()[None, :, None].expand(2, 2, 3)
SEQUENCES = torch.tensor([[1, 1, 0], [1, 0, 1]])

# Residual 1 + 0 + 1, variation 2 (about 2) + 18 (about 3).
T = torch.tensor([[1.0, 0.0], [2.0, 3.0], [3.0, 6.0]])
P = torch.tensor([[2.0, 0.0], [2.0, 3.0], [3.0, 5.0]])

CASES = {
    "accuracy": [
        Case(SCORES, LABELS, 4 / 5, {"num_classes": 3}),
        Case(SCORES, LABELS, (1 + 1 / 2 + 0) / 3, {"num_classes": 3, "average": "macro"}),
        Case(SEQUENCE_SCORES, SEQUENCES, 4 / 6, {"num_classes": 2}),
    ],
    # p(right) is 3/4 four times and 1/4 twice; scores that say nothing cost log₂ 2.
    "bits_per_token": [
        Case(SEQUENCE_SCORES, SEQUENCES, (4 * log2(4 / 3) + 2 * log2(4)) / 6),
        Case(torch.zeros_like(SEQUENCE_SCORES), SEQUENCES, 1.0),
    ],
    "r2": [
        Case(P, T, 1 - 2 / 20),
        Case(P[:, :, None], T[:, :, None], 1 - 2 / 20),
        Case(1e-3 * P, 1e-3 * T, 1 - 2 / 20),
        Case(P[:, 0], T[:, 0], 1 - 1 / 2),
    ],
}

FLAT = [pytest.param(name, case, id=f"{name}-{i}") for name, cases in CASES.items() for i, case in enumerate(cases)]


def test_every_metric_has_a_case():
    assert set(CASES) == set(members("metric"))


@pytest.mark.parametrize(("name", "case"), FLAT)
def test_metric_has_the_known_value_however_the_data_come_in_batches_and_after_a_reset(name, case):
    metric = component("metric", name)(**case.knobs)
    for size in (len(case.target), 2, 1):
        for prediction, target in zip(case.prediction.split(size), case.target.split(size), strict=True):
            metric.update(prediction, target)
        assert metric.compute().item() == pytest.approx(case.value, rel=1e-6)
        metric.reset()
