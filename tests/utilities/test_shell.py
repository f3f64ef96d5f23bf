"""Command lines that are read and pasted."""

import shlex

from accelerator.utilities import shell


def test_what_is_quoted_is_readable_and_means_the_same():
    words = ["accelerator", "seed=1", "a=[1, 2]", "uri='http://here:5000'", "a='$HOME'", "b='it'\"s\"", "", "c=~'!'"]
    assert shell.join(words[:4]) == "accelerator seed=1 'a=[1, 2]' \"uri='http://here:5000'\""
    assert shlex.split(shell.join(words)) == words
    assert shell.quote("a='$HOME'").startswith("'"), "a shell would put in the value of HOME"
