"""The page holds everything, fetches nothing, and nothing on it is taken for markup."""

import re

from accelerator.analysis.page import render
from accelerator.analysis.report import Picture, Report, Table, cell, listed, plain, scaled

PNG = bytes.fromhex("89504e470d0a1a0a")


def report(tmp_path):
    (tmp_path / "one.png").write_bytes(PNG)
    made = Report("Data: <script>alert(1)</script>")
    made.find("note", "a & b")
    made.find("error", "<b>bold</b>", "data.path=a b", "x=1")
    made.tables = [
        Table("Layers", ("layer", "count"), [[f"l<{i}>", i] for i in range(600)], bars=("count",), note="of a batch")
    ]
    made.pictures = [Picture("How it looks", tmp_path / "one.png")]
    made.figures = [("parameters", "1.2 M")]
    made.sort()
    return made


def test_it_is_one_file_without_scripts_and_links(tmp_path):
    page = render(report(tmp_path), "accelerator analyze-data data=<x>", "accelerator train x=1")
    assert "<script" not in page
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)
    assert not re.search(r"url\(|@import", page)
    assert "Data: &lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "&lt;b&gt;bold&lt;/b&gt;" in page
    assert "a &amp; b" in page
    assert "l&lt;3&gt;" in page
    assert "<pre>&#39;data.path=a b&#39; x=1</pre>" in page
    assert "data:image/png;base64,iVBORw0KGgo=" in page
    assert "<pre>accelerator train x=1</pre>" in page
    assert "100 more rows are in analysis.json" in page
    assert page.index("badge error") < page.index("badge note")
    assert 'content="accelerator analyze-data ' in page


def test_bars_are_shares_of_the_largest(tmp_path):
    page = render(report(tmp_path), "accelerator analyze-data")
    assert '<rect width="50.1"' in page  # 300 of 599
    assert '<rect width="0.0"' in page


def test_nothing_found_is_said():
    assert "Nothing to complain of." in render(Report("Model"), "accelerator analyze-model")


def test_values_as_they_are_read_and_as_json_has_them():
    assert [cell(x) for x in (None, 1234567, 0.123456789, 1000000.12, "a", True)] == [
        "–", "1,234,567", "0.12346", "1000000.12", "a", "True",
    ]  # fmt: skip
    assert [scaled(x) for x in (12, 3400, 1.2e6, 7e9, 2e12)] == ["12", "3.4 k", "1.2 M", "7 G", "2 T"]
    assert listed(list(range(10)), 3) == "0, 1, 2, … (10 in all)"
    assert plain({"a": (float("nan"), float("-inf"), 1.5), 2: {"b": None}}) == {
        "a": ["nan", "-inf", 1.5],
        "2": {"b": None},
    }
