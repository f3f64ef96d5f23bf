import pytest
import torch
from sklearn.metrics import r2_score

from domain.cross.metric.regression import R2


def test_r2_agrees_with_scikit_learn_far_from_zero():
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(200, 5, generator=generator) + 1000
    prediction = target + 0.3 * torch.randn(200, 5, generator=generator)
    metric = R2()
    metric.update(prediction, target)
    expected = r2_score(target.double(), prediction.double(), multioutput="variance_weighted")
    assert metric.compute().item() == pytest.approx(expected, rel=1e-9)


def test_r2_of_small_values_is_not_taken_for_perfect():
    target = 1e-6 * torch.arange(10.0)
    metric = R2()
    metric.update(target.mean().expand(10), target)
    assert metric.compute().item() == pytest.approx(0.0, abs=1e-6)


def test_r2_refuses_shapes_that_differ():
    with pytest.raises(ValueError, match=r"\(3, 1\) and the target \(3,\)"):
        R2().update(torch.zeros(3, 1), torch.zeros(3))
