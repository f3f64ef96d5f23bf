"""When each step ran, on a terminal and as a picture."""

import doctest

from accelerator.pipeline import timeline
from accelerator.pipeline.timeline import Bar, as_text, draw


def test_the_example_is_what_is_printed():
    assert doctest.testmod(timeline).attempted == 1
    assert doctest.testmod(timeline).failed == 0


def test_bars_stand_side_by_side_and_the_shortest_can_be_seen():
    bars = [Bar("a", 0, 10), Bar("long name", 5, 10), Bar("blink", 10, 10.001)]
    assert as_text(bars, width=10) == [
        "a         │██████████",
        "long name │     █████",
        "blink     │         █",
        "          └──────────",
        "           0     10 s",
    ]
    assert as_text([]) == []


def test_a_picture_is_drawn_where_something_ran(tmp_path):
    assert not draw([], tmp_path / "none.png", "title")
    assert not (tmp_path / "none.png").exists()
    assert draw([Bar("a", 0, 1), Bar("b", 1, 3, flaw="failed")], tmp_path / "some.png", "title")
    assert (tmp_path / "some.png").read_bytes()[:4] == b"\x89PNG"
