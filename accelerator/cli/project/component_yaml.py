"""The YAML of a component, from its signature: defaults as values, types and the docstring's lines as comments."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from accelerator.cli.project.kinds import Kind
from accelerator.utilities.signatures import REQUIRED, Code, Parameter, Signature

MISSING = "???"
PLACES = ("input", "target", "loss")

_COMMENT = 110  # characters of a comment
_PLAIN = re.compile(r"[A-Za-z_][\w./-]*(?: [\w./-]+)*", re.ASCII)
_NOT_WORDS = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n", "inf", "nan"})


def component_yaml(
    kind: Kind,
    name: str,
    signature: Signature,
    reference: tuple[str, str],
    *,
    places: Sequence[str] = PLACES[:1],
    given: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """The text of a component's file.

    Args:
        kind: what it is.
        name: of the option, and of the entry where the file holds entries.
        signature: what it takes.
        reference: ``("name", registered name)`` or ``("_target_", dotted path)``.
        places: for a transform: what it is applied to.
        given: values, as they are to stand there, of arguments without a default.
    """
    lines = [] if kind.package is None else [f"# @package {kind.package}"]
    if signature.summary:
        lines.append(f"# {_cut(signature.summary)}")
    body = [f"{reference[0]}: {written(reference[1])}", *_arguments(kind.settable(signature), given)]
    body += [f"{key}: {value}" for key, value in kind.beside]
    if kind.form == "section":
        return "\n".join([*lines, *body]) + "\n"
    entry = [f"{name}:", *(f"  {line}" for line in body)]
    if kind.name != "transform":
        return "\n".join([*lines, f"# {kind.use.format(name)}", *entry]) + "\n"
    for place in PLACES:
        lines += [f"{place}:", *(f"  {line}" for line in entry)] if place in places else [f"{place}: {{}}"]
    return "\n".join(lines) + "\n"


def is_settable(parameter: Parameter) -> bool:
    """Whether a config can give this argument a value that is worth writing down."""
    if parameter.default is REQUIRED:
        return True
    return not isinstance(parameter.default, Code) and not parameter.text.startswith("Deprecated")


def defaults_of(signature: Signature) -> dict[str, str]:
    """The value of each argument as it stands in the YAML."""
    return {p.name: _default(p) for p in signature.parameters if is_settable(p) and _nameable(p)}


def written(value: Any) -> str:
    """A plain value in YAML, as OmegaConf reads it back."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "null"
    if isinstance(value, float):
        if not math.isfinite(value):
            return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
        text = repr(value)
        return text if "." in text or "e" not in text else text.replace("e", ".0e")
    if isinstance(value, str):
        plain = _PLAIN.fullmatch(value) and value.lower() not in _NOT_WORDS
        return value if plain else json.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        return f"[{', '.join(map(written, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{written(key)}: {written(item)}' for key, item in value.items())}}}"
    return str(value)


def _arguments(signature: Signature, given: Mapping[str, str]) -> list[str]:
    lines = []
    for parameter in signature.parameters:
        if not _nameable(parameter):
            lines.append(f"# {parameter.name}: cannot be set here: the word names the component")
        elif is_settable(parameter):
            value = given.get(parameter.name) if parameter.default is REQUIRED else None
            comment = _comment(parameter)
            lines.append(
                f"{written(parameter.name)}: {value or _default(parameter)}{f' # {comment}' if comment else ''}"
            )
        elif isinstance(parameter.default, Code):
            lines.append(f"# {parameter.name}: by default {_cut(parameter.default.text, 60)} # {_comment(parameter)}")
    if signature.open_ended:
        lines.append("# any further argument is passed on")
    return lines


def _default(parameter: Parameter) -> str:
    if parameter.default is REQUIRED:
        return MISSING
    if isinstance(parameter.default, str) and ("${" in parameter.default or parameter.default == MISSING):
        return json.dumps(parameter.default.replace("${", "\\${"), ensure_ascii=False)
    return written(parameter.default)


def _comment(parameter: Parameter) -> str:
    """Type and text; the type alone says what a list of numbers is, the text what it is for."""
    return _cut(": ".join(part for part in (_cut(parameter.type, 50), parameter.text) if part))


def _cut(text: str, length: int = _COMMENT) -> str:
    """Printable text, cut between words."""
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    return text if len(text) <= length else f"{text[: length - 2].rsplit(' ', 1)[0]} …"


def _nameable(parameter: Parameter) -> bool:
    return parameter.name not in ("name", "_target_")
