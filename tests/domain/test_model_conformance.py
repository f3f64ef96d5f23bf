"""One suite for all models. A new member needs an entry in CASES."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from domain_members import component, members
from torch import fx

from accelerator.errors import ConfigError


@dataclass
class Case:
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    parameters: int
    """Counted by hand."""
    knobs: dict[str, Any] = field(default_factory=dict)
    tokens: bool = False
    """The inputs are class indices, not numbers."""


MLP_CASES = [
    Case((3,), (2,), (3 * 5 + 5) + (5 * 4 + 4) + (4 * 2 + 2), {"hidden": [5, 4]}),
    Case((2, 3), (1, 4, 5), (6 * 8 + 8) + 2 * 8 + (8 * 20 + 20), {"hidden": [8], "layer_norm": True, "dropout": 0.5}),
    Case((7,), (), 7 + 1, {"hidden": []}),
]

CASES = {
    "mlp": MLP_CASES,
    "multilevel_mlp": MLP_CASES,
    "cnn": [
        Case((1, 8, 8), (10,), (9 * 4 + 2 * 4) + (9 * 4 * 6 + 2 * 6) + (6 * 10 + 10), {"channels": [4, 6]}),
        Case(
            (3, 7, 5),
            (2, 2),
            (25 * 3 * 4 + 4) + (4 * 4 + 4),
            {"channels": [4], "kernel_size": 5, "batch_norm": False, "dropout": 0.3},
        ),
    ],
    "fno": [
        Case(
            (2, 16),
            (3, 16),
            (3 * 4 + 4) + 2 * (6 * 4 * 4 * 2 + 4 * 4 + 4) + (4 * 8 + 8) + (8 * 3 + 3),
            {"width": 4, "modes": 6, "layers": 2, "projection": 8},
        ),
        Case(
            (1, 12, 10),
            (1, 12, 10),
            (1 * 4 + 4) + (2 * 3 * 5 * 4 * 4 * 2 + 4 * 4 + 4) + (4 * 8 + 8) + (8 + 1),
            {"width": 4, "modes": [3, 5], "layers": 1, "projection": 8, "coordinates": False},
        ),
    ],
}

CASES["resnet"] = [
    Case(
        (1, 8, 8),
        (10,),
        (9 * 4 + 8) + 2 * (9 * 16 + 8) + (9 * 24 + 12 + 9 * 36 + 12) + (24 + 12) + (6 * 10 + 10),
        {"channels": [4, 6], "blocks": 1},
    ),
    Case(
        (3, 7, 5),
        (2, 2),
        (27 * 4 + 8) + 4 * (9 * 16 + 8) + (4 * 4 + 4),
        {"channels": [4], "blocks": 2, "norm": "group", "groups": 2},
    ),
]
# Embeddings, blocks (two norms, four projections, the MLP), last norm, head.
CASES["transformer"] = [
    Case(
        (6,),
        (7, 6),
        (7 + 6) * 4 + 2 * (2 * 8 + 4 * (16 + 4) + (4 * 12 + 12) + (12 * 4 + 4)) + 8 + (4 * 7 + 7),
        {"width": 4, "heads": 2, "blocks": 2, "mlp_ratio": 3, "dropout": 0.1},
        tokens=True,
    ),
]

# A shape of data that the model cannot take, where there is one.
UNFIT = {
    "cnn": ((64,), (10,)),
    "resnet": ((64,), (10,)),
    "fno": ((32,), (1, 32, 32)),
    "transformer": ((64,), (10,)),
}

FLAT = [pytest.param(name, case, id=f"{name}-{i}") for name, cases in CASES.items() for i, case in enumerate(cases)]


def build(name, case, seed=0):
    torch.manual_seed(seed)
    return component("model", name)(case.input_shape, case.output_shape, **case.knobs)


def batch(case, size=4):
    generator = torch.Generator().manual_seed(1)
    if case.tokens:
        return torch.randint(case.output_shape[0], (size, *case.input_shape), generator=generator)
    return torch.randn(size, *case.input_shape, generator=generator)


def test_every_model_has_a_case():
    assert set(CASES) == set(members("model"))


@pytest.mark.parametrize("name", members("model"))
def test_model_builds_with_its_defaults(name):
    image, field, tokens = (3, 32, 32), (1, 32, 32), (16,)
    shape = {"cnn": image, "resnet": image, "fno": field, "transformer": tokens}.get(name, (3,))
    out = {"fno": field, "transformer": (10, 16)}.get(name, (10,))
    case = Case(shape, out, 0, tokens=name == "transformer")
    assert component("model", name)(shape, out)(batch(case, 2)).shape == (2, *out)


@pytest.mark.parametrize(("name", "case"), FLAT)
def test_output_has_the_shape_asked_for_and_parameters_are_as_counted(name, case):
    model = build(name, case)
    assert model(batch(case)).shape == (4, *case.output_shape)
    assert sum(parameter.numel() for parameter in model.parameters()) == case.parameters


@pytest.mark.parametrize(("name", "case"), FLAT)
def test_every_parameter_receives_a_gradient(name, case):
    model = build(name, case)
    output = model(batch(case))
    (output * torch.randn(output.shape, generator=torch.Generator().manual_seed(2))).sum().backward()
    without = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without


@pytest.mark.parametrize(("name", "case"), FLAT)
def test_the_seed_determines_the_model(name, case):
    first, same, other = (build(name, case, seed).eval()(batch(case)) for seed in (5, 5, 6))
    assert torch.equal(first, same)
    assert not torch.allclose(first, other)


@pytest.mark.parametrize(("name", "case"), FLAT)
def test_a_sample_does_not_see_the_rest_of_its_batch_in_evaluation(name, case):
    model, x = build(name, case).eval(), batch(case)
    torch.testing.assert_close(model(x)[1:2], model(x[1:2]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "case"), FLAT)
def test_model_can_be_traced_and_the_trace_serves_other_batch_sizes(name, case):
    model = build(name, case).eval()
    x = batch(case, size=3)
    torch.testing.assert_close(fx.symbolic_trace(model)(x), model(x))


@pytest.mark.parametrize("name", UNFIT)
def test_data_that_does_not_suit_the_model_is_refused_with_its_shape_and_a_remedy(name):
    input_shape, output_shape = UNFIT[name]
    with pytest.raises(ConfigError, match=rf"{name} needs .* \({input_shape[0]},\): use model=mlp"):
        component("model", name)(input_shape, output_shape)


@pytest.mark.parametrize("name", members("model"))
def test_unknown_activation_is_refused_with_the_nearest(name):
    case = CASES[name][0]
    with pytest.raises(ConfigError, match="unknown activation 'gello' — did you mean 'gelu'"):
        component("model", name)(case.input_shape, case.output_shape, **case.knobs, activation="gello")
