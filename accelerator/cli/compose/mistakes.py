"""Every mistake of a command line, each in a sentence with its key, its value and what to type instead."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationResolutionError,
    InterpolationToMissingValueError,
    OmegaConfBaseException,
    ValidationError,
)

from accelerator.cli.compose.compose import COMPOSITION_ERRORS, aliases, composer, group_options, groups, plain
from accelerator.cli.compose.schema import RunConfig
from accelerator.errors import ConfigError, did_you_mean
from accelerator.utilities.shell import quote

# A file that sets a key nobody knows: Hydra tells it in words only.
_IN_FILE = re.compile(r"In '(?P<file>[^']+)': Config(Key|Attribute)Error.*full_key: (?P<key>\S+)", re.DOTALL)
# One that gives a value of another type, and one that gives a single value for a whole section.
_TYPE_IN_FILE = re.compile(
    r"In '(?P<file>[^']+)': ValidationError[^\n]*\n\s*(?P<told>[^\n]*)\n\s*full_key: *(?P<key>\S*)", re.DOTALL
)
_SECTION_IN_FILE = re.compile(r"Merge error: \w+ is not a subclass of (?P<section>\w+)Config\. value: (?P<value>.*)")

MOST_PIECES = 50  # arguments that one value may have come apart into
_PARSER = OverridesParser.create()
_OF_A_STEP = re.compile(r"^[\w-]+:(?=[^=:]+=)")  # of a pipeline: step:key=value

# What a value can be taken from besides a key.
_RESOLVERS = ("oc.env", "git", "now", "hydra", "oc.select", "oc.decode", "oc.create", "oc.deprecated")


def diagnose(arguments: Sequence[str], error: Exception) -> ConfigError:
    """Find all mistakes behind a composition that failed with ``error``.

    Overrides are added one by one to a composition that works, so each that fails is a mistake of its own; what
    remains is then checked against the components' signatures. This takes as many compositions as there are
    overrides, which only a wrong command line pays for.
    """
    whole, problems = split_by_spaces(arguments)
    overrides = _overrides(whole)
    good: list[str] = []
    with composer() as compose:
        try:
            config = compose([])
        except COMPOSITION_ERRORS as broken:
            known = _dotted(asdict(RunConfig()))
            return ConfigError(_in_file(broken, known) or f"the config does not compose: {reason(broken)}")
        for override in overrides:
            try:
                config = compose([*good, _first_value(override)])
            except COMPOSITION_ERRORS as failed:
                problems.append(_sentence(override, failed, config))
            else:
                good.append(_first_value(override))
        problems += _component_problems(config) if problems else _interpolations(config) or [reason(error)]
    return ConfigError(problems)


def split_by_spaces(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Find values that a shell took apart, such as ``a=[1,`` and ``2]``.

    Returns:
        The arguments that are whole, and a sentence for each that is not.
    """
    whole: list[str] = []
    problems: list[str] = []
    at = 0
    while at < len(arguments):
        count = _pieces(arguments[at:])
        if count == 1:
            whole.append(arguments[at])
        else:
            text = " ".join(arguments[at : at + count])
            problems.append(f"{text}: a space ends an argument; quote it: {quote(text)}")
        at += count
    return whole, problems


def _pieces(arguments: Sequence[str]) -> int:
    """How many of the arguments, from the first on, make one override together."""
    text = arguments[0]
    key, equals, value = text.partition("=")
    if not equals or key.startswith("-") or not any(sign in value for sign in "[({'\"") or _can_be_read(text):
        return 1
    for count, argument in enumerate(arguments[1:MOST_PIECES], 2):
        text = f"{text} {argument}"
        if _can_be_read(text):
            return count
    return 1


def _can_be_read(override: str) -> bool:
    try:
        _PARSER.parse_override(_OF_A_STEP.sub("", override))
    except HydraException:
        return False
    return True


