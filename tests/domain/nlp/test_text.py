"""Text as blocks of characters."""

import pytest
import torch

from accelerator.errors import ConfigError, DataError
from domain.nlp.data.text import corpus, text, vocabulary
from domain.nlp.metric.bits_per_token import BitsPerToken


@pytest.fixture
def file(tmp_path):
    def write(content, name="poem.txt"):
        path = tmp_path / name
        path.write_text(content, encoding="utf-8")
        return str(path)

    return write


def decode(tokens, table):
    return "".join(table[token] for token in tokens.flatten().tolist())


def test_blocks_lie_end_to_end_and_targets_are_one_character_on(file):
    data = text(file("abcdefghijklmnopqrstuvwxyz"), length=3, val_fraction=0.25, test_fraction=0.25)
    table = "abcdefghijklmnopqrstuvwxyz"
    rows = {split: [(decode(x, table), decode(y, table)) for x, y in zip(*data[split], strict=True)] for split in data}
    assert rows == {
        "train": [("abc", "bcd"), ("def", "efg"), ("ghi", "hij"), ("jkl", "klm")],
        "val": [("mno", "nop"), ("pqr", "qrs")],
        "test": [("stu", "tuv"), ("vwx", "wxy")],
    }


def test_the_vocabulary_turns_tokens_back_into_the_text(file):
    written = "Ein Männlein steht im Walde\nganz still und stumm…\n" * 4
    path = file(written)
    table = vocabulary(corpus(path))
    assert sorted(table) == sorted(set(written))
    data = text(path, length=5)
    assert decode(torch.cat([x for x, _ in data.values()]), table) == written[: (len(written) - 1) // 5 * 5]


@pytest.mark.parametrize("end", ["z", "zz", "zzz"])
def test_no_input_token_exceeds_the_largest_target(file, end):
    """The number of classes is read off the targets: a character at either end must not be left out of it."""
    data = text(file("~" + "abc" * 20 + end), length=4)
    largest = max(int(targets.max()) for _, targets in data.values())
    assert max(int(inputs.max()) for inputs, _ in data.values()) <= largest


def test_only_the_beginning_of_a_text_can_be_taken(file):
    path = file("abcdef" * 50)
    assert corpus(path, 20) == ("abcdef" * 50)[:20]
    assert sum(len(x) for x, _ in text(path, length=4, characters=121).values()) == 30


def test_without_a_path_it_is_the_language_reference_with_every_paragraph_once():
    whole = corpus()
    assert len(whole) > 200_000
    assert 'The "if" statement is used for conditional execution' in " ".join(whole.split())
    paragraphs = whole.split("\n\n")
    assert len(set(paragraphs)) == len(paragraphs)
    assert corpus() == whole


@pytest.mark.parametrize(
    ("content", "knobs", "message"),
    [
        ("short", {}, r"poem.txt: 5 characters make 0 blocks of data.length=64; .* leave 0 of them to train"),
        ("", {}, "0 characters make 0 blocks"),
        ("ab" * 50, {"length": 30}, "100 characters make 3 blocks .* 0 to validate and 0 to test"),
        ("ab" * 500, {"val_fraction": 0.6, "test_fraction": 0.6}, "leave -3 of them to train"),
        ("a" * 1000, {}, "holds one character only, 'a': there is nothing to predict"),
    ],
)
def test_text_with_too_little_in_it_is_refused(file, content, knobs, message):
    with pytest.raises(DataError, match=message):
        text(file(content), **knobs)


def test_a_missing_file_is_told_with_the_nearest_name(file, tmp_path):
    file("x")
    with pytest.raises(DataError, match=r"there is no file .*poen.txt — did you mean 'poem.txt'"):
        text(str(tmp_path / "poen.txt"))
    with pytest.raises(DataError, match="there is no file"):
        text(str(tmp_path / "nowhere" / "poem.txt"))


def test_a_file_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "image.png").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(DataError, match=r"image.png is not UTF-8 text: .* position 0"):
        text(str(tmp_path / "image.png"))


def test_a_python_without_its_reference_is_told_what_to_set(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pydoc_data.topics", None)
    with pytest.raises(DataError, match="set data.path to a text file"):
        text()


@pytest.mark.parametrize("knobs", [{"length": 0}, {"characters": 0}])
def test_knobs_out_of_range_are_refused(knobs):
    (key,) = knobs
    with pytest.raises(ConfigError, match=rf"data\.{key}=0 must be at least 1"):
        text(**knobs)


def test_bits_refuse_targets_that_are_no_class_for_each_position():
    with pytest.raises(
        ValueError, match=r"scores of shape \(2, 5, 3\) need a class index .* not int64 of shape \(2, 4\)"
    ):
        BitsPerToken().update(torch.zeros(2, 5, 3), torch.zeros(2, 4, dtype=torch.long))
