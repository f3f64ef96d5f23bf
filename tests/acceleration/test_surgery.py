"""A pruned network is built again from its class and plain values."""

import json

import pytest
import torch
from networks_to_prune import FAMILIES, network_and_input
from torch import nn

from accelerator.acceleration import prune, resized, sizes_of
from accelerator.acceleration.surgery import composed
from accelerator.errors import ConfigError
from domain.cross.model.mlp import MLP


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pruned_network_is_built_again_from_what_json_can_hold(family):
    network, inputs, _ = network_and_input(family)
    smaller = prune(network, inputs, 0.5)
    sizes = json.loads(json.dumps(sizes_of(network, smaller)))
    again = resized(network_and_input(family)[0], sizes)
    again.load_state_dict(smaller.state_dict())
    assert torch.equal(again(inputs), smaller(inputs))
    assert repr(again) == repr(smaller)


def test_what_was_pruned_twice_is_told_against_the_class():
    network, inputs, _ = network_and_input("mlp")
    once = prune(network, inputs, 0.5)
    twice = prune(once, inputs, 0.5)
    sizes = composed(composed(None, sizes_of(network, once)), sizes_of(once, twice))
    assert sizes == sizes_of(network, twice)
    assert sizes["tensors"]["layers.0.weight"] == [[16, 5], [4, 5]]
    assert sizes["attributes"]["layers.2"] == {"in_features": [16, 4], "out_features": [12, 3]}


def test_nothing_pruned_has_no_sizes():
    network, _, _ = network_and_input("mlp")
    assert sizes_of(network, network) == {"tensors": {}, "attributes": {}}


def test_another_network_is_refused_with_every_place():
    network, inputs, _ = network_and_input("mlp")
    sizes = sizes_of(network, prune(network, inputs, 0.5))
    with pytest.raises(ConfigError) as caught:
        resized(MLP((5,), (3,), (14,)), sizes)
    assert caught.value.problems[:2] == [
        "'layers.0.weight' is [14, 5] here, and was [16, 5] in the network that was pruned",
        "'layers.0.bias' is [14] here, and was [16] in the network that was pruned",
    ]
    assert "'layers.4.weight' is not there, and was [3, 12] in the network that was pruned" in caught.value.problems
    assert "'layers.0.out_features' is 14 here, and was 16 in the network that was pruned" in caught.value.problems


class Scaled(nn.Module):
    def __init__(self, persistent):
        super().__init__()
        self.up, self.down = nn.Linear(3, 8), nn.Linear(8, 2)
        self.register_buffer("scale", torch.rand(8) + 1, persistent=persistent)
        self.register_buffer("shift", torch.rand(2), persistent=False)

    def forward(self, x):
        return self.down(self.up(x) * self.scale) + self.shift


def test_a_buffer_that_is_not_saved_keeps_its_values_or_is_refused():
    network, inputs = Scaled(persistent=True), torch.randn(2, 3)
    smaller = prune(network, inputs, 0.5)
    again = resized(network, sizes_of(network, smaller))
    again.load_state_dict(smaller.state_dict())
    assert torch.equal(again(inputs), smaller(inputs))
    network = Scaled(persistent=False)
    with pytest.raises(ConfigError, match=r"the buffer 'scale' is not saved with the network \(persistent=False\)"):
        sizes_of(network, prune(network, inputs, 0.5))


def test_other_modules_are_no_other_size():
    with pytest.raises(ConfigError, match=r"of other modules than the full one: only one has 'layers\.4\.bias'"):
        sizes_of(MLP((5,), (3,), (8, 8)), MLP((5,), (3,), (8,)))
