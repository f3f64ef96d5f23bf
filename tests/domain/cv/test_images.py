"""Digits, SSIM, colour spaces and the convolutional network."""

import sys

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from accelerator.errors import ConfigError
from domain.cv.data.digits import digits
from domain.cv.loss.ssim import SSIM
from domain.cv.model.cnn import CNN
from domain.cv.transform.loss.color_space import ColorSpace


def test_digits_are_the_published_set_with_grey_values_in_the_unit_interval():
    data = digits()
    images = torch.cat([images for images, _ in data.values()])
    labels = torch.cat([labels for _, labels in data.values()])
    assert labels.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert images.min() == 0
    assert images.max() == 1
    assert round(images.double().sum().item() * 16) == 561718


def test_every_split_has_the_digits_in_equal_proportions():
    for _, labels in digits().values():
        shares = labels.bincount(minlength=10) / len(labels)
        assert (shares - 0.1).abs().max() < 0.006


def test_fractions_that_leave_nothing_to_train_on_are_refused():
    with pytest.raises(ConfigError, match=r"data.val_fraction=0.5 and data.test_fraction=0.5"):
        digits(val_fraction=0.5, test_fraction=0.5)


def test_ssim_agrees_with_its_definition():
    generator = torch.Generator().manual_seed(0)
    p, t = torch.rand(2, 1, 1, 16, 20, generator=generator, dtype=torch.float64)

    def mean(image):  # the Gaussian window of 11 pixels, mirrored at the border
        return gaussian_filter(image[0, 0].numpy(), 1.5, mode="mirror", radius=5)

    mp, mt = mean(p), mean(t)
    vp, vt, cov = mean(p * p) - mp**2, mean(t * t) - mt**2, mean(p * t) - mp * mt
    ssim = (2 * mp * mt + 1e-4) * (2 * cov + 9e-4) / ((mp**2 + mt**2 + 1e-4) * (vp + vt + 9e-4))
    assert SSIM()(p, t).item() == pytest.approx(1 - np.mean(ssim), rel=1e-6)


def test_images_smaller_than_the_window_are_refused():
    with pytest.raises(ValueError, match="window of 11 pixels does not fit into images of 8×8"):
        SSIM()(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8))


def test_an_even_window_is_refused():
    with pytest.raises(ConfigError, match=r"loss.window_size=4"):
        SSIM(window_size=4)


def test_grey_images_have_no_colour_space():
    with pytest.raises(ValueError, match=r"needs RGB images .* not \(2, 1, 8, 8\)"):
        ColorSpace()(torch.zeros(2, 1, 8, 8))


def test_unknown_colour_space_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="unknown space='ycbr' — did you mean 'ycbcr'"):
        ColorSpace("ycbr")


class WithoutKornia:
    """An import finder of a machine that has no kornia."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "kornia":
            raise ModuleNotFoundError(name=name)


@pytest.mark.parametrize("build", [SSIM, ColorSpace])
def test_missing_kornia_is_told_with_what_to_install(build, monkeypatch):
    for module in [name for name in sys.modules if name.split(".")[0] == "kornia"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "meta_path", [WithoutKornia, *sys.meta_path])
    with pytest.raises(ConfigError, match="pip install kornia"):
        build()


def test_cnn_serves_images_of_every_size():
    model = CNN((1, 8, 8), (10,)).eval()
    assert model(torch.rand(2, 1, 17, 33)).shape == (2, 10)


def test_cnn_sees_a_shift_by_its_total_stride_only_at_the_border():
    model = CNN((1, 64, 64), (3,), channels=[4, 4]).eval().double()
    image = torch.zeros(1, 1, 64, 64, dtype=torch.float64)
    image[..., 20:30, 20:30] = torch.rand(10, 10)
    torch.testing.assert_close(model(image.roll((2, 4), (-2, -1))), model(image))


@pytest.mark.parametrize("knobs", [{"channels": []}, {"channels": [0]}, {"kernel_size": 2}, {"dropout": 1.0}])
def test_cnn_refuses_knobs_out_of_range(knobs):
    (key,) = knobs
    with pytest.raises(ConfigError, match=rf"model\.{key}="):
        CNN((1, 8, 8), (10,), **knobs)
