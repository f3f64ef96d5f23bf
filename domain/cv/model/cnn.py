"""A plain convolutional network."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from torch import Tensor, nn

from accelerator.errors import ConfigError
from domain.cross.model.activation import activation as make_activation


class CNN(nn.Module):
    """Blocks of convolution – batch norm – activation, the mean over all positions, a linear head.

    Shapes: (batch, channels, height, width) → (batch, *output_shape). The first block keeps the image's size, every
    further one halves it by a stride of 2 (Springenberg et al., "Striving for Simplicity", 2015). The mean over
    positions (Lin et al., "Network in Network", 2014) makes the head independent of the image's size.

    Args:
        input_shape: (channels, height, width).
        output_shape: shape of one prediction; (classes,) for classification.
        channels: output channels of each block.
        kernel_size: of every convolution; odd, so that the padding is symmetric.
        activation: one of `ACTIVATIONS`.
        batch_norm: batch normalisation in every block (Ioffe, Szegedy 2015).
        dropout: probability that a channel's mean is dropped before the head in training.

    Raises:
        ConfigError: the input is not an image, or a knob is out of its range.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        output_shape: Sequence[int],
        channels: Sequence[int] = (32, 64, 128),
        kernel_size: int = 3,
        activation: str = "relu",
        batch_norm: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if len(input_shape) != 3:
            raise ConfigError(
                f"cnn needs images, (channels, height, width) a sample; the data gives inputs of shape "
                f"{tuple(input_shape)}: use model=mlp, or data that keeps the shape of its images"
            )
        _check(channels, kernel_size, dropout)
        widths = [input_shape[0], *channels]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            stride = 2 if layers else 1
            # A bias before batch norm would be subtracted again.
            layers.append(nn.Conv2d(before, after, kernel_size, stride, kernel_size // 2, bias=not batch_norm))
            if batch_norm:
                layers.append(nn.BatchNorm2d(after))
            layers.append(make_activation(activation))
        self.blocks = nn.Sequential(*layers)
        self.pooling = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(widths[-1], prod(output_shape))
        self.output_shape = tuple(output_shape)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) → (batch, *output_shape)."""
        y = self.head(self.dropout(self.pooling(self.blocks(x)).flatten(1)))
        return y if len(self.output_shape) == 1 else y.reshape(-1, *self.output_shape)


def _check(channels: Sequence[int], kernel_size: int, dropout: float) -> None:
    problems = []
    if not channels or any(width < 1 for width in channels):
        problems.append(f"model.channels={list(channels)}: at least one block is needed, each of at least 1 channel")
    if kernel_size < 1 or kernel_size % 2 == 0:
        problems.append(f"model.kernel_size={kernel_size} must be odd and positive")
    if not 0.0 <= dropout < 1.0:
        problems.append(f"model.dropout={dropout} must lie in [0, 1)")
    if problems:
        raise ConfigError(problems)
