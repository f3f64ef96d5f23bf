"""Interpolations of ours, beside ``${oc.env:…}`` (OmegaConf) and ``${now:…}`` (Hydra): ``${git:commit}``."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from accelerator.errors import ConfigError, did_you_mean

_FACTS = ("commit", "short", "branch", "dirty")
_SHORT = 8  # characters of a commit
_NOTHING = object()


def register() -> None:
    """Make them known; as often as wanted."""
    from omegaconf import OmegaConf

    OmegaConf.register_resolver("git", git, replace=True)


def git(fact: str, default: Any = _NOTHING) -> Any:
    """``${git:commit}``, ``${git:short}``, ``${git:branch}``, ``${git:dirty}`` of the repository around.

    Args:
        fact: which one; dirty: whether a tracked file differs from the commit.
        default: where there is no repository, no commit, or no branch: ``${git:commit,none}``.

    Raises:
        ConfigError: there is no such fact, or none here and no default.
    """
    if fact not in _FACTS:
        raise ConfigError(f"${{git:{fact}}}: git tells no '{fact}'{did_you_mean(fact, _FACTS)}")
    value = _facts(Path.cwd()).get(fact)
    if value is not None:
        return value
    if default is _NOTHING:
        raise ConfigError(f"${{git:{fact}}}: no git repository here tells it; give a default: ${{git:{fact},none}}")
    return default


@cache
def _facts(folder: Path) -> dict[str, Any]:
    """Asked once: all values of a run are of one moment."""
    from accelerator.tracking.provenance import git_tags

    if not (tags := git_tags(folder)):
        return {}
    found = {"commit": tags["git.commit"], "short": tags["git.commit"][:_SHORT], "dirty": tags["git.dirty"] == "true"}
    return found | ({"branch": tags["git.branch"]} if "git.branch" in tags else {})
