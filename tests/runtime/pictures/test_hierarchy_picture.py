import pytest
from drawn_figures import is_picture, kept

from accelerator.runtime.pictures import hierarchy
from accelerator.runtime.pictures.hierarchy import draw_hierarchy

WIDTHS = [[1024, 48], [512, 24], [256, 24]]  # the second group is coarsened once


def test_a_small_hierarchy_is_drawn_with_its_numbers(tmp_path, monkeypatch):
    figures = kept(monkeypatch, hierarchy)
    draw_hierarchy(WIDTHS, (2_132_992, 804_864, 999), (1.0, 0.37629, 0.15722), tmp_path / "p.png")
    assert is_picture(tmp_path / "p.png")
    widths, parameters, costs = figures[0].axes
    assert sorted(text.get_text() for text in widths.texts) == ["1024", "24", "256", "48", "512"]
    assert [text.get_text() for text in parameters.texts] == ["2.13 M", "805 k", "999"]
    assert [bar.get_width() for bar in parameters.patches] == [2_132_992, 804_864, 999]
    assert [text.get_text() for text in costs.texts] == ["1", "0.38", "0.16"]
    assert [label.get_text() for label in parameters.get_yticklabels()] == ["level 0 (finest)", "level 1", "level 2"]


@pytest.mark.parametrize("levels", [2, 6, 9])
def test_many_groups_are_one_outline_a_level(tmp_path, monkeypatch, levels):
    figures = kept(monkeypatch, hierarchy)
    fine = [512] * 20 + [1024] * 20
    widths = [[width >> level for width in fine] for level in range(levels)]
    draw_hierarchy(widths, [4**9 >> level for level in range(levels)], [4.0**-i for i in range(levels)], tmp_path / "p")
    axes = figures[0].axes[0]
    assert sorted(patch.get_data().values.tolist() for patch in axes.patches) == sorted(widths)
    assert not axes.texts


def test_levels_that_differ_in_no_width_are_drawn_without_any(tmp_path, monkeypatch):
    figures = kept(monkeypatch, hierarchy)
    draw_hierarchy([[], []], (100, 100), (1.0, 0.25), tmp_path / "p.png")
    assert [axes.get_title(loc="left") for axes in figures[0].axes] == ["parameters", "relative FLOPs per step"]


def test_a_level_with_fewer_groups_has_fewer_dashes(tmp_path, monkeypatch):
    figures = kept(monkeypatch, hierarchy)
    draw_hierarchy([[64, 48, 32], [64, 24]], (100, 50), (1.0, 0.25), tmp_path / "p.png")
    assert sorted(text.get_text() for text in figures[0].axes[0].texts) == ["24", "32", "48", "64"]
