"""What YAML reads otherwise than it is meant is found with its line and with what to write instead."""

import pytest

from accelerator.cli.compose.yaml_traps import checked, traps
from accelerator.cli.paths import packaged_configs
from accelerator.errors import ConfigFileError


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("a: 012", 1, 'YAML reads 012 as 10, an octal number: write 12, or "012" for the text'),
        ("a: [1, -07]", 1, 'YAML reads -07 as -7, an octal number: write -7, or "-07" for the text'),
        ("a: 08", 1, 'YAML reads 08 as a word: write 8, or "08" for the text'),
        ("a:\n  b: NO", 2, 'YAML reads NO as false: write false, or "NO" for the word'),
        ("on: 3", 1, 'YAML reads on as true: write true, or "on" for the word'),
        ("a: 12:30:45", 1, 'YAML reads 12:30:45 as a number to the base of 60: write "12:30:45" for the text'),
        ("a: 1\nb: 2\na: 3", 3, "the key 'a' stands in line 1 already; keep one of the two"),
        ("a:\n  {b: 1, c: [{b: 1}], b: 2}", 2, "the key 'b' stands in line 2 already; keep one of the two"),
        ("", 1, "the file is empty; write {} if nothing is meant to be set"),
        ("# a comment\n", 1, "the file is empty; write {} if nothing is meant to be set"),
        ("a: !!binary aGVsbG8=", 1, "!!binary: a config holds no binary data; name a file instead"),
        ("[1, 2]", 1, "a list: a config file holds a mapping, key: value"),
        ("3", 1, "a single value: a config file holds a mapping, key: value"),
        ("a: 1\n---\nb: 2", 2, "a second document begins (---): a config file holds one"),
        ("a: &x [*x]", 1, "*x stands inside of what it names: it has no end"),
        ("a:\n\tb: 1", 2, "not valid YAML: a tab in column 1: indent by spaces"),
        ("a: {b: 1,5}", 1, "YAML reads 1,5 as two entries: write 1.5, or [1, 5]"),
        ("a: [1", 2, "not valid YAML: while parsing a flow sequence did not find expected"),
        ("a: " + "[" * 60 + "]" * 60, 1, "more than 50 mappings and lists inside one another"),
    ],
)
def test_each_trap_is_told_with_its_line(text, line, said):
    ((where, problem), *_) = traps(text)
    assert (where, problem[: len(said)]) == (line, said)


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        'a: "NO"\nb: "012"\nc: \'12:30\'',
        "a: 0\nb: 0.5\nc: 1e-3\nd: 1_000\ne: 0x1F\nf: -1",
        "a: y\nb: North\nc: offset\nd: 2026-11-26\ne: null\nf: true",
        "a: &x {b: 1}\nc: {<<: *x, b: 2}\nd: [*x, *x]",
        "a: {b: 1, c5: }\nb: {c: 1, d: 5}\nc:\n  d: 1\n  5:",
        "a: ${b.c}\nb: {c: !!str 3}",
        "a:\n  - {name: x}\n  - {name: y}",
    ],
)
def test_what_means_what_it_says_passes(text):
    assert list(traps(text)) == []


def test_every_trap_of_a_file_is_told_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text("a: 012\nb: no\n")
    with pytest.raises(ConfigFileError) as raised:
        checked(tmp_path / "a.yaml")
    assert [problem.split(":")[0] for problem in raised.value.problems] == ["a.yaml, line 1", "a.yaml, line 2"]


@pytest.mark.parametrize(
    ("data", "said"),
    [(b"a: \xff", "no text in UTF-8"), (b"a: 1\0", "binary data"), (b"a: 1\n" * 300_000, "larger than 1 MB")],
)
def test_what_is_no_text_is_no_config(tmp_path, data, said):
    (tmp_path / "a.yaml").write_bytes(data)
    with pytest.raises(ConfigFileError, match=said):
        checked(tmp_path / "a.yaml")


def test_no_packaged_config_holds_a_trap():
    found = {file.name: list(traps(file.read_text())) for file in packaged_configs().rglob("*.yaml")}
    assert {name: problems for name, problems in found.items() if problems} == {}
