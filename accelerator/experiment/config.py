"""The config of an experiment: dataclasses with the defaults, checked at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from accelerator.errors import ConfigError, did_you_mean
from accelerator.tracking.settings import TrackingConfig
from accelerator.tuning.ray_settings import RayConfig

MLflowConfig = TrackingConfig
"""The section ``mlflow``: the same keys as the section ``tracking`` of `accelerator train`."""


@dataclass
class TuningConfig:
    """The section ``tuning``: how hyperparameters are searched.

    Attributes:
        name: of the study and its folder; None: the experiment's.
        n_trials: points to measure.
        direction: of the primary metric; the function's results must agree (``minimize``).
        space: what is tried, by hyperparameter; see `accelerator.tuning.search_space`.
        workers: processes that measure.
        sampler: which chooses the points: a name, or ``{name: tpe, …}`` with arguments.
        pruner: which stops those that are not worth going on with, likewise.
        storage: where the study is kept: ``journal``, in its folder, or the URL of a database.
        retries: how often a trial is tried again whose process died.
        heartbeat: seconds between two signs of life of a worker.
        timeout: seconds after which no new trial begins.
        backend: ``optuna``, or ``ray`` for Ray Tune.
        ray: with ``ray``: which cluster, and what of it a trial is given.
    """

    name: str | None = None
    n_trials: int = 20
    direction: Literal["minimize", "maximize"] = "minimize"
    space: dict[str, Any] = field(default_factory=dict)
    workers: int = 1
    sampler: str | dict[str, Any] = "tpe"
    pruner: str | dict[str, Any] = "none"
    storage: str = "journal"
    retries: int = 2
    heartbeat: float | None = 60.0
    timeout: float | None = None
    backend: Literal["optuna", "ray"] = "optuna"
    ray: RayConfig = field(default_factory=RayConfig)


@dataclass
class ExperimentConfig:
    """One experiment.

    Attributes:
        name: in the record; None: that of the working directory.
        seed: of every generator that is known.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, …
        framework: ``torch`` or ``tensorflow``: whose generators, devices and memory are meant; None: whichever the
            train function's module imports.
        memory_limit_gb: of a GPU; None: ``ACCELERATOR_GPU_MEMORY_GB``, else 24; 0: all there is.
        hyperparameters: what the train function reads.
        tuning: how they are searched.
        mlflow: where the record goes.
    """

    name: str | None = None
    seed: int = 0
    device: str = "auto"
    framework: Literal["torch", "tensorflow"] | None = None
    memory_limit_gb: float | None = None
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    tuning: TuningConfig = field(default_factory=TuningConfig)
    mlflow: MLflowConfig = field(default_factory=MLflowConfig)


SECTIONS = ("experiment", "hyperparameters", "tuning", "mlflow")
_OF_EXPERIMENT = [f.name for f in fields(ExperimentConfig) if f.name not in SECTIONS]
_KEYS = {
    "experiment": _OF_EXPERIMENT,
    "tuning": [f.name for f in fields(TuningConfig)],
    "mlflow": [f.name for f in fields(MLflowConfig)],
}


def experiment_config(values: Mapping[str, Any], source: str = "the config") -> ExperimentConfig:
    """From the sections of a file (``experiment``, ``hyperparameters``, ``tuning``, ``mlflow``) to a config.

    Args:
        values: the sections, plain.
        source: where they come from, for messages.

    Raises:
        ConfigError: holds every mistake: unknown sections and keys, and values of a wrong type.
    """
    from pydantic import TypeAdapter, ValidationError

    problems = []
    for section, content in values.items():
        if section not in SECTIONS:
            problems.append(f"{section}: {source} has no such section{did_you_mean(section, SECTIONS)}")
        elif not isinstance(content, Mapping):
            problems.append(f"{section}={content!r} in {source}: expected a mapping of keys to values")
        else:
            problems += [
                f"{section}.{key}: there is no such key in {source}{did_you_mean(str(key), _KEYS[section])}"
                for key in content
                if section in _KEYS and key not in _KEYS[section]
            ]
    if problems:
        raise ConfigError(problems)
    whole = {**values.get("experiment", {}), **{name: values[name] for name in SECTIONS[1:] if name in values}}
    try:
        config = TypeAdapter(ExperimentConfig).validate_python(whole)
    except ValidationError as error:
        raise ConfigError([_sentence(detail, source) for detail in error.errors()]) from error
    if config.tuning.n_trials < 1 or config.tuning.workers < 1:
        raise ConfigError("tuning.n_trials and tuning.workers: expected at least 1")
    return config


def _sentence(detail: Any, source: str) -> str:
    place = [str(part) for part in detail["loc"]]
    if place[0] not in SECTIONS:
        place = ["experiment", *place]
    said = detail["msg"][0].lower() + detail["msg"][1:]
    return f"{'.'.join(place)}={detail['input']!r} in {source}: {said}"
