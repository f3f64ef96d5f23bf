import pytest
import torch
from torch import nn

from accelerator.errors import ConfigError
from domain.cross.model.activation import ACTIVATIONS
from domain.cross.model.mlp import MLP


def test_mlp_without_hidden_layers_is_the_linear_map():
    model = MLP((2, 3), (4,), hidden=[])
    x = torch.randn(5, 2, 3)
    (layer,) = model.layers
    assert isinstance(layer, nn.Linear)
    torch.testing.assert_close(model(x), x.reshape(5, 6) @ layer.weight.T + layer.bias)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_is_the_one_torch_calls_so(name):
    x = torch.linspace(-2, 2, 9)
    model = MLP((1,), (1,), hidden=[1], activation=name)
    function = torch.nn.Identity() if name == "identity" else getattr(torch.nn.functional, name)
    assert torch.equal(model.layers[1](x), function(x))


@pytest.mark.parametrize("knobs", [{"hidden": [8, 0]}, {"dropout": 1.0}])
def test_knobs_out_of_range_are_refused(knobs):
    (key,) = knobs
    with pytest.raises(ConfigError, match=rf"model\.{key}="):
        MLP((1,), (1,), **knobs)
