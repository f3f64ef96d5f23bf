"""The config of an experiment: dataclasses with the defaults, checked at once."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypeVar

from accelerator.errors import ConfigError, did_you_mean
from accelerator.tracking.settings import TrackingConfig
from accelerator.tuning.ray_settings import RayConfig

Kind = TypeVar("Kind")

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


TYPED = "the command line"
"""What messages call the source of a value that is typed."""


def experiment_config(
    values: Mapping[str, Any], source: str = "the config", typed: Collection[str] = ()
) -> ExperimentConfig:
    """From the sections of a file (``experiment``, ``hyperparameters``, ``tuning``, ``mlflow``) to a config.

    Args:
        values: the sections, plain.
        source: where they come from, for messages.
        typed: the keys, with their dots, that come from the command line instead, with all that is below them.

    Raises:
        ConfigError: holds every mistake: unknown sections and keys, and values of a wrong type.
    """
    config, problems = read_config(values, source, typed)
    if problems or config is None:
        raise ConfigError(problems)
    return config


def read_config(
    values: Mapping[str, Any], source: str = "the config", typed: Collection[str] = ()
) -> tuple[ExperimentConfig | None, list[str]]:
    """The config as far as it can be read, and every mistake in it; the arguments are those of `experiment_config`.

    Returns:
        None in place of the config where a value has a wrong type; keys that are none are left out of it.
    """
    problems, known = [], {}
    for section, content in values.items():
        if section not in SECTIONS:
            where = origin(str(section), source, typed)
            problems.append(f"{section}: there is no such section in {where}{did_you_mean(str(section), SECTIONS)}")
        elif not isinstance(content, Mapping):
            where = origin(section, source, typed)
            problems.append(f"{section}={content!r} in {where}: expected a mapping of keys to values")
        else:
            unknown = [key for key in content if section in _KEYS and key not in _KEYS[section]]
            problems += [
                f"{name}: there is no such key in {origin(name, source, typed)}{did_you_mean(str(key), _KEYS[section])}"
                for key, name in ((key, f"{section}.{key}") for key in unknown)
            ]
            known[section] = {key: value for key, value in content.items() if key not in unknown}
    problems += _without_blank(known.get("hyperparameters", {}), "hyperparameters", source)
    whole = {**known.get("experiment", {}), **{name: known[name] for name in SECTIONS[1:] if name in known}}
    config, wrong = _validated(ExperimentConfig, whole, source, typed)
    problems += wrong
    if config is not None:
        problems += out_of_range(config.tuning, source, typed)
    return config, problems


def origin(place: str, source: str, typed: Collection[str]) -> str:
    """Where the value of a dotted key comes from: the command line if it, or what holds it, is typed."""
    return TYPED if any(f"{place}.".startswith(f"{key}.") for key in typed) else source


def _without_blank(values: Mapping[str, Any], place: str, source: str) -> Iterator[str]:
    """A sentence for each ``{key:value}``: to YAML a key of that name, with no value."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _without_blank(value, f"{place}.{key}", source)
        elif value is None and ":" in str(key):
            meant = ": ".join(str(key).split(":", 1))
            yield f"{place}.{key} in {source}: YAML reads a key '{key}' with no value; write a blank, {meant}"


def wrong_types(tuning: TuningConfig) -> list[str]:
    """The values of a section ``tuning`` made in Python that are of a wrong type."""
    return _validated(TuningConfig, asdict(tuning), "", (), "tuning")[1]


def out_of_range(tuning: TuningConfig, source: str = "", typed: Collection[str] = ()) -> list[str]:
    """The numbers of a section ``tuning`` that are too small.

    Args:
        tuning: the section, of the right types.
        source: where it comes from, for messages.
        typed: the keys that come from the command line instead.
    """
    least = {"n_trials": 1, "workers": 1, "retries": 0}
    problems = [
        f"tuning.{key}={value}{_in(f'tuning.{key}', source, typed)}: expected at least {number}"
        for key, number in least.items()
        if (value := getattr(tuning, key)) < number
    ]
    return problems + [
        f"tuning.{key}={value:g}{_in(f'tuning.{key}', source, typed)}: expected a number above 0, or null"
        for key in ("heartbeat", "timeout")
        if (value := getattr(tuning, key)) is not None and not value > 0
    ]


def _validated(
    kind: type[Kind], values: Mapping[str, Any], source: str, typed: Collection[str], section: str | None = None
) -> tuple[Kind | None, list[str]]:
    """The dataclass these values make, else a sentence for each that does not fit."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_python(values), []
    except ValidationError as error:
        return None, [_sentence(detail, source, typed, section) for detail in error.errors()]


def _in(place: str, source: str, typed: Collection[str]) -> str:
    return f" in {origin(place, source, typed)}" if source else ""


def _sentence(detail: Any, source: str, typed: Collection[str], section: str | None) -> str:
    place = [str(part) for part in detail["loc"]]
    if section is not None:
        place = [section, *place]
    elif place[0] not in SECTIONS:
        place = ["experiment", *place]
    said = detail["msg"][0].lower() + detail["msg"][1:]
    key = ".".join(place)
    return f"{key}={detail['input']!r}{_in(key, source, typed)}: {said}"
