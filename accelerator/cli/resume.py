"""``resume=``: which run, from which checkpoint, and in which folder it goes on.

A run directory (or its MLflow id, or ``last``: the newest one here) is continued in place, from its newest whole
checkpoint, with the config it had. A checkpoint file (or ``best``: that of the newest run) starts a new run from there,
with the config of its run and whatever else is asked for. A job of a sweep is a run like any other.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString

from accelerator.cli.compose.schema import RunConfig
from accelerator.cli.run_files import config_in, overrides_in
from accelerator.cli.which_run import find
from accelerator.errors import CheckpointError, ConfigError
from accelerator.runtime.run_directory import CHECKPOINTS, CONFIG
from accelerator.tracking.masking import masked
from accelerator.utilities.nested import leaves

# What may differ when a run goes on in place: none of it changes what is computed, but for rounding.
FREE_SECTIONS = frozenset(
    {
        "analysis",
        "tracking",
        "callbacks",
        "checkpoint",
        "engine",
        "memory",
        "resume",
        "sweep",
        "tune",
        "vars",
        "metrics",
    }
)
FREE_KEYS = frozenset(
    {"evaluate.split", "loader.workers", "loader.eval_batch_size", "trainer.test", "trainer.accumulate"}
)


def resolve(arguments: Sequence[str]) -> list[str]:
    """The arguments with ``resume=`` or ``load=`` made absolute, after the recorded overrides of the run it names.

    Raises:
        CheckpointError: there is nothing to resume from, or to load.
        ConfigError: both are asked for.
    """
    wanted, load = _last(arguments, "resume"), _last(arguments, "load")
    if wanted is not None and load is not None:
        raise ConfigError(
            f"resume={wanted} goes on with a run, load={load} begins a new one with its network: give one of the two"
        )
    if load is not None:
        from accelerator.cli.load import with_source

        return with_source(arguments, load)
    if wanted is None:
        return list(arguments)
    others = [a for a in arguments if not a.startswith("resume=")]
    source = find(wanted, f"resume={wanted}")
    quoted = QuotedString(str(source), Quote.single).with_quotes()
    before = overrides_in(source.parent.parent if source.is_file() else source)
    if source.is_file():
        return [*before, *others, f"resume={quoted}"]
    return [*before, *others, f"hydra.run.dir={quoted}", f"resume={quoted}"]


def _last(arguments: Sequence[str], key: str) -> str | None:
    """What a key is set to last; None if to nothing."""
    values = [a.split("=", 1)[1].strip("'\"") for a in arguments if a.startswith(f"{key}=")]
    return None if not values or values[-1] in ("", "null") else values[-1]


def recorded(overrides: Sequence[str]) -> list[str]:
    """The overrides to keep with a run: as they were typed, without ``resume``, so that the run can go on with them."""
    return [o.removeprefix("++") for o in overrides if not o.startswith(("resume=", "hydra."))]


def check_unchanged(config: Mapping[str, Any], unresolved: Mapping[str, Any], run_dir: Path) -> None:
    """Compare the config with the one the run in this folder was started with.

    Raises:
        ConfigError: a value that changes what is computed differs; each is shown.
    """
    path = run_dir / CONFIG
    if not path.exists():
        raise CheckpointError(f"{run_dir} holds no {CONFIG}: it is not a run's folder")
    from accelerator.runtime.checkpoint.checkpoint_handler import CheckpointHandler

    # The recorded config has its secrets masked: compare like with like.
    before, now = computing(config_in(run_dir)), computing(masked(config, unresolved))
    changed = [
        f"\n  {key} was {was}, is now {will}"
        for key in sorted(before.keys() | now.keys())
        if (was := value_of(before, key)) != (will := value_of(now, key))
    ]
    if changed:
        saved = CheckpointHandler(run_dir / CHECKPOINTS).paths()
        file = saved[-1] if saved else run_dir / CHECKPOINTS / "<name>.safetensors"
        raise ConfigError(
            f"resume: a run goes on in place with the config it had, and this would change what it computes:"
            f"{''.join(changed)}\nleave that out, or start a new run from its state with "
            f"{shlex.quote(f'resume={file}')}"
        )


def computing(
    config: Mapping[str, Any], sections: Collection[str] = FREE_SECTIONS, keys: Collection[str] = FREE_KEYS
) -> dict[str, Any]:
    """The values of a config that decide what is computed, by dotted key, without defaults of the closed sections.

    A later version may have more keys: at their defaults it computes the same, and the fingerprint is the same.

    Args:
        config: plain.
        sections: those that decide nothing.
        keys: others that do not.
    """
    return {
        key: value
        for key, value in flat(config).items()
        if key.split(".")[0] not in sections and key not in keys and (key not in _DEFAULTS or value != _DEFAULTS[key])
    }


def value_of(values: Mapping[str, Any], key: str) -> Any:
    """A value among those of `computing`, where a default is left out."""
    return values.get(key, _DEFAULTS.get(key, "not set"))


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a nested config by dotted key; an empty section has none."""
    return {key: value for key, value in leaves(config) if value != {}}


_DEFAULTS = flat(asdict(RunConfig()))
