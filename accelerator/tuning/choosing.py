"""What chooses the points of a study and what gives trials up: Optuna's samplers and pruners, by their names."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from accelerator.errors import ConfigError, did_you_mean
from accelerator.runtime.context.component import build

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

GRID = "grid"
GRID_POINTS = 5  # numbers that stand for a range without steps

SAMPLERS = {
    "tpe": "TPESampler",
    "random": "RandomSampler",
    "cmaes": "CmaEsSampler",
    "gp": "GPSampler",
    "qmc": "QMCSampler",
    "nsgaii": "NSGAIISampler",
    "nsgaiii": "NSGAIIISampler",
    GRID: "",  # ours: Optuna's knows no conditions
}
PRUNERS = {
    "none": "NopPruner",
    "median": "MedianPruner",
    "asha": "SuccessiveHalvingPruner",
    "hyperband": "HyperbandPruner",
    "percentile": "PercentilePruner",
    "threshold": "ThresholdPruner",
    "wilcoxon": "WilcoxonPruner",
}


def require_optuna() -> None:
    """See that Optuna is there.

    Raises:
        ConfigError: it is not; how to get it.
    """
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise ConfigError("tuning needs Optuna: pip install 'accelerator-platform[tune]'") from error


def make_sampler(section: Mapping[str, Any], seed: int | None) -> BaseSampler:
    """Optuna's sampler of a name.

    Args:
        section: ``name`` and arguments.
        seed: of its random numbers, unless the section has one.

    Raises:
        ConfigError: there is none, or it takes no such argument.
    """
    from optuna.samplers import RandomSampler

    name, arguments = _named(section, "tune.sampler", SAMPLERS)
    if name == GRID:
        points = arguments.pop("points", GRID_POINTS)
        if arguments:
            raise ConfigError(f"tune.sampler.{next(iter(arguments))}: a grid has no such argument; it has points")
        if isinstance(points, bool) or not isinstance(points, int) or points < 1:
            raise ConfigError(f"tune.sampler.points={points}: expected how many numbers stand for a range, at least 1")
        return RandomSampler(seed)
    if name == "cmaes":
        _require("cmaes", "tune.sampler.name=cmaes")
    return _built("samplers", name, SAMPLERS, {"seed": seed, **arguments}, "tune.sampler")


def make_pruner(section: Mapping[str, Any] | None, objectives: Mapping[str, str]) -> BasePruner:
    """Optuna's pruner of a name.

    Args:
        section: ``name`` and arguments; without any, one is chosen.
        objectives: of the study; with several of them nothing is pruned.

    Raises:
        ConfigError: there is none, it takes no such argument, or there are several objectives.
    """
    several = len(objectives) > 1
    if not section:
        section = {"name": "none" if several else "median"}
    name, arguments = _named(section, "tune.pruner", PRUNERS)
    if several and name != "none":
        raise ConfigError(
            f"tune.pruner.name={name}: with several objectives ({', '.join(objectives)}) no trial is stopped early; "
            "set tune.pruner.name=none"
        )
    return _built("pruners", name, PRUNERS, arguments, "tune.pruner")


def _named(section: Mapping[str, Any], key: str, known: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    arguments = dict(section)
    name = arguments.pop("name", None)
    if not isinstance(name, str) or name not in known:
        said = f"{key}.name={name}" if name is not None else f"{key}.name is missing"
        raise ConfigError(
            f"{said}: {'there is none of that name' if name else 'say which'}{did_you_mean(str(name), known)}"
        )
    return name, arguments


def _built(module: str, name: str, known: Mapping[str, str], arguments: Mapping[str, Any], key: str) -> Any:
    path = f"optuna.{module}.{known[name]}"
    with quiet():
        try:
            return build(module[:-1], {"_target_": path, **arguments}, key, imports=("optuna",))
        except ConfigError as error:
            raise ConfigError([problem.replace(path, name) for problem in error.problems]) from error


def _require(package: str, said: str) -> None:
    if find_spec(package) is None:
        raise ConfigError(f"{said} needs the package {package}: pip install {package}")


@contextmanager
def quiet() -> Iterator[None]:
    """Without Optuna's notes that what is used here is experimental, or slower than it might be."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"optuna\b")
        warnings.filterwarnings("ignore", message=r".*(experimental|Optuna|optuna|reported value is ignored).*")
        yield
