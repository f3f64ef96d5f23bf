"""One suite for all transforms. A new member needs an entry in CASES."""

import copy
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from domain_members import component, members
from torch import nn

ROOT = 2**0.5


def color(*values):
    """One pixel, (1, channels, 1, 1)."""
    return torch.tensor(values).reshape(1, -1, 1, 1)


RED, WHITE, GREY = color(1.0, 0.0, 0.0), color(1.0, 1.0, 1.0), color(0.5, 0.5, 0.5)

# Two samples, two channels, two positions.
FIELDS = torch.tensor([[[0.0, 2.0], [10.0, 10.0]], [[4.0, 6.0], [10.0, 10.0]]])


@dataclass
class Case:
    x: torch.Tensor
    y: torch.Tensor
    """What x becomes; for a random transform, when its knobs make it certain."""
    knobs: dict[str, Any] = field(default_factory=dict)
    training_split: torch.Tensor | None = None
    """What it is fitted to; x itself unless given."""
    atol: float = 1e-6


CASES = {
    "normalize": [
        # Statistics (2, 1), (constant); x lies outside of the training split.
        Case(
            torch.tensor([[5.0, 7.0]]),
            torch.tensor([[3.0, 0.0]]),
            training_split=torch.tensor([[1.0, 7.0], [3.0, 7.0]]),
        ),
        Case(FIELDS, torch.tensor([[[-1.0, -1.0], [0.0, 0.0]], [[1.0, 1.0], [0.0, 0.0]]])),
        Case(
            FIELDS,
            torch.tensor([[[-3.0, -1.0], [0.0, 0.0]], [[1.0, 3.0], [0.0, 0.0]]]) / 5**0.5,
            {"per": "channel"},
        ),
        Case(FIELDS[:, :1], torch.tensor([[[-3.0, -1.0]], [[1.0, 3.0]]]) / 5**0.5, {"per": "all"}),
    ],
    "noise": [Case(FIELDS, FIELDS, {"std": 0.0})],
    "color_space": [
        # CIE 1976 L*a*b* and L*u*v* of the sRGB primaries under D65: Lindbloom's calculator.
        Case(RED, color(53.24, 80.09, 67.20), {"space": "lab"}, atol=0.01),
        Case(WHITE, color(100.0, 0.0, 0.0), {"space": "lab"}, atol=0.01),
        Case(RED, color(53.24, 175.01, 37.75), {"space": "luv"}, atol=0.02),
        Case(RED, color(0.4125, 0.2127, 0.0193), {"space": "xyz"}, atol=1e-4),
        Case(RED, color(0.0, 1.0, 1.0), {"space": "hsv"}),
        Case(RED, color(0.0, 0.5, 1.0), {"space": "hls"}),
        Case(RED, color(0.299), {"space": "grayscale"}),
        Case(WHITE, color(1.0, 0.5, 0.5), {"space": "ycbcr"}, atol=1e-3),
        Case(RED, color(0.299, -0.147, 0.615), {"space": "yuv"}, atol=1e-3),
        Case(GREY, color(0.21404, 0.21404, 0.21404), {"space": "linear_rgb"}, atol=1e-5),  # ((0.5+0.055)/1.055)^2.4
    ],
}

FLAT = [pytest.param(name, case, id=f"{name}-{i}") for name, cases in CASES.items() for i, case in enumerate(cases)]


def fitted(name, case):
    transform = component("transform", name)(**case.knobs)
    if hasattr(transform, "fit"):
        transform.fit(case.x if case.training_split is None else case.training_split)
    return transform


def apply(transform, x, seed=0):
    return transform(x, torch.Generator().manual_seed(seed)) if transform.random else transform(x)


def test_every_transform_has_a_case():
    assert set(CASES) == set(members("transform"))


@pytest.mark.parametrize(("name", "case"), FLAT)
def test_transform_gives_the_known_numbers(name, case):
    torch.testing.assert_close(apply(fitted(name, case), case.x), case.y, atol=case.atol, rtol=0)


@pytest.mark.parametrize(("name", "case"), FLAT)
def test_transform_is_a_module_that_says_whether_it_is_random(name, case):
    transform = fitted(name, case)
    assert isinstance(transform, nn.Module)
    assert type(transform).random in (True, False)


@pytest.mark.parametrize(("name", "case"), FLAT)
def test_transform_leaves_its_input_and_the_global_random_state_alone(name, case):
    transform, x, state = fitted(name, case), case.x.clone(), torch.get_rng_state()
    apply(transform, x)
    assert torch.equal(x, case.x)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("name", "case"), [param for param in FLAT if hasattr(component("transform", param.values[0]), "inverse")]
)
def test_inverse_undoes_the_transform(name, case):
    transform = fitted(name, case)
    torch.testing.assert_close(transform.inverse(apply(transform, case.x)), case.x, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("name", "case"), FLAT)
def test_a_checkpoint_carries_the_statistics_to_an_instance_that_was_never_fitted(name, case):
    transform = fitted(name, case)
    restored = component("transform", name)(**case.knobs)
    restored.load_state_dict(copy.deepcopy(transform.state_dict()))
    assert torch.equal(apply(restored, case.x), apply(transform, case.x))


@pytest.mark.parametrize("name", [name for name in members("transform") if component("transform", name).random])
def test_random_transform_follows_its_generator(name):
    transform = component("transform", name)()
    assert torch.equal(apply(transform, FIELDS, seed=3), apply(transform, FIELDS, seed=3))
    assert not torch.equal(apply(transform, FIELDS, seed=3), apply(transform, FIELDS, seed=4))
