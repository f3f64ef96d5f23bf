"""The config of a trial: what was composed for the study, with the trial's values in it.

Hydra takes a third of a second to compose; so each combination of the groups that are tried is composed once, and the
values are set in a copy.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.core.singleton import Singleton
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from accelerator.cli.compose.compose import (
    COMPOSITION_ERRORS,
    CONFIG_NAME,
    aliases,
    composer,
    composition,
    group_options,
    groups,
    is_open,
    opened,
    plain,
    prepare,
)
from accelerator.cli.compose.composed import Composed
from accelerator.cli.compose.reasons import reason
from accelerator.cli.resume import flat, recorded
from accelerator.errors import ConfigError, did_you_mean
from accelerator.tuning.distributions import Choice, shown
from accelerator.tuning.search_space import SearchSpace

# What a trial does without, unless it is asked for: nobody watches it, and of most nobody looks at it afterwards.
SPARED: Mapping[str, Any] = {
    "callbacks.progress": None,
    "callbacks.pictures": None,
    "tracking.model": [],
    "tracking.system_metrics": None,
    "tracking.server": "none",
}

# What no trial may have of its own.
NOT_TRIED = ("hydra", "imports", "load", "resume", "sweep", "tracking", "tune")

LOOKS = 200  # points at random among which those are looked for that show something new
CHECKED = 24  # of them that are checked before a study begins


@dataclass(frozen=True)
class _Base:
    """What one combination of groups composes to."""

    config: DictConfig
    choices: dict[str, Any]
    files: list[dict[str, str]]


class TrialConfigs:
    """Composes trials; to be made and used while Hydra is set up (see `hydra_ready`).

    Args:
        overrides: of the study.
        space: what is tried.
    """

    def __init__(self, overrides: Sequence[str], space: SearchSpace) -> None:
        self.fixed = [override for override in recorded(overrides) if key_of(override).split(".")[0] != "tune"]
        self.space = space
        known = {*groups(), *aliases()}
        self.groups = {parameter.key for parameter in space.parameters if parameter.key in known}
        self._bases: dict[tuple[str, ...], _Base] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "hydra": Singleton.get_state()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """In another process, which a tuner may measure trials in, Hydra is set up as it was here."""
        set_up = state.pop("hydra")
        self.__dict__.update(state)
        if not GlobalHydra.instance().is_initialized():
            prepare()
            Singleton.set_state(set_up)

    def overrides(self, values: Mapping[str, Any]) -> list[str]:
        """What one would type to train with these values."""
        return [*self.fixed, *(f"{key}={as_typed(value)}" for key, value in values.items())]

    def composed(self, values: Mapping[str, Any], run_dir: Path, study: Path | None = None) -> Composed:
        """A trial as the command line would have it composed.

        Args:
            values: of the trial.
            run_dir: its folder.
            study: the study's.

        Raises:
            ConfigError: they do not fit the config.
        """
        base = self._base(values)
        config = copy.deepcopy(base.config)
        if problems := self._set(config, values):
            raise ConfigError(problems.values())
        return Composed(config, run_dir, self.overrides(values), base.choices, base.files, study)

    def _set(self, config: DictConfig, values: Mapping[str, Any]) -> dict[str, str]:
        """Set what is no group; a sentence for each key that does not fit."""
        problems = {}
        for key, value in sorted(values.items(), key=lambda item: item[0].count(".")):
            if key not in self.groups:
                try:
                    OmegaConf.update(config, key, value, merge=False, force_add=is_open(key))
                except OmegaConfBaseException as error:
                    problems[key] = self._unfit(key, value, error, config)
        return problems

    def _unfit(self, key: str, value: Any, error: Exception, config: DictConfig) -> str:
        section = OmegaConf.select(config, key.rpartition(".")[0]) if "." in key else config
        if OmegaConf.is_dict(section) and key.rpartition(".")[2] in section:
            return f"tune.space.{key}={shown(value)}: {reason(error).removeprefix(f'{key}: ')}"
        known = [*flat(plain(config, resolve=False)), *groups(), *aliases()]
        return f"tune.space.{key}: there is no key '{key}' in the config{did_you_mean(key, known, most=1, show=0)}"

    def _base(self, values: Mapping[str, Any]) -> _Base:
        key = tuple(f"{group}={option}" for group, option in values.items() if group in self.groups)
        if key not in self._bases:
            try:
                whole = hydra.compose(CONFIG_NAME, overrides=opened([*self.fixed, *key]), return_hydra_config=True)
            except COMPOSITION_ERRORS as error:
                raise ConfigError(f"{' '.join(key) or 'the config'} does not compose: {reason(error)}") from error
            choices: Any = OmegaConf.to_container(whole.hydra.runtime.choices)
            config = OmegaConf.masked_copy(whole, [str(name) for name in whole if name != "hydra"])
            OmegaConf.set_struct(config, True)
            self._bases[key] = _Base(config, choices, composition([*self.fixed, *key]))
        return self._bases[key]

    def check(self) -> None:
        """See that what is tried exists and fits, by points that show each option once.

        Raises:
            ConfigError: holds every mistake found.
        """
        from accelerator.runtime.run import check_config

        wrong, problems = self._wrong_keys(), []
        for values in _telling(self.space):
            tried = {key: value for key, value in values.items() if key not in wrong}
            try:
                config = copy.deepcopy(self._base(tried).config)
                wrong |= self._set(config, tried)
                check_config(plain(config))
            except ConfigError as error:
                groups_tried = " ".join(f"{key}={shown(value)}" for key, value in tried.items() if key in self.groups)
                problems += [
                    f"{problem}{f' (with {groups_tried})' if groups_tried else ''}" for problem in error.problems
                ]
            except OmegaConfBaseException as error:
                problems.append(reason(error))
        if wrong or problems:
            raise ConfigError(dict.fromkeys([*wrong.values(), *problems]))

    def _wrong_keys(self) -> dict[str, str]:
        """What cannot be tried, whatever the rest is: a sentence for each key."""
        problems: dict[str, str] = {}
        typed = {key_of(override) for override in self.fixed}
        for parameter in self.space.parameters:
            key = parameter.key
            said = f"tune.space.{key}"
            if key.split(".")[0] in NOT_TRIED:
                problems[key] = f"{said}: {key} decides nothing that a trial measures, and cannot be tried"
            elif key in typed or aliases().get(key) in typed:
                problems[key] = f"{said}: {key} is tried and is set on the command line; leave one of the two out"
            elif key in self.groups:
                options = group_options(aliases().get(key, key))
                if not isinstance(parameter.distribution, Choice):
                    problems[key] = f"{said}: {key} is a group of the config; its options are tried by a choice"
                    continue
                for option in parameter.distribution.options:
                    if option not in options:
                        near = did_you_mean(shown(option), options)
                        problems[key] = f"{said}: no '{shown(option)}' in configs/{aliases().get(key, key)}/{near}"
        return problems


def hydra_ready() -> AbstractContextManager[Any]:
    """Hydra set up, as the command line has set it up if it has."""
    return nullcontext() if GlobalHydra.instance().is_initialized() else composer()


def key_of(override: str) -> str:
    """What an override sets."""
    return override.lstrip("+~").split("=", 1)[0].split("@")[0]


def as_typed(value: Any) -> str:
    """A value as an override has it, so that it is read as what it is."""
    if isinstance(value, str):
        plain_word = re.fullmatch(r"[A-Za-z_][\w-]*", value, re.ASCII) is not None
        reserved = value.lower() in ("null", "true", "false", "nan", "inf", "yes", "no", "on", "off")
        return value if plain_word and not reserved else QuotedString(value, Quote.single).with_quotes()
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{as_typed(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(as_typed, value)) + "]"
    return shown(value)


def _telling(space: SearchSpace) -> list[dict[str, Any]]:
    """Points each of which shows an option, or a parameter, that those before it do not."""
    random, seen, found = Random(0), set(), []
    for _ in range(LOOKS):
        values = space.random(random)
        shows = {
            (parameter.name, shown(values[parameter.key]) if isinstance(parameter.distribution, Choice) else "")
            for parameter in space.parameters
            if parameter.applies(values)
        }
        if not shows <= seen and len(found) < CHECKED:
            seen |= shows
            found.append(values)
    return found
