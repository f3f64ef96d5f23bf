import copy

import pytest
import torch
from torch.nn import functional

from accelerator.errors import ConfigError
from domain.cross.loss.classification import CrossEntropy
from domain.cross.loss.regression import mse, relative_l2
from domain.cross.loss.weighted_sum import WeightedSum


def test_relative_l2_does_not_depend_on_the_resolution_or_the_unit():
    t = torch.randn(3, 2, 8, 8, dtype=torch.float64)
    p = t + torch.randn_like(t)
    finer = relative_l2(p.repeat_interleave(2, -1), t.repeat_interleave(2, -1))
    torch.testing.assert_close(finer, relative_l2(p, t))
    torch.testing.assert_close(relative_l2(1e-3 * p, 1e-3 * t), relative_l2(p, t), rtol=1e-5, atol=0)


def test_cross_entropy_agrees_with_torch_on_labels_at_every_position():
    scores, labels = torch.randn(2, 4, 5, 6), torch.randint(4, (2, 5, 6))
    ours = CrossEntropy(0.1, [1.0, 2.0, 3.0, 4.0])(scores, labels)
    theirs = functional.cross_entropy(scores, labels, torch.tensor([1.0, 2.0, 3.0, 4.0]), label_smoothing=0.1)
    assert torch.equal(ours, theirs)


def test_class_weights_follow_the_prediction_to_another_precision():
    loss = CrossEntropy(class_weights=[1.0, 2.0])
    scores, labels = torch.randn(4, 2, dtype=torch.float64), torch.tensor([0, 1, 1, 0])
    assert loss(scores, labels).dtype == torch.float64
    assert loss(scores.float(), labels).dtype == torch.float32


def test_labels_with_a_spare_dimension_are_refused_with_both_shapes():
    with pytest.raises(ValueError, match=r"scores of shape \(4, 3\) .* not \(4, 1\)"):
        CrossEntropy()(torch.zeros(4, 3), torch.zeros(4, 1, dtype=torch.int64))


def test_numbers_are_refused_as_labels():
    with pytest.raises(ValueError, match=r"needs class labels .* these are float32"):
        CrossEntropy()(torch.zeros(4, 3), torch.zeros(4))


@pytest.mark.parametrize("knobs", [{"label_smoothing": 1.5}, {"class_weights": [1.0, -1.0]}, {"class_weights": [0.0]}])
def test_cross_entropy_refuses_knobs_out_of_range(knobs):
    (key,) = knobs
    with pytest.raises(ConfigError, match=rf"loss\.{key}="):
        CrossEntropy(**knobs)


def test_weighted_sum_reports_every_name_without_a_partner():
    with pytest.raises(ConfigError) as caught:
        WeightedSum(terms={"error": mse, "detail": mse}, weights={"eror": 1.0, "detail": 1.0})
    first, second = caught.value.problems
    assert first == "loss.weights.eror has no term of that name — did you mean 'error'?"
    assert second == "loss.terms.error has no weight: add loss.weights.error"


def test_weighted_sum_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="name at least one loss"):
        WeightedSum({}, {})


def test_weighted_sum_can_be_copied():
    p, t = torch.rand(2, 3), torch.rand(2, 3)
    assert copy.deepcopy(WeightedSum({"a": mse}, {"a": 3.0}))(p, t) == 3 * mse(p, t)
