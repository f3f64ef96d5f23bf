"""The Fourier Neural Operator in one, two and three dimensions.

Shapes: B batch, C channels, n (m, l) cells in each direction, K kept frequencies in each direction.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from accelerator.errors import ConfigError
from domain.cross.model.activation import activation as make_activation


class SpectralConv(nn.Module):
    """Circular convolution with a kernel given by its K lowest Fourier coefficients: y = F⁻¹(W · F(x)).

    Shapes: (B, C_in, n[, m[, l]]) → (B, C_out, n[, m[, l]]). W_k is a C_in × C_out complex matrix for each kept
    frequency k: 0 … K−1 along the last direction (the others follow by symmetry, since x is real) and −K … K−1, in this
    order, along the others. W does not know n: the same operator acts on every resolution of at least 2K cells.

    ``weight`` is stored as real pairs, (2K₁, …, K_d, C_in, C_out, 2): fused optimizers and checkpoint formats do not
    take complex tensors. Frequencies come first, which makes the product a batch of contiguous matrices (1.5 times as
    fast as channels first).
    """

    def __init__(self, in_channels: int, out_channels: int, modes: Sequence[int], scale: float = 1.0) -> None:
        super().__init__()
        self.modes = tuple(modes)
        kept = [*(2 * k for k in self.modes[:-1]), self.modes[-1]]
        # E|W|² = 1/C_in, at scale 1, keeps the variance of a kept frequency.
        deviation = scale * (0.5 / in_channels) ** 0.5
        self.weight = nn.Parameter(torch.randn(*kept, in_channels, out_channels, 2) * deviation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, n[, m[, l]]) → (B, C_out, …), in the precision of the weight whatever autocast says."""
        # Sizes are read one by one: torch.fx cannot unpack a shape whose length it does not know.
        others = [(2 + i, x.shape[2 + i], k) for i, k in enumerate(self.modes[:-1])]
        # Each direction is cut to its kept frequencies before the next is transformed; irfft pads what was cut.
        spectrum = torch.fft.rfft(x.to(self.weight.dtype))[..., : self.modes[-1]]
        for dim, n, k in reversed(others):
            spectrum = torch.fft.fft(spectrum, dim=dim)
            spectrum = torch.cat([spectrum.narrow(dim, n - k, k), spectrum.narrow(dim, 0, k)], dim=dim)
        letters = "klm"[: len(self.modes)]
        weight = torch.view_as_complex(self.weight)
        product = torch.einsum(f"bi{letters},{letters}io->bo{letters}", spectrum, weight)
        for dim, n, k in others:
            behind = [0, 0] * (1 + len(self.modes) - dim)
            middle = functional.pad(product.narrow(dim, k, k), [*behind, 0, n - 2 * k])
            product = torch.fft.ifft(torch.cat([middle, product.narrow(dim, 0, k)], dim=dim), dim=dim)
        return torch.fft.irfft(product, n=x.shape[-1])

    def tensor_dimensions(self) -> dict[str, tuple[str, ...]]:
        """What lies on the weight's dimensions, for coarsening: frequencies (± where both signs are kept), channels."""
        directions = range(len(self.modes))
        frequencies = (f"{'±' if i < len(self.modes) - 1 else ''}modes[{i}]" for i in directions)
        return {"weight": (*frequencies, "in", "out", "")}


class FNO(nn.Module):
    """Fourier Neural Operator: lifting, layers v ← a(SpectralConv(v) + Wv + b), projection.

    Shapes: (B, C_in, n[, m[, l]]) → (B, C_out, n[, m[, l]]); one to three dimensions as ``input_shape`` has. All but
    the spectral convolutions act point by point, so a trained operator can be applied on another grid. Source: Li et
    al., "Fourier Neural Operator for Parametric Partial Differential Equations", ICLR 2021, without its padding for
    problems that are not periodic: there the coordinates and the pointwise path make up for the periodic kernel.

    Args:
        input_shape: (C_in, n), (C_in, n, m) or (C_in, n, m, l).
        output_shape: (C_out, …) on the same grid.
        width: channels of the layers.
        modes: frequencies kept in each direction, one number or one for each; at most half the cells.
        layers: number of spectral layers.
        projection: channels of the hidden layer of the projection.
        activation: one of `ACTIVATIONS`; none after the last spectral layer.
        coordinates: append the cell centres' coordinates, (i+½)/n, to the input channels.
        spectral_scale: of the initial spectral weights; at 1 a layer keeps the variance of what it passes.

    Raises:
        ConfigError: shapes that are not fields on one grid, modes beyond the Nyquist frequency, or no width or layers.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        output_shape: Sequence[int],
        width: int = 32,
        modes: int | Sequence[int] = 12,
        layers: int = 4,
        projection: int = 128,
        activation: str = "gelu",
        coordinates: bool = True,
        spectral_scale: float = 1.0,
    ) -> None:
        super().__init__()
        channels_in, *grid = input_shape
        if len(grid) not in (1, 2, 3):
            raise ConfigError(
                f"fno needs fields, (channels, n[, m[, l]]) a sample; the data gives inputs of shape "
                f"{tuple(input_shape)}: use model=mlp, or inputs on a grid (with data=poisson: data.inputs=field)"
            )
        if len(output_shape) != len(input_shape) or list(output_shape[1:]) != grid:
            raise ConfigError(
                f"fno gives a field on the grid of its input, {tuple(grid)}; the data gives targets of shape "
                f"{tuple(output_shape)}: use model=mlp, or targets on that grid (data=poisson: data.targets=solution)"
            )
        kept = [modes] * len(grid) if isinstance(modes, int) else list(modes)
        _check(grid, kept, width=width, layers=layers, projection=projection)

        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(grid) - 1]
        self.coordinates = coordinates
        self.lifting = conv(channels_in + len(grid) * coordinates, width, 1)
        self.spectral = nn.ModuleList(SpectralConv(width, width, kept, spectral_scale) for _ in range(layers))
        self.pointwise = nn.ModuleList(conv(width, width, 1) for _ in range(layers))
        self.activations = nn.ModuleList(
            make_activation(activation if layer < layers - 1 else "identity") for layer in range(layers)
        )
        self.projection = nn.Sequential(
            conv(width, projection, 1), make_activation(activation), conv(projection, output_shape[0], 1)
        )
        self.dimensions = range(2, 2 + len(grid))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, n[, m[, l]]) → (B, C_out, …) on any grid that carries the modes."""
        if self.coordinates:
            ones = torch.ones_like(x[:, :1])
            x = torch.cat([x, *((ones.cumsum(d) - 0.5) / x.shape[d] for d in self.dimensions)], dim=1)
        v = self.lifting(x)
        for spectral, pointwise, activation in zip(self.spectral, self.pointwise, self.activations, strict=True):
            v = activation(spectral(v) + pointwise(v))
        return self.projection(v)


def _check(grid: Sequence[int], modes: Sequence[int], **sizes: int) -> None:
    problems = [f"model.{name}={size} must be at least 1" for name, size in sizes.items() if size < 1]
    if len(modes) != len(grid):
        problems.append(f"model.modes={list(modes)}: one number for each of the {len(grid)} directions is needed")
    problems += [
        f"model.modes={kept}: a grid of {cells} cells carries between 1 and {cells // 2} frequencies (Nyquist): "
        f"set model.modes={max(cells // 2, 1)} or less, or take a finer grid"
        for kept, cells in zip(modes, grid, strict=False)
        if not 1 <= kept <= cells // 2
    ]
    if problems:
        raise ConfigError(dict.fromkeys(problems))
