"""What no gradient reaches is named, and so are units that never fire; nothing else is."""

import torch
from torch import nn
from torch.nn import functional

from accelerator.analysis.gradients import follow

BATCHES = [(torch.randn(16, 4, generator=torch.Generator().manual_seed(i)), torch.zeros(16, 1)) for i in range(3)]


def followed(model, batches=BATCHES, loss=functional.mse_loss):
    def step(batch):
        value = loss(model(batch[0]), batch[1])
        value.backward()
        return value.detach()

    return follow(model, batches, step)


class Torn(nn.Module):
    """One layer is not used, one is cut off, one is multiplied by zero, one is frozen."""

    def __init__(self):
        super().__init__()
        self.used, self.unused, self.cut = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.silenced, self.frozen = nn.Linear(4, 4), nn.Linear(4, 1).requires_grad_(False)

    def forward(self, x):
        y = self.used(x) + self.cut(x).detach() + 0.0 * self.silenced(x)
        return self.frozen(y)


def test_disconnected_zero_and_frozen_parameters_are_told_apart():
    flow = followed(Torn())
    assert flow.disconnected == ["unused.weight", "unused.bias", "cut.weight", "cut.bias"]
    assert flow.zero == ["silenced.weight", "silenced.bias"]
    assert flow.frozen == ["frozen.weight", "frozen.bias"]
    assert (flow.not_finite, flow.batches) == ([], 3)


def test_loss_and_norm_are_those_of_the_first_batch_and_no_gradient_is_left():
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    inputs, targets = BATCHES[0]
    error = model(inputs).detach() - targets
    flow = followed(model)
    gradient = torch.cat([2 * (error * inputs).mean(0), 2 * error.mean(0)])
    assert abs(flow.loss - float(error.square().mean())) < 1e-6
    assert abs(flow.norm - float(gradient.norm())) < 1e-6
    assert all(p.grad is None for p in model.parameters())


def test_a_gradient_that_is_not_finite_is_named():
    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 1)

        def forward(self, x):
            return (0 * self.layer(x)).sqrt()

    assert followed(Root()).not_finite == ["layer.bias", "layer.weight"]


def killed(layer, units):
    with torch.no_grad():
        layer.weight[units] = 0.0
        layer.bias[units] = -1.0


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(4, 200), nn.Linear(200, 1)

    def forward(self, x):
        return self.two(functional.relu(self.one(x)))


def test_dead_units_are_counted_for_modules_and_functions_alike():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 200), nn.ReLU(), nn.Linear(200, 1))
    alive = sum(each.dead for each in followed(model).dead)
    assert alive < 20
    killed(model[0], slice(0, 150))
    (found,) = followed(model).dead
    assert (found.path, found.units) == ("1", 200)
    assert 150 <= found.dead <= 150 + alive

    written = Functional()
    killed(written.one, slice(0, 200))
    (found,) = followed(written).dead
    assert (found.path, found.dead, found.units) == ("", 200, 200)
    assert followed(written).zero == ["one.weight", "one.bias", "two.weight"]


def test_units_of_convolutions_are_channels():
    torch.manual_seed(0)
    for convolution, shape in ((nn.Conv2d, (8, 1, 6, 6)), (nn.Conv1d, (8, 1, 6))):
        model = nn.Sequential(convolution(1, 5, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.LazyLinear(1))
        inputs = torch.randn(shape)
        model(inputs)
        killed(model[0], [1, 3])
        (found,) = followed(model, [(inputs, torch.zeros(8, 1))]).dead
        assert (found.path, found.dead, found.units) == ("1", 2, 5)


def test_a_unit_that_fires_in_one_of_the_batches_lives():
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU())
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[0].bias.fill_(0.0)
    low, high = (-torch.ones(4, 1), torch.zeros(4, 1)), (torch.ones(4, 1), torch.zeros(4, 1))
    assert [each.dead for each in followed(model, [low, low]).dead] == [1]
    assert followed(model, [low, high]).dead == followed(model, [high, low]).dead == []


def test_hardtanh_is_no_relu():
    model = nn.Sequential(nn.Linear(4, 3), nn.Hardtanh(), nn.Linear(3, 1))
    killed(model[0], [0, 1, 2])
    assert followed(model).dead == []
    six = nn.Sequential(nn.Linear(4, 3), nn.ReLU6(), nn.Linear(3, 1))
    killed(six[0], [0, 1, 2])
    assert [each.dead for each in followed(six).dead] == [3]
