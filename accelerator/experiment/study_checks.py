"""What is found wrong with a study of a train function before anything is measured."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from accelerator.errors import ConfigError, RunDirectoryError, did_you_mean, gathered
from accelerator.experiment.config import ExperimentConfig, out_of_range, wrong_types
from accelerator.experiment.runner import in_words
from accelerator.runtime.run_directory import CONFIG
from accelerator.tracking.difference import difference
from accelerator.tracking.masking import masked
from accelerator.tuning.base import Plan, changed_study, differences
from accelerator.tuning.search_space import SearchSpace
from accelerator.tuning.study_file import stored
from accelerator.utilities.files import FOLDER_NAME
from accelerator.utilities.nested import leaves

PRIMARY = "primary_metric"

_SEED = "experiment.seed"


def check_config(config: ExperimentConfig, experiment: str) -> None:
    """See whether what a config says of a study makes one; a config made in Python has not been looked at yet.

    Args:
        config: the config.
        experiment: its name, which a study has that is given none.

    Raises:
        ConfigError: holds every mistake found.
    """
    if problems := wrong_types(config.tuning):
        raise ConfigError(problems)
    if problems := [*out_of_range(config.tuning), *search_problems(config, experiment)]:
        raise ConfigError(problems)


def search_problems(config: ExperimentConfig, experiment: str) -> list[str]:
    """Every mistake in what is tried, by which sampler and pruner, and in the study's name.

    Args:
        config: the config, whose values have the right types.
        experiment: its name.
    """
    from accelerator.tuning.choosing import make_pruner, make_sampler, require_optuna

    section = config.tuning
    name = study_name(config, experiment)
    problems = []
    if not FOLDER_NAME.fullmatch(name):
        problems.append(f"tuning.name={name}: expected letters, digits and . _ + -; it is the name of a folder")
    problems += _space_problems(section.space, config.hyperparameters)
    require_optuna()
    problems += gathered(
        lambda: make_sampler(with_name(section.sampler), config.seed),
        lambda: make_pruner(with_name(section.pruner), {PRIMARY: "min"}),
    )
    return in_words(problems)


def _space_problems(space: Mapping[str, Any], hyperparameters: Mapping[str, Any]) -> list[str]:
    """Mistakes in the space; a key beside the hyperparameters there are, and nearly one of them, is taken for one."""
    parsed, problems = SearchSpace.read(space, "tuning.space")
    known = [key for key, _ in leaves(hyperparameters)]
    sections = {key.rpartition(".")[0] for key in known} | set(hyperparameters)
    for key in dict.fromkeys(parameter.key for parameter in parsed.parameters):
        if key not in known and key not in sections and (near := did_you_mean(key, known, most=1, show=0)):
            problems.append(
                f"tuning.space.{key}: there is no hyperparameter '{key}'{near} If it is one, give it a value beside "
                f"the others: hyperparameters.{key}=…"
            )
    return problems


def study_name(config: ExperimentConfig, experiment: str) -> str:
    """What the study is called, and its folder."""
    return config.tuning.name or re.sub(r"[^\w.+-]+", "-", experiment)


def _key(key: str) -> str:
    return key if key == _SEED else f"hyperparameters.{key}"


def with_name(chosen: str | dict[str, Any]) -> dict[str, Any]:
    """A sampler or pruner as a mapping; a word is its name."""
    return {"name": chosen} if isinstance(chosen, str) else chosen


def check_same(folder: Path, plan: Plan, recorded: Mapping[str, Any]) -> None:
    """Compare with the study that is in the folder, if there is one.

    What is the same in all trials decides their values as much as what is tried.

    Args:
        folder: of the study.
        plan: what is to be tried.
        recorded: the config, as it is put on record.

    Raises:
        ConfigError: it is another one: each difference is shown. Or its storage is lost, or damaged.
        RunDirectoryError: it is no study of a train function.
    """
    from accelerator.tuning.storage import check_known

    path, name = folder / CONFIG, plan.name
    if not path.exists():
        return
    try:
        before = yaml.safe_load(path.read_text())
        was = {**before["hyperparameters"], _SEED: before["seed"]}
        storage = before["tuning"]["storage"]
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError) as error:
        raise RunDirectoryError(
            f"{path} is not as a study of a train function leaves it ({type(error).__name__}: "
            f"{' '.join(str(error).split())}); put it back as it was, or give the new study a name of its own "
            "with tuning.name=<name>"
        ) from error
    shown = masked(recorded)
    found = difference(was, {**shown["hyperparameters"], _SEED: shown["seed"]})
    changed = [f"{_key(key)} was {a}, is now {b}" for key, (a, b) in found["changed"].items()]
    changed += [f"{_key(key)} is new: {value}" for key, value in found["added"].items()]
    changed += [f"{_key(key)} was {value}, and is gone" for key, value in found["removed"].items()]
    if storage != shown["tuning"]["storage"]:
        changed.append(f"tuning.storage was {storage}, is now {shown['tuning']['storage']}")
    else:
        check_known(folder, name, recorded["tuning"]["storage"])
        if kept := stored(folder, name, recorded["tuning"]["storage"]):
            changed += differences(kept, plan.described())
    if changed:
        raise ConfigError(changed_study(name, changed))
