"""A small residual network."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from torch import Tensor, nn

from accelerator.errors import ConfigError, did_you_mean
from domain.cross.model.activation import activation as make_activation

NORMS = ("batch", "group")


class BasicBlock(nn.Module):
    """y = a(norm(conv(a(norm(conv(x))))) + shortcut(x)), two 3×3 convolutions.

    Shapes: (batch, before, height, width) → (batch, after, ⌈height/stride⌉, ⌈width/stride⌉). The shortcut is x itself
    where the shapes agree, else a 1×1 convolution and a norm ("option B" of He et al.).
    """

    def __init__(
        self, before: int, after: int, stride: int, norm: str, groups: int, activation: str, zero_init: bool
    ) -> None:
        super().__init__()
        last_norm = _norm(norm, after, groups)
        self.branch = nn.Sequential(
            _conv(before, after, 3, stride),
            _norm(norm, after, groups),
            make_activation(activation),
            _conv(after, after, 3),
            last_norm,
        )
        self.shortcut = (
            nn.Identity()
            if stride == 1 and before == after
            else nn.Sequential(_conv(before, after, 1, stride), _norm(norm, after, groups))
        )
        self.activation = make_activation(activation)
        if zero_init:
            nn.init.zeros_(last_norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, before, height, width) → (batch, after, ⌈height/stride⌉, ⌈width/stride⌉)."""
        return self.activation(self.branch(x) + self.shortcut(x))


class ResNet(nn.Module):
    """A 3×3 stem, stages of basic blocks, the mean over all positions, a linear head.

    Shapes: (batch, channels, height, width) → (batch, *output_shape), for images of every size. The first stage keeps
    the image's size, each further one halves it in its first block; within a stage the other blocks are equal. This is
    the network for small images of He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2,
    with their initialisation of the convolutions and projections for the shortcuts that change shape; three blocks in
    each of the stages (16, 32, 64) are its 20 layers.

    Args:
        input_shape: (channels, height, width).
        output_shape: shape of one prediction; (classes,) for classification.
        channels: of each stage.
        blocks: residual blocks in each stage.
        norm: ``batch`` (Ioffe, Szegedy 2015), or ``group``, which does not see the rest of the batch (Wu, He 2018).
        groups: of the group norms; divides the channels of every stage.
        activation: one of `ACTIVATIONS`.
        zero_init: the last norm of each branch starts as 0, so that every block starts as its shortcut (Goyal et al.,
            "Accurate, Large Minibatch SGD", 2017).

    Raises:
        ConfigError: the input is not an image, or a knob is out of its range.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        output_shape: Sequence[int],
        channels: Sequence[int] = (16, 32, 64),
        blocks: int = 2,
        norm: str = "batch",
        groups: int = 8,
        activation: str = "relu",
        zero_init: bool = False,
    ) -> None:
        super().__init__()
        if len(input_shape) != 3:
            raise ConfigError(
                f"resnet needs images, (channels, height, width) a sample; the data gives inputs of shape "
                f"{tuple(input_shape)}: use model=mlp, or data that keeps the shape of its images"
            )
        _check(channels, blocks, norm, groups)
        self.stem = nn.Sequential(
            _conv(input_shape[0], channels[0], 3), _norm(norm, channels[0], groups), make_activation(activation)
        )
        self.stages = nn.Sequential()
        before = channels[0]
        for after in channels:
            stride = 2 if len(self.stages) else 1
            stage = nn.Sequential()
            for _ in range(blocks):
                stage.append(BasicBlock(before, after, stride, norm, groups, activation, zero_init))
                before, stride = after, 1
            self.stages.append(stage)
        self.pooling = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(before, prod(output_shape))
        self.output_shape = tuple(output_shape)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) → (batch, *output_shape)."""
        y = self.head(self.pooling(self.stages(self.stem(x))).flatten(1))
        return y if len(self.output_shape) == 1 else y.reshape(-1, *self.output_shape)


def _conv(before: int, after: int, kernel_size: int, stride: int = 1) -> nn.Conv2d:
    # A bias before a norm would be subtracted again.
    conv = nn.Conv2d(before, after, kernel_size, stride, kernel_size // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def _norm(norm: str, channels: int, groups: int) -> nn.BatchNorm2d | nn.GroupNorm:
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.GroupNorm(groups, channels)


def _check(channels: Sequence[int], blocks: int, norm: str, groups: int) -> None:
    problems = []
    if not channels or any(width < 1 for width in channels):
        problems.append(f"model.channels={list(channels)}: at least one stage is needed, each of at least 1 channel")
    if blocks < 1:
        problems.append(f"model.blocks={blocks}: each stage needs at least one block")
    if norm not in NORMS:
        problems.append(f"unknown model.norm '{norm}'{did_you_mean(norm, NORMS)}")
    if norm == "group" and (groups < 1 or any(width % groups for width in channels)):
        problems.append(f"model.groups={groups} must divide the channels of every stage, {list(channels)}")
    if problems:
        raise ConfigError(problems)