def reason(error: BaseException) -> str:
    """What Hydra or OmegaConf has to say, without its advice and its search path."""
    key = getattr(error, "full_key", None)
    while isinstance(error.__cause__, OmegaConfBaseException):
        error = error.__cause__
        key = getattr(error, "full_key", None) or key
    if isinstance(error, InterpolationResolutionError):
        return f"{key}: {_of_interpolation(error, str(key))}"
    text = str(error).split("\nAlias expansion:")[0].split("\nConfig search path:")[0].strip()
    return f"{key}: {_first_line(error)}" if key else re.sub(r"\s*\n\s*", " · ", text)


def _of_interpolation(error: InterpolationResolutionError, key: str) -> str:
    """Why a value that is to come from elsewhere does not, and what to do."""
    told = _first_line(error)
    root = error.parent_node._get_root() if error.parent_node is not None else None
    if (ours := told.removeprefix("ConfigError raised while resolving interpolation: ")) != told:
        return ours
    if (found := re.search(r"Environment variable '(?P<name>[^']*)' not found", told)) is not None:
        name = found["name"]
        return f"the environment variable {name} is not set: export {name}=…, or give a default: ${{oc.env:{name},…}}"
    if isinstance(error, InterpolationToMissingValueError):
        return f"{told}: set that key"
    if (found := re.fullmatch(r"Interpolation key '(?P<name>[^']*)' not found", told)) is not None:
        known = _dotted(OmegaConf.to_container(root, resolve=False)) if isinstance(root, DictConfig) else []
        near = did_you_mean(found["name"], known, most=1, show=0)
        return f"there is no key '{found['name']}' to take its value from{near}"
    if told.startswith("Recursive interpolation"):
        around = " → ".join([*_circle(root, key), key])
        return f"it takes its value from itself ({around}): give one of them a value of its own"
    if (found := re.fullmatch(r"Unsupported interpolation type (?P<name>\S+)", told)) is not None:
        return f"there is no interpolation ${{{found['name']}:…}}{did_you_mean(found['name'], _RESOLVERS)}"
    return f"{told}; set the variable or the key it refers to"


def _circle(root: Any, key: str) -> list[str]:
    """The keys that lead from one back to itself, each taking its value from the next."""
    found: list[str] = []
    while isinstance(root, DictConfig) and key not in found:
        found.append(key)
        written = re.search(r"\$\{(?P<key>[\w.]+)\}", str(_written(root, key)))
        if written is None:
            break
        key = written["key"]
    return found


def _written(root: DictConfig, key: str) -> Any:
    """What stands under a key, before interpolation."""
    node: Any = OmegaConf.to_container(root, resolve=False)
    for name in key.split("."):
        node = node.get(name) if isinstance(node, dict) else None
    return node


def check_flags(arguments: Sequence[str], ours: Sequence[str]) -> None:
    """Compare the flags with Hydra's and ours.

    Raises:
        ConfigError: one of them is neither.
    """
    known = [*get_args_parser()._option_string_actions, *ours]
    wrong = [a for a in arguments if a.startswith("-") and a.split("=")[0] not in known]
    if wrong:
        raise ConfigError(f"there is no flag {flag}{did_you_mean(flag, known, show=0)}" for flag in wrong)


def located(error: ConfigError, arguments: Sequence[str]) -> ConfigError:
    """The same mistakes, each that does not come from the command line with the file that holds it."""
    from accelerator.cli.compose.explain import source_of

    overrides = _overrides(arguments)
    try:
        with composer():
            where = source_of(overrides)
    except COMPOSITION_ERRORS:
        return error
    problems = []
    for problem in error.problems:
        key = re.match(r"[\w./]+", problem)
        file = where(key.group()) if key else ""
        problems.append(f"{problem} (in {file})" if file.startswith("configs/") or "/configs" in file else problem)
    return ConfigError(problems)


