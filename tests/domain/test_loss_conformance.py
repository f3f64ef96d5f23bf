"""One suite for all losses. A new member needs an entry in CASES."""

import inspect
import math
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch
from domain_members import component, members

A = torch.tensor([[1.5, 2.0], [3.0, 4.0]])
B = torch.tensor([[1.0, 0.0], [0.0, 4.5]])  # residuals 0.5, 2, 3, −0.5

SCORES = torch.tensor([[0.25, 0.75], [0.25, 0.75]]).log()
LABELS = torch.tensor([0, 1])
LOG4, LOG43 = math.log(4), math.log(4 / 3)  # −log 0.25, −log 0.75

DARK, BRIGHT = torch.full((2, 3, 11, 11), 0.25), torch.full((2, 3, 11, 11), 0.75)


def mse_and_mae():
    return {"square": component("loss", "mse"), "absolute": component("loss", "mae")}


@dataclass
class Case:
    prediction: torch.Tensor
    target: torch.Tensor
    value: float
    """Known in closed form."""
    knobs: dict[str, Any] = field(default_factory=dict)
    best: torch.Tensor | None = None
    """The prediction that minimises the loss; the target itself unless given."""
    least: float = 0.0
    """The loss there."""
    single: float = 1e-5
    """Relative error allowed in float32."""


CASES = {
    "mse": [Case(A, B, (0.25 + 4 + 9 + 0.25) / 4)],
    "mae": [Case(A, B, (0.5 + 2 + 3 + 0.5) / 4)],
    "huber": [
        Case(A, B, (0.125 + 1.5 + 2.5 + 0.125) / 4),
        Case(A, B, (0.125 + 2 + 2 * 2 + 0.125) / 4, {"delta": 2.0}),
    ],
    "relative_l2": [
        Case(torch.tensor([[3.0, 14.0], [0.0, 0.0]]), torch.tensor([[0.0, 10.0], [0.0, 2.0]]), (0.5 + 1) / 2),
        Case(torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2), 5 / 0.5, {"eps": 0.5}),
    ],
    "cross_entropy": [
        Case(SCORES, LABELS, (LOG4 + LOG43) / 2, best=torch.tensor([[20.0, 0.0], [0.0, 20.0]])),
        Case(
            SCORES,
            LABELS,
            ((0.95 * LOG4 + 0.05 * LOG43) + (0.95 * LOG43 + 0.05 * LOG4)) / 2,
            {"label_smoothing": 0.1},
            best=torch.tensor([[0.95, 0.05], [0.05, 0.95]], dtype=torch.float64).log(),
            least=-0.95 * math.log(0.95) - 0.05 * math.log(0.05),
        ),
        Case(
            SCORES,
            LABELS,
            (1 * LOG4 + 3 * LOG43) / 4,
            {"class_weights": [1.0, 3.0]},
            best=torch.tensor([[20.0, 0.0], [0.0, 20.0]]),
        ),
    ],
    "weighted_sum": [
        Case(A, B, 2 * 13.5 / 4 + 0.5 * 6 / 4, {"terms": mse_and_mae(), "weights": {"square": 2, "absolute": 0.5}})
    ],
    "ssim": [
        Case(DARK, BRIGHT, 1 - (2 * 0.25 * 0.75 + 1e-4) / (0.25**2 + 0.75**2 + 1e-4), single=1e-3),
        Case(DARK, BRIGHT, 1 - (2 * 0.1875 + 4e-4) / (0.625 + 4e-4), {"max_value": 2.0, "window_size": 5}, single=1e-3),
    ],
}

FLAT = [pytest.param(name, case, id=f"{name}-{i}") for name, cases in CASES.items() for i, case in enumerate(cases)]


def build(name, knobs):
    """As the runtime does: a class is instantiated, a function gets its knobs."""
    member = component("loss", name)
    return member(**knobs) if inspect.isclass(member) else partial(member, **knobs)


def double(tensor):
    return tensor.double() if tensor.is_floating_point() else tensor


def test_every_loss_has_a_case():
    assert set(CASES) == set(members("loss"))


@pytest.mark.parametrize(("name", "case"), FLAT)
def test_loss_has_the_value_known_in_closed_form(name, case):
    loss = build(name, case.knobs)(double(case.prediction), double(case.target))
    assert loss.shape == ()
    assert loss.item() == pytest.approx(case.value, rel=1e-7)


@pytest.mark.parametrize(("name", "case"), FLAT)
def test_loss_keeps_the_precision_of_the_prediction(name, case):
    loss = build(name, case.knobs)(case.prediction.float(), case.target)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(case.value, rel=case.single)


@pytest.mark.parametrize(("name", "case"), FLAT)
def test_loss_is_least_and_flat_at_the_best_prediction(name, case):
    loss = build(name, case.knobs)
    best = double(case.best if case.best is not None else case.target).requires_grad_()
    least = loss(best, double(case.target))
    assert least.item() == pytest.approx(case.least, abs=1e-8)
    (gradient,) = torch.autograd.grad(least, best)
    assert gradient.abs().max().item() < 1e-8
    assert loss(best + 0.1 * torch.eye(*best.shape[-2:]).flip(0), double(case.target)) > least


@pytest.mark.parametrize(("name", "case"), FLAT)
def test_gradient_agrees_with_finite_differences(name, case):
    generator = torch.Generator().manual_seed(0)
    shape = (1, 1, *case.prediction.shape[2:]) if case.prediction.ndim == 4 else case.prediction.shape
    prediction = torch.rand(shape, generator=generator, dtype=torch.float64).requires_grad_()
    target = case.target if not case.target.is_floating_point() else torch.rand(shape, generator=generator).double()
    loss = build(name, case.knobs)
    assert torch.autograd.gradcheck(lambda p: loss(p, target), (prediction,))


@pytest.mark.parametrize(("name", "case"), FLAT)
def test_mean_over_the_batch_does_not_change_when_the_batch_is_repeated(name, case):
    loss = build(name, case.knobs)
    twice = loss(torch.cat([case.prediction] * 2), torch.cat([case.target] * 2))
    torch.testing.assert_close(twice, loss(case.prediction, case.target))


@pytest.mark.parametrize(("name", "case"), FLAT)
def test_shapes_that_differ_are_refused_and_named_instead_of_broadcast(name, case):
    with pytest.raises(ValueError, match=r"\(3,\)"):
        build(name, case.knobs)(torch.zeros(3, 1), torch.zeros(3))
