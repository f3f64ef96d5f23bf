"""YAML for a person to read and a command to read again."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

# Text to PyYAML, and a number to whoever looks at it: such words are refused in config files unless they are quoted.
_LIKE_A_NUMBER = re.compile(r"[-+]?0[0-9_]+")


class _Dumper(yaml.SafeDumper):
    pass


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "'" if _LIKE_A_NUMBER.fullmatch(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def as_yaml(content: Mapping[Any, Any], width: int | None = None) -> str:
    """Plain values as YAML, in their order.

    Args:
        content: mappings, lists, text, numbers.
        width: at which long lines are folded; None: PyYAML's own.
    """
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=width or 80)
