"""Secrets are told by the name they go under, and never reach the record.

A name is split into words (``hfToken``, ``HF_TOKEN`` and ``hf-token`` are all *hf token*). In language models a
token is no secret: ``pad_token_id``, ``max_token_count`` and ``tokens`` are left as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

MASK = "***"

_SECRET_WORD = re.compile(
    r"passwords?|passwd|passphrase|pwd|secrets?|credentials?|(api|access|private|secret|auth)keys?"
)
_SECRET_PAIR = re.compile(r"(api|access|private|secret|auth) keys?")
_BEFORE_A_HARMLESS_TOKEN = re.compile(
    r"pad|eos|bos|unk|mask|sep|cls|class|special|num|n|max|min|per|first|last|image|text|patch|prompt|register"
)
_AFTER_A_HARMLESS_TOKEN = re.compile(
    r"ids?|dims?|embed(dings?)?|types?|len(gth)?|count|size|level|mix(er|ing)|merging|pruning|drop(out)?|rate|budget|limit"
    r"|index|classifier|pooling"
)

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_USER_INFO = re.compile(r"(?<=://)[^/\s@:]*:[^/\s@]+(?=@)")
_WELL_KNOWN = re.compile(
    r"(?:ghp|gho|ghs|github_pat|glpat|hf|sk|xoxb|xoxp)[_-][A-Za-z0-9_-]{16,}|AKIA[0-9A-Z]{16}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
)
# name=value, name: value, --name=value, 'name': "value"; the value may be quoted, a list or a mapping on one line.
_NAME = re.compile(r"(?<![\w.\-])(?P<name>[\w\-][\w.\-]*+)[\"']?[ \t]*[=:][ \t]*")
_VALUE = re.compile(r"\"[^\"\n]*\"?|'[^'\n]*'?|\[[^\]\n]*\]?|\{[^}\n]*\}?|[^\s,;}\])]+")
_LOOKS_RANDOM = re.compile(r"(?=[\w+/=\-]*\d)[\w+/=\-]{8,}")


def is_secret(name: str) -> bool:
    """Whether something called ``name`` must not be recorded."""
    words = _words(name)
    return _is_strong(words) or _has_token(words)


def mask_text(text: str) -> str:
    """Running text, such as a patch, without its secrets.

    Masked are what follows a secret name on its line, passwords in URLs and keys of well-known form. In
    ``token = next(stream)`` the right side is code, not a secret, and stays.
    """
    text = mask_value(text)
    shown, at, kept = [], 0, 0
    while found := _NAME.search(text, at):
        at = found.end()  # a value may hold assignments of its own: -P overrides="data.api_key=…"
        if not is_secret(found["name"]) or (value := _VALUE.match(text, at)) is None:
            continue
        quote = value[0][0] if value[0][0] in "\"'" else ""
        if quote or _is_strong(_words(found["name"])) or _LOOKS_RANDOM.fullmatch(value[0]):
            shown += text[kept:at], quote, MASK, quote
            at = kept = value.end()
    return "".join([*shown, text[kept:]])


def mask_value(text: str) -> str:
    """One value without the password of a URL and without keys of well-known form."""
    if "://" in text:
        text = _USER_INFO.sub(MASK, text)
    return _WELL_KNOWN.sub(MASK, text)


def mask_arguments(arguments: Sequence[str]) -> list[str]:
    """A command line without its secrets: ``token=VALUE``, ``--token=VALUE`` and ``--token VALUE``."""
    shown = []
    follows = False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        if follows or (equals and is_secret(name)):
            shown.append(MASK if follows else f"{name}={MASK}")
        else:
            shown.append(mask_text(argument))
        follows = argument.startswith("-") and not equals and is_secret(argument)
    return shown


def masked(config: Any, unresolved: Any = None) -> Any:
    """A copy of a nested config that may be shown: plain dicts, lists, numbers and text.

    Args:
        config: the resolved config.
        unresolved: the same tree before interpolation. Where a value came from the environment, the interpolation
            is shown in its place.
    """
    return _masked(config, unresolved, _from_environment(config, unresolved))


def secrets_of(config: Any, unresolved: Any = None) -> set[str]:
    """The values that `masked` would hide, as text; short ones are left out, for they stand in any text.

    Args:
        config: the resolved config.
        unresolved: the same tree before interpolation.
    """
    return {secret for secret in _secrets(config) | _from_environment(config, unresolved) if len(secret) >= 6}


def hide(text: str, secrets: set[str]) -> str:
    """A text, such as a traceback, without these values and without keys of well-known form."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return mask_value(text)


def _secrets(node: Any, secret: bool = False) -> set[str]:
    if isinstance(node, Mapping):
        return set().union(*(_secrets(value, secret or is_secret(str(key))) for key, value in node.items()))
    if isinstance(node, (list, tuple)):
        return set().union(*(_secrets(value, secret) for value in node))
    return {str(node)} if secret and not isinstance(node, bool) and node is not None else set()


def _masked(node: Any, unresolved: Any, environment: set[str]) -> Any:
    if isinstance(node, Mapping):
        below = unresolved if isinstance(unresolved, Mapping) else {}
        return {
            key if isinstance(key, (str, int, float)) else str(key): _hidden(value)
            if is_secret(str(key))
            else _masked(value, below.get(key), environment)
            for key, value in node.items()
        }
    if isinstance(node, (list, tuple)):
        below = (
            unresolved if isinstance(unresolved, (list, tuple)) and len(unresolved) == len(node) else [None] * len(node)
        )
        return [_masked(value, source, environment) for value, source in zip(node, below, strict=True)]
    if isinstance(unresolved, str) and _tells_environment(unresolved, str(node), environment):
        return mask_value(unresolved)
    if node is None or isinstance(node, (bool, int, float)):
        return node
    return mask_value(str(node))


def _hidden(node: Any) -> Any:
    """The mask; what can hold no secret (nothing, a switch) stays, and so does the shape of a subtree."""
    if isinstance(node, Mapping):
        return {key: _hidden(value) for key, value in node.items()}
    return node if node is None or node == "" or isinstance(node, bool) else MASK


def _from_environment(node: Any, unresolved: Any) -> set[str]:
    if isinstance(node, Mapping) and isinstance(unresolved, Mapping):
        pairs = [(value, unresolved.get(key)) for key, value in node.items()]
    elif isinstance(node, (list, tuple)) and isinstance(unresolved, (list, tuple)):
        pairs = list(zip(node, unresolved, strict=False))
    else:
        found = isinstance(unresolved, str) and _reads_environment(unresolved) and len(str(node)) >= 4
        return {str(node)} if found else set()
    return set().union(*(_from_environment(*pair) for pair in pairs))


def _tells_environment(unresolved: str, value: str, environment: set[str]) -> bool:
    return "${" in unresolved and (_reads_environment(unresolved) or any(told in value for told in environment))


def _reads_environment(text: str) -> bool:
    return "${oc.env:" in text.replace(" ", "")


def _words(name: str) -> list[str]:
    return [word.lower() for word in _WORDS.findall(name)]


def _is_strong(words: list[str]) -> bool:
    pairs = (" ".join(pair) for pair in pairwise(words))
    return any(map(_SECRET_WORD.fullmatch, words)) or any(map(_SECRET_PAIR.fullmatch, pairs))


def _has_token(words: list[str]) -> bool:
    around = zip(["", *words], words, [*words[1:], ""], strict=False)
    return any(
        word == "token"
        and not _BEFORE_A_HARMLESS_TOKEN.fullmatch(before)
        and not _AFTER_A_HARMLESS_TOKEN.fullmatch(after)
        for before, word, after in around
    )
