"""What units of known stacks see."""

import pytest
import torch
from torch import nn

from accelerator.analysis.receptive import Receptive, receptive_field


def of(model, size=64, channels=1, directions=2):
    return receptive_field(model, torch.randn(2, channels, *(size,) * directions))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_stack_of_three_by_three_sees_two_points_more_a_layer(count):
    found = of(nn.Sequential(*[layer for _ in range(count) for layer in (nn.Conv2d(1, 1, 3, padding=1), nn.ReLU())]))
    assert (found.last.points, found.last.step) == ((1 + 2 * count,) * 2, (1, 1))
    assert found.stopped is None


def test_strides_pools_and_dilations():
    found = of(
        nn.Sequential(
            nn.Conv2d(1, 2, 7, stride=2, padding=3),  # 7, step 2
            nn.BatchNorm2d(2),
            nn.MaxPool2d(3, stride=2, padding=1),  # 7 + 2·2 = 11, step 4
            nn.Conv2d(2, 2, 3, dilation=2, padding=2),  # 11 + 2·2·4 = 27
            nn.AvgPool2d(2),  # 27 + 4 = 31, step 8
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(2, 3),
        )
    )
    assert [each.field.points[0] for each in found.layers] == [7, 11, 27, 31]
    assert found.last.step == (8, 8)
    assert (found.image, found.stopped) == ((64, 64), "5 (AdaptiveAvgPool2d)")


def test_directions_are_apart():
    found = of(nn.Sequential(nn.Conv2d(1, 1, (5, 1), stride=(2, 1))))
    assert (found.last.points, found.last.step) == ((5, 1), (2, 1))
    assert of(nn.Sequential(nn.Conv1d(1, 1, 9)), directions=1).last.points == (9,)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.branch = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
        self.stem = nn.Conv2d(1, 4, 1)

    def forward(self, x):
        y = self.stem(x)
        return torch.cat([y + self.branch(y), y], 1)


def test_where_branches_meet_the_one_that_sees_more_counts():
    assert of(Residual()).last.points == (5, 5)
    assert of(nn.Sequential(Residual(), nn.Conv2d(8, 1, 3))).last.points == (7, 7)


def centre_sees(model, size):
    """The same by the gradient of the centre's output, with weights that cannot cancel."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
    x = torch.ones(1, 1, size, size, requires_grad=True)
    y = model(x)
    y[0, :, y.shape[2] // 2, y.shape[3] // 2].sum().backward()
    return tuple(int((x.grad[0, 0].sum(dim) != 0).sum()) for dim in (1, 0))


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(Residual(), nn.Conv2d(8, 1, 3)),
        nn.Sequential(nn.Conv2d(1, 2, 5, 2), nn.Conv2d(2, 2, 3, dilation=3), nn.AvgPool2d(2), nn.Conv2d(2, 1, (3, 2))),
        nn.Sequential(nn.Conv2d(1, 1, 3, 2), nn.Conv2d(1, 1, 3, 2), nn.Conv2d(1, 1, 3, 2)),
    ],
)
def test_the_formula_and_the_gradient_agree(model):
    found = of(model, size=96)
    assert isinstance(found, Receptive)
    assert centre_sees(model, 96) == found.last.points


def test_why_there_is_none_is_told():
    assert receptive_field(nn.Linear(3, 1), torch.randn(2, 3)) == "the inputs are no images"
    assert of(nn.Sequential(nn.Flatten(), nn.Linear(64 * 64, 1))) == "there is no convolution"

    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(1, 1, 3)

        def forward(self, x):
            return self.layer(x) if x.sum() > 0 else x

    assert of(Branching()).startswith("the network cannot be traced (TraceError: ")
