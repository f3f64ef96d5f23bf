"""Every mistake of a command line, each in a sentence with its key, its value and what to type instead."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException, ValidationError

from accelerator.cli.compose.compose import COMPOSITION_ERRORS, aliases, composer, group_options, groups, plain
from accelerator.cli.compose.defaults_lists import CircleError, NoOptionError
from accelerator.cli.compose.reasons import dotted, first_line, in_file, of_type, reason, written
from accelerator.cli.project.kinds import KINDS
from accelerator.errors import ConfigError, did_you_mean
from accelerator.utilities.shell import quote

if TYPE_CHECKING:
    from accelerator.cli.compose.explain import Sources

MOST_PIECES = 50  # arguments that one value may have come apart into
_PARSER = OverridesParser.create()
_OF_A_STEP = re.compile(r"^[\w-]+:(?=[^=:]+=)")  # of a pipeline: step:key=value
_AROUND = re.compile(r" =|= ")
_NO_ARGUMENT = re.compile(r"(?P<section>[\w.]+)\.(?P<argument>\w+): '(?P<label>[^']*)' has no such argument")


def diagnose(arguments: Sequence[str], error: Exception) -> ConfigError:
    """Find all mistakes behind a composition that failed with ``error``.

    Overrides are added one by one to a composition that works, so each that fails is a mistake of its own; what
    remains is then checked against the components' signatures. This takes as many compositions as there are
    overrides, which only a wrong command line pays for.
    """
    whole, problems = split_by_spaces(arguments)
    # What the user's modules register is known to what comes after them.
    overrides = sorted(_overrides(whole), key=lambda override: not override.startswith("imports="))
    good: list[str] = []
    with composer() as compose:
        try:
            config = compose([])
        except COMPOSITION_ERRORS as broken:
            told = reason(broken)
            return ConfigError(told if told.startswith("configs/") else f"the config does not compose: {told}")
        problems += _unread(whole, config)
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
            joined = "".join(arguments[at : at + count])
            around = f"no space around '=': write {joined}"
            quoted = f"a space ends an argument; quote it: {quote(text)}"
            problems.append(f"{text}: {around if _can_be_read(joined) and _AROUND.search(text) else quoted}")
        at += count
    return whole, problems


def _pieces(arguments: Sequence[str]) -> int:
    """How many of the arguments, from the first on, make one override together."""
    text, following = arguments[0], arguments[1] if len(arguments) > 1 else ""
    if text.startswith("-"):
        return 1
    if "=" not in text and following.startswith("="):
        return 3 if following == "=" and len(arguments) > 2 else 2
    if text.endswith("=") and re.match(r"-?\.?[0-9]", following):
        return 2
    _, equals, value = text.partition("=")
    if not equals or not any(sign in value for sign in "[({'\"") or _can_be_read(text):
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


def _unread(arguments: Sequence[str], config: DictConfig) -> list[str]:
    """What is no override, and what is several values without a sweep."""
    taking = {flag for flag, action in get_args_parser()._option_string_actions.items() if action.nargs != 0}
    before = ["", *arguments]
    words = [a for a, flag in zip(arguments, before, strict=False) if a[:1] not in ("-", "~") and flag not in taking]
    keys = dotted(plain(config, resolve=False))
    problems = [
        f"{word} is given no value: write {word}=…"
        if word in keys
        else f"'{word}' is no override: write key=value, or group=option such as model=mlp"
        for word in words
        if "=" not in word
    ]
    if {"-m", "--multirun"}.isdisjoint(arguments):
        for override in _overrides(arguments):
            if _can_be_read(override) and _PARSER.parse_override(override).is_sweep_override():
                key, _, value = override.partition("=")
                number = f", {key}={value.replace(',', '.')} one number" if re.fullmatch(r"-?\d+,\d+", value) else ""
                problems.append(
                    f"{override} is a sweep: -m (--multirun) tries one value after the other; {key}=[{value}] is a "
                    f"list, {key}='{value}' a text{number}"
                )
    return problems


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
    from accelerator.cli.compose.explain import Sources

    overrides = _overrides(arguments)
    try:
        with composer():
            sources = Sources(overrides)
            return ConfigError(_located(problem, sources) for problem in error.problems)
    except COMPOSITION_ERRORS:
        return error


def _located(problem: str, sources: Sources) -> str:
    """A mistake with the file that holds it."""
    key = re.match(r"[\w./]+", problem)
    file = sources.of(key.group()) if key else ""
    if not file.endswith(".yaml"):
        return problem
    if (told := _NO_ARGUMENT.match(problem)) is None:
        return f"{problem} (in {file})"
    section, label = told["section"], told["label"]
    if not sources.is_later(f"{section}.name", f"{section}.{told['argument']}"):
        return f"{problem} (in {file}{_as_generated(Path(file))})"
    kind = next((kind for kind in KINDS.values() if (kind.package or kind.folder) == section), None)
    options = group_options(kind.folder) if kind is not None else []
    whole = f"{section}={label}, or " if label in options else ""
    if not whole and "custom" in options:
        whole = f"{section}=custom {section}.name={label}, or "
    return f"{problem} (it is of another component, in {file}: write {whole}~{section}.{told['argument']})"


def _as_generated(file: Path) -> str:
    """What to do about a file of the project that a command wrote and nobody has edited."""
    from accelerator.cli.project.generated import Generated
    from accelerator.cli.project.project import here

    project = here()
    path = project.root / file
    known = path.is_relative_to(project.configs) and Generated(project).untouched(path)
    return "; accelerator add --sync writes it anew" if known else ""


def _sentence(override: str, error: Exception, config: DictConfig) -> str:
    key = override.lstrip("+~").split("=", 1)[0]
    value = override.split("=", 1)[1] if "=" in override else ""
    if not _can_be_read(override) or isinstance(error, OverrideParseException):
        joined = re.sub(r"\s*=\s*", "=", override, count=1)
        if joined != override and _can_be_read(joined):
            return f"{override}: no space around '=': write {joined}"
        return f"'{override}' cannot be read: {first_line(error)}; write key=value, and quote what has spaces or commas"
    if key == "pipeline":
        return f"{override}: a pipeline has a command of its own: accelerator pipeline {value}"
    group = aliases().get(key, key)
    cause: BaseException = error
    while isinstance(cause.__cause__, OmegaConfBaseException):
        cause = cause.__cause__
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        folder, _, wanted = str(error.missing_cfg_file).rpartition("/")
        if component := _component_of(folder, wanted, config):
            return f"{key}={value}: no '{wanted}' in configs/{folder}/, but {component}"
        if options := group_options(folder):
            typed = folder == group and wanted in re.split(r"[\[\], ]+", value)
            holder = "" if typed else f" (named in configs/{group}/{value}.yaml)"
            return f"{key}={value}: no '{wanted}' in configs/{folder}/{did_you_mean(wanted, options)}{holder}"
    if isinstance(error, NoOptionError):
        return f"{override}: {key} is a group, and takes one of its options{did_you_mean('', group_options(group))}"
    if isinstance(error, CircleError):
        return f"{override}: {error}"
    if "No earlier Group Default" in str(error):
        return (
            f"{override}: {reason(error)}; name a group by its whole path (override /training_components/loss: …) in a "
            "file that starts with the line '# @package _global_'"
        )
    if isinstance(cause, ValidationError) and "is not a subclass of" in str(cause) and "In '" not in str(error)[:4]:
        return f"{override}: {key} is a section, not a value: set one of its keys, {key}.…=…"
    known = [*dotted(plain(config, resolve=False)), *groups(), *aliases()]
    if told := in_file(error, known):
        return f"{override}: {told}"
    if isinstance(cause, ValidationError):
        expected = of_type(first_line(cause))
        if expected is None:
            return f"{override}: {first_line(cause)}"
        return f"{override}: expected {expected}{f', {key}=[{value}]' if expected == 'a list' else ''}"
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) or "Could not override" in str(error):
        wrong = (getattr(cause, "full_key", None) or key) if key in known else key
        return f"{override}: there is no key '{wrong}'{did_you_mean(wrong, known, most=1, show=0)}"
    return f"{override}: {reason(error)}"


def _component_of(folder: str, name: str, config: DictConfig) -> str | None:
    """What to type for a component that has a name and no file; None if there is no such component."""
    from accelerator.runtime.run import import_modules
    from accelerator.utilities.base_registry import registry

    kind = next((kind for kind in KINDS.values() if kind.folder == folder), None)
    if kind is None:
        return None
    try:
        with suppress(ConfigError):
            import_modules(plain(config, resolve=False)["imports"])
        registry(kind.name).get(name)
    except ConfigError:
        return None
    section = kind.package or folder
    alone = f"{section}.{name}.name={name} adds it, and " if folder in ("callbacks", "metrics") else ""
    if "custom" in group_options(folder):
        alone = f"{section}=custom {section}.name={name} takes it, and "
    return f"the {kind.name} is there: {alone}accelerator add {kind.name} {name} writes a file of it"


def _interpolations(config: DictConfig) -> list[str]:
    """Every value that takes its own from where there is none; what only follows another such value is not told."""
    broken: dict[str, str] = {}
    for key in dotted(plain(config, resolve=False)):
        try:
            OmegaConf.select(config, key)
        except OmegaConfBaseException as error:
            broken[key] = reason(error)
    follows = {key: re.findall(r"\$\{([\w.]+)\}", str(written(config, key))) for key in broken}
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
