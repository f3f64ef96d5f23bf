"""A look at a sweep before its first job: a mistake in the last of its values is told now, and not in hours."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from accelerator.errors import ConfigError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig

MOST = 40  # values that are looked at; a group's option takes a tenth of a second


def check_sweep(arguments: Sequence[str], *, signatures: bool) -> None:
    """Compose a run with each swept value, the other keys at their first, and compare it with the components.

    What a sweeper draws by itself (``interval(…)``, ``range(…)``, ``hydra.sweeper.params``) is not looked at.

    Args:
        arguments: the command line, with ``-m``.
        signatures: compare with the components' signatures too, for commands that build them all.

    Raises:
        ConfigError: values that no job could run with.
    """
    from accelerator.cli.compose.compose import COMPOSITION_ERRORS, aliases, composer, groups, plain
    from accelerator.cli.compose.mistakes import diagnose
    from accelerator.cli.compose.reasons import reason
    from accelerator.runtime.run import check_config

    variants = _variants(arguments)
    together = any(argument.startswith("sweep.vectorize=") for argument in arguments)
    if not variants or (len(variants) == 1 and not together and _draws(arguments)):
        return  # what is required may be what the sweeper draws
    problems: list[str] = []
    refused: list[list[str]] = []
    first: DictConfig | None = None
    with composer() as compose:
        known = {*groups(), *aliases()}
        for overrides, changed in variants[:MOST]:
            try:
                config = None if first is None or changed is None else _changed(first, changed, known)
                config = compose(overrides) if config is None else config
                first = first or config
                if len(variants) == 1 and config.hydra.sweeper.get("params"):
                    return
                if signatures:
                    _check_launcher(config)
                    check_config(plain(config))
            except COMPOSITION_ERRORS:
                refused.append(overrides)
            except ConfigError as error:
                problems += error.problems
    for overrides in refused:
        try:
            with composer() as compose:
                compose(overrides)
        except COMPOSITION_ERRORS as error:
            problems += diagnose(overrides, error).problems or [reason(error)]
    if problems:
        raise ConfigError(dict.fromkeys(problems))


def _check_launcher(config: DictConfig) -> None:
    """Networks can be trained together in one process only."""
    count, launcher = config.sweep.vectorize, str(config.hydra.launcher.get("_target_", ""))
    if count is not None and not launcher.endswith("VectorizedBasicLauncher"):
        raise ConfigError(
            f"sweep.vectorize={count} trains jobs together in this process, {launcher.rpartition('.')[2]} runs them "
            "elsewhere or one by one: leave out hydra/launcher=…, or sweep.vectorize"
        )


def _changed(first: DictConfig, override: Override, groups: Collection[str]) -> DictConfig | None:
    """The first job's config with another value; None where it takes a composition to say what it would be.

    Raises:
        OmegaConfBaseException: there is no such key, or it takes no such value.
    """
    from omegaconf import OmegaConf

    from accelerator.cli.compose.compose import opened

    key, value, typed = override.key_or_group, override.value(), str(override.input_line)
    if not typed.startswith(f"{key}=") or override.is_list_extend():  # +key, ~key, group@package
        return None
    if key in groups or key.startswith("hydra") or isinstance(value, dict):  # a mapping is merged into what is there
        return None
    config = copy.deepcopy(first)
    OmegaConf.update(config, key, value, merge=True, force_add=opened([typed]) != [typed])
    return config


def first_job(arguments: Sequence[str]) -> list[str]:
    """The overrides of a sweep's first job; the command line as it is where they cannot be read."""
    variants = _variants(arguments)
    return variants[0][0] if variants else [a for a in arguments if a not in ("-m", "--multirun")]


def _draws(arguments: Sequence[str]) -> bool:
    """Whether the sweeper draws values by itself."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    typed = [argument for argument in arguments if "=" in argument and not argument.startswith("-")]
    parsed = OverridesParser.create().parse_overrides(typed)
    return any(override.is_sweep_override() and not override.is_choice_sweep() for override in parsed)


def _variants(arguments: Sequence[str]) -> list[tuple[list[str], Override | None]]:
    """The overrides of the first job, then with each further value of one key after the other, and that one."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException

    fixed: list[str] = []
    swept: list[list[str]] = []
    for argument in arguments:
        if argument.startswith("-") or ("=" not in argument and not argument.startswith("~")):
            continue
        try:
            parsed = OverridesParser.create().parse_override(argument)
        except OverrideParseException:
            return []  # told when the sweep is composed
        if not parsed.is_sweep_override():
            fixed.append(argument)
        elif parsed.is_choice_sweep() and (key := argument.partition("=")[0]):
            swept.append([f"{key}={value}" for value in parsed.sweep_string_iterator()])
    first = [values[0] for values in swept]
    parse = OverridesParser.create().parse_override
    found: list[tuple[list[str], Override | None]] = [([*fixed, *first], None)]
    for place, values in enumerate(swept):
        found += [([*fixed, *first[:place], value, *first[place + 1 :]], parse(value)) for value in values[1:]]
    return found
