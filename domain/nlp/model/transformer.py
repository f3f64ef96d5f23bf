"""A decoder-only transformer.

Shapes: B batch, T positions, C channels (the width), H heads of D = C/H channels, V tokens in the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from accelerator.errors import ConfigError
from domain.cross.model.activation import activation as make_activation


class CausalSelfAttention(nn.Module):
    """y = W_o concat_h softmax(Q_h K_hᵀ/√D) V_h, where position t attends to positions ≤ t only.

    Shapes: (B, T, C) → (B, T, C). The size D of a head is fixed, their number is whatever the projections hold: a copy
    of the network with fewer heads runs the same code. Source: Vaswani et al., "Attention Is All You Need", 2017.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output = nn.Linear(width, width)
        self.head_size = width // heads

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) → (B, T, C)."""
        # (B, T, C) → (B, H, T, D)
        q, k, v = (
            projection(x).view(x.size(0), x.size(1), -1, self.head_size).transpose(1, 2)
            for projection in (self.query, self.key, self.value)
        )
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.output(y.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """x ← x + attention(norm(x)), then x ← x + mlp(norm(x)): the normalisation stands before each branch.

    Shapes: (B, T, C) → (B, T, C). Source: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: int, activation: str, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = CausalSelfAttention(width, heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, mlp_ratio * width), make_activation(activation), nn.Linear(mlp_ratio * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) → (B, T, C)."""
        x = x + self.dropout(self.attention(self.attention_norm(x)))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class Transformer(nn.Module):
    """A GPT: token and position embeddings, equal pre-norm blocks, a last norm, a linear head.

    Shapes: (B, T) int64 token numbers → (B, V, T) scores; those at position t depend on the tokens up to t only, so
    that all T next tokens are learned at once. Classes come second, as torch's cross-entropy has them. Shorter
    sequences are taken too. Source: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019
    (GPT-2), without dropout of the attention weights, and with a head of its own weights, not those of the embedding.

    Weights start as N(0, 1/(4C)), GPT-2's 0.02² at its width of 768, those that close a branch divided by √(2·blocks);
    biases as 0.

    Args:
        input_shape: (T,), the longest sequence.
        output_shape: (V, T).
        width: channels C between the blocks; a multiple of the number of heads.
        heads: attention heads in each block.
        blocks: equal residual blocks.
        mlp_ratio: hidden units of a block's MLP for each channel.
        activation: one of `ACTIVATIONS`, in the MLPs.
        dropout: probability that an entry of the embeddings or of a branch's result is dropped in training.

    Raises:
        ConfigError: the data are no token sequences with a class for each position, or a knob is out of its range.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        output_shape: Sequence[int],
        width: int = 64,
        heads: int = 4,
        blocks: int = 4,
        mlp_ratio: int = 4,
        activation: str = "gelu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if len(input_shape) != 1 or len(output_shape) != 2 or output_shape[1] != input_shape[0]:
            raise ConfigError(
                f"transformer needs sequences of T tokens and a class for each of them, (T,) → (classes, T) a sample; "
                f"the data gives inputs of shape {tuple(input_shape)}: use model=mlp, or data=text "
                f"(outputs here: {tuple(output_shape)})"
            )
        _check(width, dropout, heads=heads, blocks=blocks, mlp_ratio=mlp_ratio)
        vocabulary, length = output_shape
        self.token = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(length, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(Block(width, heads, mlp_ratio, activation, dropout) for _ in range(blocks)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary)
        self._initialize(0.5 / width**0.5, blocks)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, t) int64 → (B, V, t), for t ≤ T."""
        positions = torch.ones_like(tokens[:1]).cumsum(1) - 1
        x = self.dropout(self.token(tokens) + self.position(positions))
        return self.head(self.norm(self.blocks(x))).transpose(1, 2)

    def _initialize(self, std: float, blocks: int) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=std)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        for block in self.blocks:
            assert isinstance(block, Block)
            for closing in (block.attention.output, block.mlp[-1]):
                assert isinstance(closing, nn.Linear)
                # The variance of the residual sum then does not grow with the depth.
                nn.init.normal_(closing.weight, std=std / (2 * blocks) ** 0.5)


def _check(width: int, dropout: float, **counts: int) -> None:
    problems = [f"model.{name}={count} must be at least 1" for name, count in counts.items() if count < 1]
    if width < 1 or (counts["heads"] >= 1 and width % counts["heads"]):
        problems.append(f"model.width={width} must be a positive multiple of model.heads={counts['heads']}")
    if not 0.0 <= dropout < 1.0:
        problems.append(f"model.dropout={dropout} must lie in [0, 1)")
    if problems:
        raise ConfigError(problems)
