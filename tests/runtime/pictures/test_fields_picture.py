import numpy as np
import pytest
import torch
from drawn_figures import is_picture, kept

from accelerator.runtime.pictures import fields
from accelerator.runtime.pictures.fields import are_fields, draw_fields


@pytest.mark.parametrize(
    ("shape", "dtype", "expected"),
    [
        ((4, 1, 8, 8), torch.float32, True),
        ((4, 2, 64), torch.float64, True),
        ((4, 1, 8, 7), torch.float32, False),
        ((4, 1), torch.float32, False),
        ((4,), torch.int64, False),
        ((4, 1, 8, 8), torch.int64, False),
        ((4, 1, 8, 8), torch.complex64, False),
        ((4, 1, 8, 8, 8), torch.float32, False),
    ],
)
def test_fields_are_told_from_other_targets(shape, dtype, expected):
    values = torch.zeros(shape, dtype=dtype)
    assert are_fields(values, values) is expected


def test_a_target_of_another_shape_is_no_field():
    assert not are_fields(torch.zeros(2, 1, 8, 8), torch.zeros(2, 2, 8, 8))


def test_truth_and_prediction_share_a_scale_and_the_error_has_its_own(tmp_path, monkeypatch):
    figures = kept(monkeypatch, fields)
    truth = torch.linspace(-1, 3, 64, dtype=torch.float64).view(1, 1, 8, 8) * torch.tensor([1.0, 2.0]).view(2, 1, 1, 1)
    draw_fields(1.25 * truth, truth, tmp_path / "p.png", name="test")
    assert is_picture(tmp_path / "p.png")
    images = [axes.images[0] for axes in figures[0].axes if axes.images]
    panels = np.array(images).reshape(2, 3)
    for row, most in enumerate((1.0, 2.0)):
        assert [image.get_clim() for image in panels[row]] == [
            pytest.approx((-most, 3 * most)),
            pytest.approx((-most, 3 * most)),
            pytest.approx((-0.75 * most, 0.75 * most)),
        ]
        assert np.array_equal(panels[row][0].get_array(), truth[row, 0])
        assert np.allclose(panels[row][2].get_array(), 0.25 * truth[row, 0])
        assert panels[row][2].axes.get_title(loc="left") == "prediction − truth (relative L2 0.25)"
        assert panels[row][0].axes.get_ylabel() == f"test sample {row + 1}"


def test_of_several_channels_those_of_the_first_sample_are_drawn(tmp_path, monkeypatch):
    figures = kept(monkeypatch, fields)
    truth = torch.ones(5, 4, 16) * torch.arange(1.0, 5).view(1, 4, 1)
    draw_fields(truth * 1.5, truth, tmp_path / "p.png", name="val")
    left, right = figures[0].axes[::2], figures[0].axes[1::2]
    assert [axes.get_ylabel() for axes in left] == [f"val sample 1\nchannel {i} of 4" for i in (1, 2, 3)]
    assert [axes.lines[0].get_ydata()[0] for axes in left] == [1, 2, 3]  # the truth
    assert [axes.lines[1].get_ydata()[0] for axes in right] == [0.5, 1, 1.5]
    assert all(axes.get_title(loc="left") == "prediction − truth (relative L2 0.5)" for axes in right)


def test_the_error_of_a_zero_truth_is_absolute(tmp_path, monkeypatch):
    figures = kept(monkeypatch, fields)
    draw_fields(torch.full((1, 1, 9, 16), 0.25), torch.zeros(1, 1, 9, 16), tmp_path / "p.png", name="test")
    titles = [axes.get_title(loc="left") for axes in figures[0].axes]
    assert "prediction − truth (L2 3, truth is zero)" in titles


def test_a_perfect_prediction_and_a_constant_truth_can_be_drawn(tmp_path):
    same = torch.ones(1, 1, 8, 8)
    draw_fields(same, same, tmp_path / "p.png", name="test")
    assert is_picture(tmp_path / "p.png")