def _sentence(override: str, error: Exception, config: DictConfig) -> str:
    key = override.lstrip("+~").split("=", 1)[0]
    value = override.split("=", 1)[1] if "=" in override else ""
    if isinstance(error, OverrideParseException):
        return (
            f"'{override}' cannot be read: {_first_line(error)}; write key=value, and quote what has spaces or commas"
        )
    if key == "pipeline":
        return f"{override}: a pipeline has a command of its own: accelerator pipeline {value}"
    group = aliases().get(key, key)
    cause: BaseException = error
    while isinstance(cause.__cause__, OmegaConfBaseException):
        cause = cause.__cause__
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        folder, _, wanted = str(error.missing_cfg_file).rpartition("/")
        if options := group_options(folder):
            holder = "" if (folder, wanted) == (group, value) else f" (named in configs/{group}/{value}.yaml)"
            return f"{key}={value}: no '{wanted}' in configs/{folder}/{did_you_mean(wanted, options)}{holder}"
    if "No earlier Group Default" in str(error):
        return (
            f"{override}: {reason(error)}; name a group by its whole path (override /training_components/loss: …) in a "
            "file that starts with the line '# @package _global_'"
        )
    if isinstance(cause, ValidationError) and "is not a subclass of" in str(cause):
        return f"{override}: {key} is a section, not a value: set one of its keys, {key}.…=…"
    if isinstance(cause, ValidationError) and not _TYPE_IN_FILE.match(str(error)):
        return f"{override}: {_first_line(cause)} (its type is declared in accelerator/cli/compose/schema.py)"
    known = [*_dotted(plain(config, resolve=False)), *groups(), *aliases()]
    if told := _in_file(error, known):
        return f"{override}: {told}"
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) or "Could not override" in str(error):
        wrong = (getattr(cause, "full_key", None) or key) if key in known else key
        return f"{override}: there is no key '{wrong}'{did_you_mean(wrong, known, most=1, show=0)}"
    return f"{override}: {reason(error)}"


def _in_file(error: BaseException, known: Sequence[str]) -> str | None:
    """What a config file has wrong: a key that nobody knows, or a value of another type; None if it is neither.

    Args:
        error: as the composition raised it.
        known: keys there are.
    """
    if (found := _IN_FILE.match(str(error))) is not None:
        file, wrong = found["file"], found["key"]
        near = did_you_mean(wrong, known, most=1, show=0)
        if wrong == file.split("/")[0]:
            near = "; a file of this group starts with the line '# @package _global_'"
        return f"configs/{file}.yaml sets '{wrong}', and there is no such key{near}"
    if (found := _TYPE_IN_FILE.match(str(error))) is None:
        return None
    if (section := _SECTION_IN_FILE.match(found["told"])) is not None:
        name = section["section"].lower()
        return f"configs/{found['file']}.yaml sets {name} to {section['value']}: expected a mapping of its keys"
    return f"configs/{found['file']}.yaml sets {found['key']}: {found['told']}"


def _interpolations(config: DictConfig) -> list[str]:
    """Every value that takes its own from where there is none; what only follows another such value is not told."""
    broken: dict[str, str] = {}
    for key in _dotted(plain(config, resolve=False)):
        try:
            OmegaConf.select(config, key)
        except OmegaConfBaseException as error:
            broken[key] = reason(error)
    follows = {key: re.findall(r"\$\{([\w.]+)\}", str(_written(config, key))) for key in broken}
    first = [key for key in broken if not any(other in broken for other in follows[key])]
    return [broken[key] for key in first or list(broken)[:1]]  # a circle is told once


def _component_problems(config: DictConfig) -> list[str]:
    """What the signatures say of everything that did compose."""
    from accelerator.runtime.run import check_config

    try:
        check_config(plain(config))
    except ConfigError as error:
        return error.problems
    except OmegaConfBaseException as error:
        return [reason(error)]
    return []


def _overrides(arguments: Sequence[str]) -> list[str]:
    """The arguments that are no flag and no flag's value."""
    return [a for a in arguments if a.startswith("~") or (not a.startswith("-") and "=" in a)]


def _first_value(override: str) -> str:
    """A sweep ``key=a,b`` is judged by its first value."""
    parsed = _PARSER.parse_override(override) if "=" in override else None
    if parsed is None or not parsed.is_sweep_override():
        return override
    first = next(iter(parsed.sweep_string_iterator()))
    return f"{override.split('=', 1)[0]}={first}"


def _dotted(node: Any, prefix: str = "") -> list[str]:
    if not isinstance(node, dict):
        return [prefix]
    below = [path for key, value in node.items() for path in _dotted(value, f"{prefix}.{key}" if prefix else str(key))]
    return below + ([prefix] if prefix else [])


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
