"""Colour spaces in which a loss is nearer to what the eye sees."""

from __future__ import annotations

from torch import Tensor, nn

from accelerator.errors import ConfigError, did_you_mean
from domain.cv.kornia import kornia

SPACES = ("grayscale", "hls", "hsv", "lab", "linear_rgb", "luv", "xyz", "ycbcr", "yuv")


class ColorSpace(nn.Module):
    """RGB images in another colour space.

    Shapes: (batch, 3, height, width) → (batch, 3, height, width), or (batch, 1, height, width) for ``grayscale``.
    RGB values lie in [0, 1] (sRGB). ``lab`` and ``luv`` are the CIE 1976 spaces under the white point D65, L in
    [0, 100]; ``hsv`` and ``hls`` have their hue in radians, [0, 2π]; ``ycbcr`` and ``yuv`` follow ITU-R BT.601.
    Computed by ``kornia.color.rgb_to_<space>``, see its documentation for each matrix.

    Args:
        space: one of `SPACES`.

    Raises:
        ConfigError: unknown space, or kornia is missing.
    """

    random = False

    def __init__(self, space: str = "lab") -> None:
        super().__init__()
        if space not in SPACES:
            raise ConfigError(f"color_space: unknown space='{space}'{did_you_mean(space, SPACES)}")
        self.space = space
        self._convert = getattr(kornia("color"), f"rgb_to_{space}")

    def forward(self, x: Tensor) -> Tensor:
        """The image in the chosen space.

        Raises:
            ValueError: x has not three channels.
        """
        if x.ndim != 4 or x.shape[1] != 3:
            raise ValueError(
                f"color_space needs RGB images (batch, 3, height, width), not {tuple(x.shape)}: "
                "remove color_space from the transforms of this data"
            )
        return self._convert(x)

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        return f"space={self.space}"
