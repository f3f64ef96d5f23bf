"""Tables that fit the terminal."""

import pytest

from accelerator.cli.tables import Column, console, fitted


@pytest.fixture
def shown(monkeypatch, capsys):
    """What a table looks like on a terminal without colours, and what there was no room for."""

    def show(columns, width):
        monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
        monkeypatch.setattr("rich.console.Console.is_terminal", False)
        monkeypatch.setenv("COLUMNS", str(width))
        out = console()
        made, hidden = fitted(out, columns)
        out.print(made)
        return [line.rstrip() for line in capsys.readouterr().out.splitlines()], hidden

    return show


def test_what_room_there_is_goes_in_equal_parts_to_those_that_want_more(shown):
    columns = [
        Column("a", ["1234"]),
        Column("b", ["b" * 20], least=4),
        Column("c", ["c" * 20], least=4, whole=True),
        Column("d", ["d" * 7], least=4),
    ]
    # 34 characters but for three gaps are 28: 4, 4 + 4, 4 + 5 and the 7 that d wants.
    lines, hidden = shown(columns, 34)
    assert lines == [
        "a     b         c          d",
        "1234  bbbbbbb…  ccccccccc  ddddddd",
        "                ccccccccc",
        "                cc",
    ]
    assert hidden == []


def test_the_greatest_rank_goes_first_and_what_has_none_is_folded(shown):
    columns = [Column("a", ["a" * 12]), Column("b", ["b" * 6], rank=1), Column("c", ["c" * 6], rank=2)]
    assert shown(columns, 28) == (["a             b       c", f"{'a' * 12}  bbbbbb  cccccc"], [])
    assert shown(columns, 27) == (["a             b", f"{'a' * 12}  bbbbbb"], ["c"])
    assert shown(columns, 10) == (["a", "a" * 10, "aa"], ["b", "c"])
