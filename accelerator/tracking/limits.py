"""What MLflow accepts as a key or a value, and how what it would refuse is made to fit.

The limits are those of ``mlflow.utils.validation`` (3.17); they are repeated here because importing MLflow costs a
second and this is used in the training process.
"""

from __future__ import annotations

import posixpath
import re
from hashlib import sha256

KEY_LENGTH = 250
PARAM_LENGTH = 6000
TAG_LENGTH = 8000
METRICS_A_BATCH = 1000
PARAMS_A_BATCH = 100
TAGS_A_BATCH = 100

_ILLEGAL = re.compile(r"[^A-Za-z0-9_./ :\-]")


def legal_key(key: str) -> str:
    """The key MLflow accepts that is nearest to ``key``: ``layers[0]`` becomes ``layers_0_``.

    Illegal characters become ``_``; so do the slashes of a key that is no plain relative path (``a//b``, ``../a``);
    a key beyond 250 characters is cut and ends in a digest of the whole.
    """
    legal = _ILLEGAL.sub("_", key)
    if not is_plain_path(legal):
        legal = re.sub(r"^\.+|/", "_", legal) or "_"
    return with_digest(key, legal) if len(legal) > KEY_LENGTH else legal


def is_plain_path(path: str) -> bool:
    """Whether a path is relative, stays below where it starts, and is written in the only way (no ``//``, no ``.``)."""
    return posixpath.normpath(path) == path and path != "." and not path.startswith(("..", "/"))


def with_digest(key: str, legal: str) -> str:
    """A legal key that no other key shares: ``legal``, shortened if need be, and a digest of ``key``."""
    return f"{legal[: KEY_LENGTH - 13]}_{sha256(key.encode()).hexdigest()[:12]}"


def unique_keys(keys: list[str]) -> dict[str, str]:
    """Every key with its legal form; two that would become one are told apart by a digest."""
    taken = {key for key in keys if legal_key(key) == key}
    legal: dict[str, str] = {}
    for key in keys:
        mapped = legal_key(key)
        if mapped != key and mapped in taken:
            mapped = with_digest(key, mapped)
        taken.add(mapped)
        legal[key] = mapped
    return legal


def cut(value: str, length: int) -> str:
    """``value``, or its beginning and a mark that says how long it was."""
    if len(value) <= length:
        return value
    mark = f" … cut: {len(value)} characters"
    return value[: length - len(mark)] + mark
