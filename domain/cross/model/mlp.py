"""The multilayer perceptron."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from torch import Tensor, nn

from accelerator.errors import ConfigError
from domain.cross.model.activation import activation as make_activation


class MLP(nn.Module):
    """Fully connected layers: x₀ = flatten(x), x_{l+1} = a(norm(W_l x_l + b_l)), a linear last layer.

    Shapes: (batch, *input_shape) → (batch, *output_shape). Any input shape will do; it is flattened.

    ``multilevel_mlp`` in the configs is this network, wide enough to be worth coarsening, with a multilevel schedule.

    Args:
        input_shape: shape of one sample.
        output_shape: shape of one prediction; (classes,) for classification, () for one number.
        hidden: widths of the hidden layers; none gives a linear map.
        activation: one of `ACTIVATIONS`.
        layer_norm: layer normalisation before each activation (Ba, Kiros, Hinton 2016).
        dropout: probability that a hidden unit is dropped in training (Srivastava et al. 2014).

    Raises:
        ConfigError: a width below 1, an unknown activation, or a dropout outside [0, 1).
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        output_shape: Sequence[int],
        hidden: Sequence[int] = (64, 64),
        activation: str = "gelu",
        layer_norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if any(width < 1 for width in hidden):
            raise ConfigError(f"model.hidden={list(hidden)}: every width must be at least 1")
        if not 0.0 <= dropout < 1.0:
            raise ConfigError(f"model.dropout={dropout} must lie in [0, 1)")
        widths = [prod(input_shape), *hidden]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers.append(nn.Linear(before, after))
            if layer_norm:
                layers.append(nn.LayerNorm(after))
            layers.append(make_activation(activation))
            if dropout > 0:
                layers.append(nn.Dropout(dropout))
        layers.append(nn.Linear(widths[-1], prod(output_shape)))
        self.layers = nn.Sequential(*layers)
        self.output_shape = tuple(output_shape)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, *input_shape) → (batch, *output_shape)."""
        y = self.layers(x.flatten(1))
        return y if len(self.output_shape) == 1 else y.reshape(-1, *self.output_shape)
