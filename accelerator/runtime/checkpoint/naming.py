"""The names of checkpoint files, from a template such as ``epoch-{epoch:03d}-{val/loss:.4f}``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from string import Formatter
from typing import Any

from accelerator.errors import ConfigError, did_you_mean

FIELDS = ("step", "epoch", "level")


def file_name(template: str, fields: Mapping[str, Any]) -> str:
    """Fill a template in; a metric that was not measured is ``nan``.

    Unlike `str.format` the whole text before the colon is the name, so that metrics can have ``/`` and ``.`` in theirs.

    Raises:
        ValueError: the template is not well formed.
    """
    parts = []
    for text, field, spec, conversion in Formatter().parse(template):
        parts.append(text)
        if conversion:
            raise ValueError(f"!{conversion} has no meaning here")
        if field is not None:
            parts.append(format(fields.get(field, math.nan), spec or ""))
    return "".join(parts)


def check_filename(template: str, metrics: Iterable[str]) -> None:
    """See that a template can be filled in at every save.

    Args:
        template: ``checkpoint.filename``.
        metrics: what validation measures.

    Raises:
        ConfigError: it is not well formed, no plain file name, or has a field that there is none of.
    """
    known = [*FIELDS, *metrics]
    key = f"checkpoint.filename={template}"
    try:
        used = [field for _, field, _, _ in Formatter().parse(template) if field is not None]
        if unknown := [field for field in used if field not in known]:
            raise ConfigError(
                f"{key}: there is no {{{unknown[0]}}}{did_you_mean(unknown[0], known, show=0)}; "
                f"known are {', '.join(f'{{{name}}}' for name in known)}"
            )
        names = [
            file_name(template, dict.fromkeys(FIELDS, 0) | dict.fromkeys(metrics, value)) for value in (0.0, math.nan)
        ]
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from error
    if any(not name or name.startswith(".") or "/" in name or "\\" in name for name in names):
        raise ConfigError(f"{key}: expected the name of a file, without folders and without a dot in front")
