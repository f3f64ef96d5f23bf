"""What is written as YAML is read as it was, by the command that checks config files for traps too."""

import pytest
import yaml

from accelerator.cli.compose.yaml_traps import checked, traps
from accelerator.utilities.yaml_text import as_yaml

WORDS = [
    "089",
    "012",
    "-07",
    "0_9",
    "yes",
    "NO",
    "12:30:45",
    "1e-3",
    "1,5",
    "null",
    "~",
    "",
    "a: b",
    "# c",
    "0",
    "3.0",
    "ü",
]


@pytest.mark.parametrize("word", WORDS)
def test_text_stays_text_and_is_no_trap(word, tmp_path):
    content = {"hyperparameters": {"x": word, "list": [word]}}
    text = as_yaml(content)
    assert yaml.safe_load(text) == content
    assert list(traps(text)) == []
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    assert checked(tmp_path / "config.yaml") == text


def test_numbers_and_order_stay():
    content = {"b": 1e-05, "a": [1, 2.5, True, None]}
    assert yaml.safe_load(as_yaml(content)) == content
    assert list(yaml.safe_load(as_yaml(content))) == ["b", "a"]
