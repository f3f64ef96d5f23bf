"""What docstrings say, in lines short enough for a comment: the summary, and each argument."""

from __future__ import annotations

import re

_SECTION = re.compile(r"^(Args|Arguments|Parameters|Keyword Args|Keyword Arguments):\s*$")
_ENTRY = re.compile(r"^\*{0,2}(?P<name>\w+)\s*(?:\((?P<type>[^)]*)\))?\s*:\s*(?P<text>.*)$")
_PARAM = re.compile(r":param\s+(?:[\w.]+\s+)?(?P<name>\w+):\s*(?P<text>[^\n]*)")


def summary_of(docstring: str) -> str:
    """The first sentence of a docstring, in one line of plain text."""
    text = " ".join(docstring.strip().split("\n\n")[0].split())
    text = re.sub(r":\w+:`~?(?:[^`<]*\.)?([^`.<]+)(?:\s*<[^`]*>)?`", r"\1", text).replace("``", "`")
    sentence = re.match(r".*?[.:](?=\s+[A-Z(]|$)", text)
    return (sentence.group() if sentence else text).rstrip(":.")


def arguments_of(docstring: str) -> dict[str, tuple[str, str]]:
    """Type and text of each argument, from a section ``Args:`` or from ``:param name:`` lines.

    The type is "" where the docstring leaves it to the annotation.
    """
    found = {match["name"]: ("", _one_line(match["text"])) for match in _PARAM.finditer(docstring)}
    name, section, entries = "", -1, -1  # the columns that the section and its entries begin in; -1: outside of one
    for line in docstring.expandtabs().splitlines():
        text, column = line.strip(), len(line) - len(line.lstrip())
        if _SECTION.match(text):
            name, section, entries = "", column, -1
        elif section < 0 or not text:
            continue
        elif column <= section and not (column == section and _ENTRY.match(text) and not text.endswith(":")):
            section = -1
        elif (entry := _ENTRY.match(text)) and (entries < 0 or column <= entries):
            name, entries = entry["name"], column
            found[name] = ((entry["type"] or "").split(",")[0].strip(), entry["text"])
        elif name:
            kind, before = found[name]
            if not text.startswith(("-", "*", "..")):
                found[name] = (kind, f"{before} {text}")
    return {key: (kind, _one_line(text)) for key, (kind, text) in found.items()}


def _one_line(text: str) -> str:
    """The first sentence, without markup, a repeated default and a full stop."""
    text = " ".join(text.split())
    text = re.sub(r"\s*\(default: [^)]*\)|\.?\s*Default: .*$", "", text)
    text = re.sub(r":\w+:`~?([^`]*)`", r"\1", text).replace("``", "`")
    sentence = re.match(r".*?\.(?=\s+[A-Z(]|$)", text)
    return (sentence.group() if sentence else text).strip().rstrip(".:")
