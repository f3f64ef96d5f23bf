"""Structural similarity as a loss."""

from __future__ import annotations

from torch import Tensor

from accelerator.errors import ConfigError
from domain.cv.kornia import kornia


class SSIM:
    """1 − SSIM(p, t), mean over batch, channels and positions; 0 for equal images, at most 2.

    SSIM = (2μ_pμ_t + c₁)(2σ_pt + c₂) / ((μ_p² + μ_t² + c₁)(σ_p² + σ_t² + c₂)), with means and (co)variances under a
    Gaussian window of standard deviation 1.5 pixels, c₁ = (0.01 L)² and c₂ = (0.03 L)². Computed by
    `kornia.metrics.ssim`. Source: Wang, Bovik, Sheikh, Simoncelli, "Image Quality Assessment: From Error Visibility to
    Structural Similarity", IEEE Trans. Image Process. 13 (2004).

    Args:
        window_size: pixels across the window; odd, at most the image's height and width.
        max_value: L, the range of the pixel values.

    Raises:
        ConfigError: kornia is missing, or the window is not odd.
    """

    def __init__(self, window_size: int = 11, max_value: float = 1.0) -> None:
        if window_size < 1 or window_size % 2 == 0:
            raise ConfigError(f"loss.window_size={window_size} must be odd and positive")
        self.window_size = window_size
        self.max_value = max_value
        self._ssim = kornia("metrics").ssim

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        """1 − SSIM, 0-dimensional; both (batch, channels, height, width).

        Raises:
            ValueError: shapes that differ, are not images, or are smaller than the window.
        """
        if prediction.shape != target.shape or prediction.ndim != 4:
            raise ValueError(
                f"ssim compares images (batch, channels, height, width) of one shape, not a prediction of shape "
                f"{tuple(prediction.shape)} with a target of {tuple(target.shape)}"
            )
        if min(prediction.shape[2:]) < self.window_size:
            raise ValueError(
                f"ssim: a window of {self.window_size} pixels does not fit into images of "
                f"{prediction.shape[2]}×{prediction.shape[3]}: set loss.window_size to an odd number that does"
            )
        return 1 - self._ssim(prediction, target, self.window_size, self.max_value).mean()
