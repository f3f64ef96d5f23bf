"""Files that projects begin with: text with a few words to fill in, kept as package data."""

from __future__ import annotations

from pathlib import Path
from string import Template

import accelerator

_FOLDER = Path(accelerator.__file__).resolve().parent / "templates"


def filled(template: str, **words: str) -> str:
    """The text of ``accelerator/templates/<template>.tmpl``, its ``$words`` filled in."""
    return Template((_FOLDER / f"{template}.tmpl").read_text(encoding="utf-8")).substitute(words)


def templates(folder: str) -> set[str]:
    """The names of the templates in a folder."""
    return {path.name.removesuffix(".tmpl") for path in (_FOLDER / folder).glob("*.tmpl")}


def camel(name: str) -> str:
    """``my_model`` as a class is called: ``MyModel``."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))
