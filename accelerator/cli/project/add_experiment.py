"""``accelerator add experiment NAME key=value …``: a command line becomes a file, to be chosen by its name."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from accelerator.cli.command import working_directory_importable
from accelerator.cli.project.add_component import told
from accelerator.cli.project.component_yaml import written
from accelerator.cli.project.generated import KEPT, SAME, Generated
from accelerator.cli.project.project import check_name, to_write_in
from accelerator.errors import ConfigError
from accelerator.utilities.files import short, write_text


def add_experiment(options: Namespace) -> None:
    """Write an experiment that chooses and sets what the overrides do."""
    project, name = to_write_in(), check_name(options.name, "an experiment")
    path = project.configs / "experiment" / f"{name}.yaml"
    text = _text(name, options.overrides)
    outcome = Generated(project).outcome(path, text, force=options.force)
    if outcome == KEPT:
        raise ConfigError(f"{short(path)} is there already, and differs: --force replaces it")
    if not options.dry_run and outcome != SAME:
        write_text(path, text)  # the user's own words: nothing that counts as generated
    told(path, text, outcome, dry_run=options.dry_run)
    print(f"next: accelerator train experiment={name}")


def _text(name: str, overrides: Sequence[str]) -> str:
    """The experiment's YAML.

    Raises:
        ConfigError: training would refuse the overrides, or they are of a kind that no file can hold.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from accelerator.cli.compose.compose import COMPOSITION_ERRORS, aliases, check_present, composer, groups, plain
    from accelerator.cli.compose.mistakes import diagnose
    from accelerator.runtime.run import check_config

    if wrong := [text for text in overrides if "=" not in text and not text.startswith("~")]:
        raise ConfigError(f"'{wrong[0]}' is no override: write key=value, or group=option")
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        if sweeps := [override.input_line for override in parsed if override.is_sweep_override()]:
            raise ConfigError(
                f"{sweeps[0]} is a sweep: an experiment is one run; sweep over it by accelerator train -m "
                f"experiment={name} {sweeps[0]}"
            )
        # What the project registers has to be known, as it is to a run.
        with working_directory_importable(), composer() as compose:
            config = compose(overrides)
            known, short_names = groups(), aliases()
            check_present(config)
            check_config(plain(config))
    except COMPOSITION_ERRORS as error:
        with working_directory_importable():
            raise diagnose(overrides, error) from error
    base: list[str] = []
    choices: list[str] = []
    values: dict[str, Any] = {}
    for override in parsed:
        key, said = override.key_or_group.lstrip("/"), override.input_line
        group = short_names.get(key, key)
        if override.is_delete():
            if key in known or key in short_names:
                raise ConfigError(f"{said}: a file cannot leave a group out; choose one of its options instead")
            _set(values, key, None)
        elif group == "experiment":
            # One experiment on top of another: it is read first, and what is said beside it comes after.
            base = [f"  - {written(_plain(override.value()))}", "  - _self_"]
        elif group in known:
            choices.append(f"  - override /{group}: {written(_plain(override.value()))}")
        elif key.split(".")[0] == "hydra":
            raise ConfigError(f"{said}: what is Hydra's own is set on the command line")
        else:
            _set(values, key, _plain(override.value()))
    lines = ["# @package _global_", f"# accelerator train experiment={name}"]
    choices = [*base, *choices]
    lines += ["defaults:", *choices] if choices else []
    for section, content in values.items():
        lines += [*([""] if choices or section != next(iter(values)) else []), *_lines(section, content, "")]
    return "\n".join(lines if choices or values else [*lines, "{}"]) + "\n"


def _plain(value: Any) -> Any:
    """A value of Hydra's grammar as plain YAML: what was quoted is a string."""
    from hydra.core.override_parser.types import QuotedString

    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return value


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    *above, last = key.split(".")
    for part in above:
        inner = values.setdefault(part, {})
        if not isinstance(inner, dict):
            inner = values[part] = {}
        values = inner
    values[last] = value


def _lines(key: str, value: Any, indent: str) -> list[str]:
    if isinstance(value, dict) and value:
        below = [line for name, item in value.items() for line in _lines(name, item, f"{indent}  ")]
        return [f"{indent}{written(key)}:", *below]
    return [f"{indent}{written(key)}: {_interpolated(value)}"]


def _interpolated(value: Any) -> str:
    """As written; an interpolation stays one."""
    return f'"{value}"' if isinstance(value, str) and "${" in value and '"' not in value else written(value)
