"""The best trial's config as a file, ready for `accelerator run`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from accelerator.experiment.config import SECTIONS, ExperimentConfig
from accelerator.experiment.runner import Experiment
from accelerator.tracking.masking import MASK, masked
from accelerator.utilities.yaml_text import as_yaml


def as_file(experiment: Experiment, hyperparameters: Mapping[str, Any], heading: str) -> str:
    """The whole config of an experiment with other hyperparameters, as YAML.

    Of ``experiment`` and ``hyperparameters`` every value stands there, of the other sections what is not the default;
    secrets are left out, and named in a comment.

    Args:
        experiment: whose config it is.
        hyperparameters: the whole set.
        heading: its first line, a comment.
    """
    plain = asdict(experiment.config) | {"name": experiment.name, "hyperparameters": dict(hyperparameters)}
    default = asdict(ExperimentConfig())
    whole = {"experiment": {key: value for key, value in plain.items() if key not in SECTIONS and value is not None}}
    whole["hyperparameters"] = plain["hyperparameters"]
    for section in ("tuning", "mlflow"):
        if differing := {key: value for key, value in plain[section].items() if value != default[section][key]}:
            whole[section] = differing
    lacking: list[str] = []
    shown = _without_secrets(whole, masked(whole), "", lacking)
    comment = [heading, *(f"say also: {key}=…" for key in lacking)]
    return "".join(f"# {line}\n" for line in comment) + as_yaml(shown)


def _without_secrets(values: Mapping[Any, Any], hidden: Mapping[Any, Any], prefix: str, lacking: list[str]) -> Any:
    """What may be shown of a mapping; the keys of what may not are added to those that lack."""
    shown = {}
    for (key, masks), value in zip(hidden.items(), values.values(), strict=True):
        if isinstance(value, Mapping):
            shown[key] = _without_secrets(value, masks, f"{prefix}{key}.", lacking)
        elif MASK in str(masks) and MASK not in str(value):
            lacking.append(f"{prefix}{key}")
        else:
            shown[key] = masks
    return shown
