"""Text as sequences of characters."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from accelerator.errors import ConfigError, DataError, did_you_mean


def text(
    path: str | None = None,
    *,
    length: int = 64,
    characters: int | None = None,
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Blocks of T characters and, for each of them, the character that follows: x_t → y_t = x_{t+1}.

    A character is a number: its place in `vocabulary(corpus(path, characters))`, which turns predictions back into
    text. The blocks lie end to end, and the three splits are contiguous parts of the text, in the order train, val,
    test: each character is predicted once, in one split.

    Args:
        path: a text file (UTF-8); None for prose that comes with Python, see `corpus`.
        length: T, characters in a block.
        characters: only so many from the beginning of the text; None for all of it.
        val_fraction: of all blocks.
        test_fraction: of all blocks.

    Returns:
        {"train" | "val" | "test": (int64 (n, T), int64 (n, T))}.

    Raises:
        DataError: the file cannot be read as text, or is too short for a block in each split.
        ConfigError: a length below 1.
    """
    if length < 1:
        raise ConfigError(f"data.length={length} must be at least 1")
    whole = corpus(path, characters)
    table = vocabulary(whole)
    blocks = (len(whole) - 1) // length
    val, test = round(blocks * val_fraction), round(blocks * test_fraction)
    train = blocks - val - test
    if min(train, val, test) < 1:
        raise DataError(
            f"{_source(path)}: {len(whole)} characters make {max(blocks, 0)} blocks of data.length={length}; "
            f"data.val_fraction={val_fraction} and data.test_fraction={test_fraction} leave {train} of them to train, "
            f"{val} to validate and {test} to test on, and each needs at least one: take a longer text, or shorter "
            "blocks"
        )
    if len(table) < 2:
        raise DataError(f"{_source(path)} holds one character only, {table!r}: there is nothing to predict")
    number = {character: i for i, character in enumerate(table)}
    tokens = torch.tensor([number[character] for character in whole[: blocks * length + 1]])
    inputs, targets = tokens[:-1].reshape(blocks, length), tokens[1:].reshape(blocks, length)
    parts = zip(inputs.split([train, val, test]), targets.split([train, val, test]), strict=True)
    return dict(zip(("train", "val", "test"), parts, strict=True))


def corpus(path: str | None = None, characters: int | None = None) -> str:
    """The text itself, from its beginning.

    Without a path it is the prose of Python's language reference (the standard library's ``pydoc_data.topics``, what
    ``help("if")`` shows), some 370,000 characters; its wording follows the Python version. Topics repeat one another,
    so each paragraph is taken once: no split holds a paragraph of another.

    Args:
        path: a text file (UTF-8), or None.
        characters: only so many; None for all.

    Raises:
        DataError: there is no such file, or it is not text.
        ConfigError: fewer than one character is asked for.
    """
    if characters is not None and characters < 1:
        raise ConfigError(f"data.characters={characters} must be at least 1, or null for the whole text")
    return (_python_reference() if path is None else _read(Path(path).expanduser()))[:characters]


def vocabulary(text: str) -> str:
    """The distinct characters in the order in which they first appear: character i of it is token i."""
    return "".join(dict.fromkeys(text))


def _python_reference() -> str:
    try:
        from pydoc_data.topics import topics
    except ImportError as error:  # some distributions package it apart
        raise DataError(
            "this Python comes without its reference text (pydoc_data.topics): set data.path to a text file"
        ) from error
    paragraphs = (part for name in sorted(topics) for part in topics[name].strip().split("\n\n"))
    return "\n\n".join(dict.fromkeys(paragraphs))


def _read(file: Path) -> str:
    if not file.is_file():
        folder = file.parent
        names = [entry.name for entry in folder.iterdir() if entry.is_file()] if folder.is_dir() else []
        raise DataError(f"data.path: there is no file {file}{did_you_mean(file.name, names)}")
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"data.path: {file} is not UTF-8 text: {error}") from error


def _source(path: str | None) -> str:
    return "the text that comes with Python" if path is None else f"data.path={path}"
