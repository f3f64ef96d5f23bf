import numpy as np
import pytest
from drawn_figures import is_picture, kept
from matplotlib.colors import to_hex

from accelerator.runtime.journal import Journal
from accelerator.runtime.pictures import loss
from accelerator.runtime.pictures.history import read_history
from accelerator.runtime.pictures.loss import draw_loss, draw_runs
from accelerator.runtime.pictures.style import colour

COSTS = (1.0, 0.5, 0.25)


def history(folder, stages, *, losses=lambda step: 1 / step):
    step, work = 0, 0.0
    with Journal(folder / "journal.jsonl") as journal:
        for level, steps in stages:
            journal.metrics({"work": work, "level": level}, step)
            for _ in range(steps):
                step, work = step + 1, work + COSTS[level]
                journal.metric("train/loss", losses(step), step)
            journal.metric("val/loss", losses(step), step)
    return read_history(folder / "journal.jsonl", COSTS)


def colours(collection):
    return [to_hex(rgba).upper() for rgba in collection.get_colors()]


def test_a_cycle_is_drawn_by_level_over_work(tmp_path, monkeypatch):
    figures = kept(monkeypatch, loss)
    assert draw_loss(history(tmp_path, [(0, 2), (1, 4), (2, 8), (1, 4), (0, 2)]), tmp_path / "plots" / "p.png")
    assert is_picture(tmp_path / "plots" / "p.png")
    (figure,) = figures
    above, below = figure.axes
    moves, dashes = below.collections
    assert [segment.tolist() for segment in dashes.get_segments()] == [
        [[0, 0], [2, 0]], [[2, 1], [4, 1]], [[4, 2], [6, 2]], [[6, 1], [8, 1]], [[8, 0], [10, 0]],
    ]  # fmt: skip
    assert colours(dashes) == [colour(level) for level in (0, 1, 2, 1, 0)]
    assert [segment[0][0] for segment in moves.get_segments()] == [2, 4, 6, 8]
    assert below.yaxis_inverted()  # the finest on top
    validation = {line.get_color(): line.get_xydata().tolist() for line in above.lines if line.get_marker() == "o"}
    assert validation == {
        colour(0): [[2, 1 / 2], [10, 1 / 20]],
        colour(1): [[4, 1 / 6], [8, 1 / 18]],
        colour(2): [[6, 1 / 14]],
    }
    marks = [line.get_xdata()[0] for line in above.lines if len(set(line.get_xdata())) == 1 < len(line.get_xdata())]
    assert marks == [2, 4, 6, 8]
    assert above.get_yscale() == "log"


def test_two_hundred_stages_are_marked_below_the_curves_only(tmp_path, monkeypatch):
    figures = kept(monkeypatch, loss)
    draw_loss(history(tmp_path, [(0, 1), (1, 2), (2, 3), (1, 2)] * 50), tmp_path / "p.png")
    above, below = figures[0].axes
    assert len(below.collections[1].get_segments()) == 200
    assert len(above.lines) == 6  # for each level the means of its short stages, and its validations
    means = [line for line in above.lines if line.get_marker() == "."]
    assert sorted(len(line.get_xdata()) for line in means) == [50, 50, 100]
    first = next(line for line in means if line.get_color() == colour(2))
    assert first.get_xydata()[0].tolist() == pytest.approx([2.5, (1 / 4 + 1 / 5 + 1 / 6) / 3])


def test_training_is_smoothed_by_means_of_as_many_steps(tmp_path, monkeypatch):
    figures = kept(monkeypatch, loss)
    monkeypatch.setattr(loss, "_STEPS", 4)
    draw_loss(history(tmp_path, [(0, 40)], losses=lambda step: 2.0 - step % 2), tmp_path / "p.png")
    (axes,) = figures[0].axes
    (curve,) = axes.collections[0].get_segments()
    assert curve[:, 0].tolist() == [2.5 + 4 * i for i in range(10)]
    assert curve[:, 1].tolist() == [1.5] * 10


@pytest.mark.parametrize(
    ("losses", "scale"),
    [
        (lambda step: 10.0**-step, "log"),
        (lambda step: 1.0 - step, "linear"),
        (lambda step: 0.5 if step > 3 else 0.0, "linear"),
        (lambda step: 1 + step / 100, "linear"),
    ],
)
def test_the_axis_is_logarithmic_if_every_loss_is_positive_and_they_differ(tmp_path, monkeypatch, losses, scale):
    figures = kept(monkeypatch, loss)
    draw_loss(history(tmp_path, [(0, 6)] * 2, losses=losses), tmp_path / "p.png")
    assert figures[0].axes[0].get_yscale() == scale


def test_without_a_finite_loss_there_is_no_picture(tmp_path):
    assert not draw_loss(history(tmp_path, [(0, 3)], losses=lambda step: np.nan), tmp_path / "p.png")
    assert not (tmp_path / "p.png").exists()


def test_one_step_alone_is_drawn(tmp_path):
    assert draw_loss(history(tmp_path, [(0, 1)]), tmp_path / "p.png")


def test_matplotlib_is_left_as_the_user_set_it(tmp_path, monkeypatch):
    import matplotlib as mpl

    monkeypatch.setitem(mpl.rcParams, "font.size", 31)
    before = dict(mpl.rcParams)
    draw_loss(history(tmp_path, [(0, 6)]), tmp_path / "p.png")
    assert dict(mpl.rcParams) == before


def test_against_steps_every_step_is_as_wide_as_any(tmp_path, monkeypatch):
    figures = kept(monkeypatch, loss)
    draw_loss(history(tmp_path, [(2, 8), (0, 2)]), tmp_path / "p.png", against=loss.STEPS)
    _, below = figures[0].axes
    assert [segment.tolist() for segment in below.collections[1].get_segments()] == [
        [[0, 2], [8, 2]],
        [[8, 0], [10, 0]],
    ]
    assert below.get_xlabel() == "steps done"


def test_several_runs_have_a_colour_each_and_coarse_levels_thin_lines(tmp_path, monkeypatch):
    figures = kept(monkeypatch, loss)
    histories = []
    for name, stages in (("a", [(0, 4)]), ("b", [(1, 4), (0, 2)])):
        (tmp_path / name).mkdir()
        histories.append(history(tmp_path / name, stages))
    assert draw_runs(histories, tmp_path / "p.svg")
    (axes,) = figures[0].axes
    drawn = [(line.get_color(), line.get_linewidth(), line.get_xydata().tolist()) for line in axes.lines]
    assert drawn == [
        (colour(0), 1.6, [[4, 1 / 4]]),
        (colour(1), 0.8, [[2, 1 / 4]]),
        (colour(1), 1.6, [[4, 1 / 6]]),
    ]
    assert not draw_runs([], tmp_path / "q.svg")
    assert not (tmp_path / "q.svg").exists()


def test_more_runs_than_colours_are_told_apart_by_dashes():
    lines = [loss.run_line(number) for number in range(28)]
    assert lines[0] == (colour(0), "-")
    assert lines[7] == (colour(0), "--")
    assert len(set(lines)) == 28


def test_the_text_of_an_svg_is_text_and_two_drawings_are_the_same(tmp_path):
    told = history(tmp_path, [(1, 8), (0, 4)])
    for name in ("p.svg", "q.svg"):
        assert draw_loss(told, tmp_path / name)
    written = (tmp_path / "p.svg").read_text()
    assert ">level 0 (finest)</text>" in written
    assert written == (tmp_path / "q.svg").read_text()
