"""``resume=``: which run, from which checkpoint, and in which folder it goes on.

A run directory (or ``last``: the newest one here) is continued in place, from its newest whole checkpoint, with the
config it had. A checkpoint file (or ``best``: that of the newest run) starts a new run from there, with the config of
its run and whatever else is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import OmegaConf

from accelerator.errors import CheckpointError, ConfigError
from accelerator.runtime.run_directory import CHECKPOINTS, CONFIG, OVERRIDES
from accelerator.tracking.masking import masked

# What may differ when a run goes on in place: none of it changes what is computed.
FREE_SECTIONS = frozenset({"tracking", "callbacks", "checkpoint", "engine", "resume", "vars", "metrics"})
FREE_KEYS = frozenset({"loader.workers", "loader.eval_batch_size", "trainer.test"})


def resolve(arguments: Sequence[str]) -> list[str]:
    """The arguments with ``resume=`` made absolute; for a run in place, its recorded overrides come first.

    Raises:
        CheckpointError: there is nothing to resume from.
    """
    wanted = [a.split("=", 1)[1].strip("'\"") for a in arguments if a.startswith("resume=")]
    if not wanted or wanted[-1] in ("", "null"):
        return list(arguments)
    others = [a for a in arguments if not a.startswith("resume=")]
    source = _find(wanted[-1])
    quoted = QuotedString(str(source), Quote.single).with_quotes()
    kept = (source.parent.parent if source.is_file() else source) / OVERRIDES
    before = list(OmegaConf.load(kept)) if kept.exists() else []
    if source.is_file():
        return [*map(str, before), *others, f"resume={quoted}"]
    return [*map(str, before), *others, f"hydra.run.dir={quoted}", f"resume={quoted}"]


def recorded(overrides: Sequence[str]) -> list[str]:
    """The overrides to keep with a run: as they were typed, without ``resume``, so that the run can go on with them."""
    return [o.removeprefix("++") for o in overrides if not o.startswith(("resume=", "hydra."))]


def check_unchanged(config: dict[str, Any], unresolved: dict[str, Any], run_dir: Path) -> None:
    """Compare the config with the one the run in this folder was started with.

    Raises:
        ConfigError: a value that changes what is computed differs; each is shown.
    """
    path = run_dir / CONFIG
    if not path.exists():
        raise CheckpointError(f"{run_dir} holds no {CONFIG}: it is not a run's folder")
    # The recorded config has its secrets masked: compare like with like.
    before, now = computing(OmegaConf.to_container(OmegaConf.load(path))), computing(masked(config, unresolved))
    changed = [
        f"{key} was {before.get(key, 'not set')}, is now {now.get(key, 'not set')}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if changed:
        raise ConfigError(
            [
                *(f"resume: {line}" for line in changed),
                f"a run goes on in place with the config it had; to start a new one from its state, give a file: "
                f"resume={run_dir / CHECKPOINTS}/<name>.safetensors",
            ]
        )


def computing(config: Any) -> dict[str, Any]:
    """The values of a config that decide what is computed, by dotted key."""
    return {
        key: value
        for key, value in _flat(config).items()
        if key.split(".")[0] not in FREE_SECTIONS and key not in FREE_KEYS
    }


def _find(wanted: str) -> Path:
    if wanted in ("last", "best"):
        runs = [path.parent for path in Path("outputs").glob(f"*/*/{CHECKPOINTS}") if any(path.iterdir())]
        if not runs:
            raise CheckpointError(f"resume={wanted}: no run with a checkpoint under {Path('outputs').absolute()}")
        newest = max(runs, key=lambda run: (run / CHECKPOINTS).stat().st_mtime).absolute()
        return newest if wanted == "last" else _best(newest)
    path = Path(wanted).absolute()
    if path.name == CHECKPOINTS:
        path = path.parent
    if not path.exists():
        raise CheckpointError(f"resume={wanted}: no such file or folder")
    if path.is_dir() and not (path / CHECKPOINTS).is_dir():
        raise CheckpointError(f"resume={wanted}: this folder has no {CHECKPOINTS}/; nothing was saved in it")
    return path


def _best(run: Path) -> Path:
    from accelerator.runtime.checkpoint.checkpoint_handler import CheckpointHandler

    section = OmegaConf.load(run / CONFIG).checkpoint
    best = CheckpointHandler(run / CHECKPOINTS, monitor=section.monitor, mode=section.mode).best()
    if best is None:
        raise CheckpointError(f"resume=best: no checkpoint in {run / CHECKPOINTS} has a value of {section.monitor}")
    return best


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, dict):
        return {prefix: node}
    return {
        key: value
        for name, child in node.items()
        for key, value in _flat(child, f"{prefix}.{name}" if prefix else str(name)).items()
    }
