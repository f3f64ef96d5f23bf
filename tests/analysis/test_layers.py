"""Parameters, FLOPs, activations and what optimizers keep, by formula."""

import torch
from torch import nn
from torch.nn import functional

from accelerator.analysis.layers import Flops, count_flops, count_layers, layers_of, observed, time_layers
from accelerator.analysis.memory import bytes_of, optimizer_bytes, saved_for_backward, weights_of

B = 6


def mlp():
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))


def cnn():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 8, 3, 2, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2),
    )  # fmt: skip


def looked(model, inputs, rounds=0):
    layers = layers_of(model)

    def step():
        return model(inputs).square().mean()

    with observed(layers) as calls:
        step()
    count_layers(calls)
    if rounds:
        time_layers(calls, rounds)
    return layers, count_flops(step), step


def test_an_mlp_costs_what_the_formula_says():
    layers, flops, _ = looked(mlp(), torch.randn(B, 3))
    assert [(each.path, each.kind, each.shape, each.parameters) for each in layers] == [
        ("0", "Linear", (B, 5), 3 * 5 + 5),
        ("1", "ReLU", (B, 5), 0),
        ("2", "Linear", (B, 2), 5 * 2 + 2),
    ]
    first, second = 2 * B * 3 * 5, 2 * B * 5 * 2
    assert [each.forward_flops for each in layers] == [first, 0, second]
    assert [each.backward_flops for each in layers] == [first, 0, 2 * second]  # none for the inputs of the first
    assert (flops.forward, flops.backward, flops.fft) == (first + second, first + 2 * second, 0)


def test_a_cnn_costs_what_the_formula_says():
    layers, flops, _ = looked(cnn(), torch.randn(B, 3, 8, 8))
    first, second, head = 2 * B * 64 * 3 * 4 * 9, 2 * B * 16 * 4 * 8 * 9, 2 * B * 8 * 2
    assert [each.parameters for each in layers] == [3 * 4 * 9, 8, 0, 4 * 8 * 9 + 8, 0, 0, 8 * 2 + 2]
    assert [each.shape for each in layers][3:] == [(B, 8, 4, 4), (B, 8, 1, 1), (B, 8), (B, 2)]
    assert [each.forward_flops for each in layers] == [first, 0, 0, second, 0, 0, head]
    assert [each.backward_flops for each in layers] == [first, 0, 0, 2 * second, 0, 0, 2 * head]
    assert (flops.forward, flops.backward) == (first + second + head, first + 2 * second + 2 * head)


def test_fourier_transforms_are_counted_apart():
    class Fourier(nn.Module):
        def forward(self, x):
            return torch.fft.irfft(torch.fft.rfft(x), n=16)

    model, inputs = Fourier(), torch.randn(B, 16)
    once = 2.5 * B * 16 * 4  # 5 n log₂ n, half of it for real numbers
    assert count_flops(lambda: model(inputs).sum()) == Flops(forward=0, backward=0, fft=2 * once)
    assert count_flops(lambda: model(inputs.requires_grad_()).sum()).fft > 3 * once


def test_a_module_with_parameters_of_its_own_is_a_layer_and_shared_ones_count_once():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.factor = nn.Parameter(torch.ones(7))
            self.one = nn.Linear(7, 7)
            self.other = nn.Linear(7, 7)
            self.other.weight = self.one.weight
            self.other.bias.requires_grad_(False)

        def forward(self, x):
            return self.factor * self.other(self.one(self.one(x)))

    layers, _, _ = looked(Scaled(), torch.randn(B, 7))
    found = {each.path: (each.parameters, each.trainable, each.calls) for each in layers}
    assert found == {"": (7, 7, 1), "one": (56, 56, 2), "other": (7, 0, 1)}
    assert {each.path: each.forward_flops for each in layers} == {"": 0, "one": 2 * 2 * B * 49, "other": 2 * B * 49}


def test_torchs_own_layers_are_whole():
    layers, _, _ = looked_at_attention()
    assert [(each.path, each.kind) for each in layers] == [("attention", "MultiheadAttention")]
    assert layers[0].parameters == 4 * 64 + 4 * 8


def looked_at_attention():
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x):
            return self.attention(x, x, x)[0]

    return looked(Attending(), torch.randn(B, 4, 8))


def test_every_layer_that_was_called_has_a_time_and_nothing_else_changed():
    model = cnn()
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    layers, _, _ = looked(model, torch.randn(B, 3, 8, 8), rounds=3)
    assert all(each.forward_seconds > 0 and each.backward_seconds > 0 for each in layers if each.kind != "Flatten")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.named_parameters())


def kept_by(model, inputs):
    return saved_for_backward(
        lambda: functional.mse_loss(model(inputs), targets_of(model, inputs)), known(model, inputs)
    )


TARGETS = {}


def targets_of(model, inputs):
    with torch.no_grad():
        return TARGETS.setdefault(id(model), torch.zeros_like(model(inputs)))


def known(model, inputs):
    return [*weights_of(model), inputs, targets_of(model, inputs)]


def test_activations_of_an_mlp_are_one_tensor_a_layer_with_relu_and_two_with_gelu():
    width, out = 5, 2
    inputs = torch.randn(B, 3)
    # ReLU keeps its output, which the next layer keeps too; the loss keeps the prediction.
    assert kept_by(mlp(), inputs) == 4 * B * (width + out)
    gelu = nn.Sequential(nn.Linear(3, width), nn.GELU(), nn.Linear(width, out))
    assert kept_by(gelu, inputs) == 4 * B * (2 * width + out)


def test_a_network_that_trains_nothing_keeps_nothing():
    model = mlp().requires_grad_(False)
    assert kept_by(model, torch.randn(B, 3)) == 0


def test_optimizers_keep_none_one_or_two_numbers_for_each_parameter():
    for name, copies, steps in (("SGD", 0, 0), ("Adam", 2, 4)):
        model = mlp()
        optimizer = getattr(torch.optim, name)(model.parameters(), lr=0.1)
        model(torch.randn(B, 3)).sum().backward()
        optimizer.step()
        count = sum(p.numel() for p in model.parameters())
        assert optimizer_bytes(optimizer) == copies * 4 * count + 4 * steps  # Adam counts steps of each tensor
    tied = torch.zeros(10)
    assert bytes_of([tied, tied[:3], torch.zeros(2)]) == 40 + 8
