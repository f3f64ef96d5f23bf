"""The best trial's config as a file of configs/experiment/: what to type to train it again, and to go on from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
from omegaconf import OmegaConf

from accelerator.cli.compose.compose import CONFIG_NAME, opened, plain
from accelerator.cli.tune.trial_config import TrialConfigs
from accelerator.runtime.checkpoint.operation import write_bytes
from accelerator.tracking.masking import MASK, masked
from accelerator.utilities.yaml_text import as_yaml

# What a config that computes the same need not say.
LEFT_OUT = ("tracking", "tune", "sweep", "resume", "load", "experiment")

CONFIGS = "configs"  # the folder below the study's that is given with -cd


def write_best(
    configs: TrialConfigs,
    values: Mapping[str, Any],
    folder: Path,
    name: str,
    heading: Sequence[str],
    seen: dict[tuple[Any, ...], Any] | None = None,
) -> tuple[Path, list[str]]:
    """Write a trial's config as an experiment.

    It names each group whose option is not that of a plain run, and each value that these groups do not have anyway. So
    it holds what the command line and the config files of the study said, whatever becomes of them.

    Args:
        configs: composes the study's trials.
        values: of the trial.
        folder: the study's.
        name: of the experiment.
        heading: lines of comment at its beginning.
        seen: the same for each of several trials: what it keeps is composed once for all that have the same groups.

    Returns:
        The file, and a key for each value that it cannot hold: secrets, and what does not come out as it went in.
    """
    composed = configs.composed(values, folder)
    unresolved = plain(composed.config, resolve=False)
    wanted = {key: value for key, value in masked(unresolved, unresolved).items() if key not in LEFT_OUT}
    seen, key = {} if seen is None else seen, tuple(composed.choices.items())
    if key not in seen:
        seen[key] = _groups(composed.choices)
    chosen, base = seen[key]
    differing = _difference({key: value for key, value in base.items() if key not in LEFT_OUT}, wanted)
    content: dict[str, Any] = {}
    if chosen:
        content["defaults"] = [{f"override /{group}": option} for group, option in chosen.items()]
    for key, value in differing.items():
        if value != MASK:
            _put(content, key, value)
    path = folder / CONFIGS / "experiment" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["# @package _global_", *(f"# {line}" for line in heading)]
    text = as_yaml(content, width=120) if content else ""
    write_bytes(path, ("\n".join(lines) + "\n" + text).encode())
    again = _composed([f"hydra.searchpath=[file://{folder / CONFIGS}]", f"experiment={name}"])[0]
    found = {key: value for key, value in plain(again, resolve=False).items() if key not in LEFT_OUT}
    return path, list(_difference(found, wanted))


def _groups(wanted: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The groups to choose so that all are as wanted, and what they compose to.

    A group may choose options of others, so some have to be named although they are those of a plain run.
    """
    wanted = {
        group: option
        for group, option in wanted.items()
        if option is not None and not group.startswith("hydra/") and group not in LEFT_OUT
    }
    chosen: dict[str, Any] = {}
    while True:
        config, choices = _composed([f"{group}={option}" for group, option in chosen.items()])
        further = {group: option for group, option in wanted.items() if choices.get(group) != option}
        if not further.keys() - chosen.keys():
            return chosen, plain(config, resolve=False)
        chosen |= further


def _composed(overrides: Sequence[str]) -> tuple[Any, dict[str, Any]]:
    config = hydra.compose(CONFIG_NAME, overrides=opened(overrides), return_hydra_config=True)
    choices: Any = OmegaConf.to_container(config.hydra.runtime.choices)
    return config, choices


def _difference(base: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """What has to be set, by dotted key, to come from one config to another."""
    found: dict[str, Any] = {}
    for key, value in wanted.items():
        path = f"{prefix}{key}"
        now = base.get(key)
        if isinstance(value, Mapping) and isinstance(now, Mapping) and value and now:
            found |= _difference(now, value, f"{path}.")
        elif key not in base or now != value or type(now) is not type(value):
            found[path] = value
    # A callback, metric or transform that is null is none.
    return found | {f"{prefix}{key}": None for key, value in base.items() if key not in wanted and value is not None}


def _put(content: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for name in parents:
        content = content.setdefault(name, {})
    content[last] = value
