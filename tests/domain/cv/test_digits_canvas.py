"""Digits on a canvas."""

import pytest
import torch

from accelerator.errors import ConfigError
from domain.cv.data.digits import digits

PLAIN = {"clutter": 0, "noise": 0.0, "placements": 1}


@pytest.fixture(scope="module")
def plain():
    """The test split's scans, and the same on canvases of 64 pixels with nothing else on them."""
    scans, labels = digits()["test"]
    images, same = digits(canvas=64, **PLAIN)["test"]
    assert torch.equal(labels, same)
    return scans, images


def test_a_scan_is_whole_its_brightness_grows_by_the_square_of_its_enlargement(plain):
    scans, images = plain
    side = ((images.sum((1, 2, 3)) / scans.sum((1, 2, 3))) ** 0.5) * 8
    assert side.min() > 64 * 3 / 8 - 0.5
    assert side.max() < 64 * 3 / 4 + 0.5
    assert side.std() == pytest.approx(64 * 3 / 8 / 12**0.5, rel=0.1)  # uniform


def test_the_seed_determines_the_enlargements():
    def sides(seed):
        scans, images = (digits(canvas=canvas, **PLAIN, seed=seed)["val"][0] for canvas in (None, 64))
        return ((images.sum((1, 2, 3)) / scans.sum((1, 2, 3))) ** 0.5) * 8

    assert (sides(1) - sides(2)).abs().mean() > 5  # of independent numbers, uniform over 24: a third of it


def test_scans_lie_anywhere_on_the_canvas(plain):
    _, images = plain
    pixels = torch.arange(64.0)
    rows, columns = ((images.sum(d) * pixels).sum((1, 2)) / images.sum((1, 2, 3)) for d in (3, 2))
    for centre in (rows, columns):
        assert centre.mean() == pytest.approx(31.5, abs=1.5)
        assert centre.std() > 5


def test_clutter_only_adds_light_and_noise_has_its_deviation():
    images, _ = digits(canvas=32, **PLAIN)["train"]
    cluttered, _ = digits(canvas=32, **PLAIN | {"clutter": 3})["train"]
    assert (cluttered - images).min() >= 0
    added = (cluttered > images).float().mean((1, 2, 3))
    assert 0.02 < added.mean() < 3 * (4 / 8 * 3 / 8 + 1 / 32) ** 2
    noisy, _ = digits(canvas=32, **PLAIN | {"noise": 0.05})["train"]
    inside = (images > 0.3) & (images < 0.7)
    assert (noisy - images)[inside].std() == pytest.approx(0.05, rel=0.01)
    assert noisy.min() == 0
    assert noisy.max() == 1


def test_every_placement_of_a_scan_is_in_its_split_with_its_label():
    once, labels = digits(canvas=24, **PLAIN)["val"]
    images, repeated = digits(canvas=24, **PLAIN | {"placements": 3})["val"]
    assert torch.equal(repeated, labels.repeat(3))
    assert len(images) == 3 * len(once)
    assert len(images.flatten(1).unique(dim=0)) == len(images)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"canvas": 21}, "data.canvas=21 has no room for scans of 8 pixels: at least 22 are needed"),
        ({"canvas": 32, "placements": 0}, "data.placements=0 must be at least 1"),
        ({"canvas": 32, "clutter": -1}, "data.clutter=-1 must be at least 0"),
        ({"canvas": 32, "noise": -0.1}, "data.noise=-0.1 must be at least 0"),
    ],
)
def test_knobs_out_of_range_are_refused(knobs, message):
    with pytest.raises(ConfigError, match=message):
        digits(**knobs)
