"""What Hydra and OmegaConf raise, each in a sentence with its remedy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, InterpolationToMissingValueError, OmegaConfBaseException

from accelerator.cli.compose.schema import RunConfig
from accelerator.cli.project.kinds import KINDS
from accelerator.errors import did_you_mean

# What a config file does that no run takes: Hydra tells it in words only.
_IN_FILE = re.compile(
    r"In '(?P<file>[^']+)': (?P<kind>\w+) raised while composing config:\s*\n(?P<told>.*?)\n\s*full_key: *(?P<key>\S*)",
    re.DOTALL,
)
_TYPES = {"Integer": "a whole number", "Float": "a number"}

# What a value can be taken from besides a key.
_RESOLVERS = ("oc.env", "git", "now", "hydra", "oc.select", "oc.decode", "oc.create", "oc.deprecated")

# The package of each group's files, where it is not the group itself.
_PACKAGES = {kind.folder: kind.package for kind in KINDS.values() if kind.package is not None}


def reason(error: BaseException) -> str:
    """What Hydra or OmegaConf has to say, without its advice and its search path.

    What a config file has wrong is told with the file and the remedy.
    """
    if (told := in_file(error, dotted(asdict(RunConfig())))) is not None:
        return told
    key = getattr(error, "full_key", None)
    while isinstance(error.__cause__, OmegaConfBaseException):
        error = error.__cause__
        key = getattr(error, "full_key", None) or key
    if isinstance(error, InterpolationResolutionError):
        return f"{key}: {_of_interpolation(error, str(key))}"
    text = str(error).split("\nAlias expansion:")[0].split("\nConfig search path:")[0].strip()
    return f"{key}: {first_line(error)}" if key else re.sub(r"\s*\n\s*", " · ", text)


def _of_interpolation(error: InterpolationResolutionError, key: str) -> str:
    """Why a value that is to come from elsewhere does not, and what to do."""
    told = first_line(error)
    root = error.parent_node._get_root() if error.parent_node is not None else None
    if (ours := told.removeprefix("ConfigError raised while resolving interpolation: ")) != told:
        return ours
    if (found := re.search(r"Environment variable '(?P<name>[^']*)' not found", told)) is not None:
        name = found["name"]
        return f"the environment variable {name} is not set: export {name}=…, or give a default: ${{oc.env:{name},…}}"
    if isinstance(error, InterpolationToMissingValueError):
        return f"{told}: set that key"
    if (found := re.fullmatch(r"Interpolation key '(?P<name>[^']*)' not found", told)) is not None:
        known = dotted(OmegaConf.to_container(root, resolve=False)) if isinstance(root, DictConfig) else []
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
        other = re.search(r"\$\{(?P<key>[\w.]+)\}", str(written(root, key)))
        if other is None:
            break
        key = other["key"]
    return found


def written(root: DictConfig, key: str) -> Any:
    """What stands under a key, before interpolation."""
    node: Any = OmegaConf.to_container(root, resolve=False)
    for name in key.split("."):
        node = node.get(name) if isinstance(node, dict) else None
    return node


def in_file(error: BaseException, known: Sequence[str]) -> str | None:
    """What a config file has wrong: a key that nobody knows, or a value of another type; None if it is neither.

    Args:
        error: as the composition raised it.
        known: keys there are.
    """
    if (found := _IN_FILE.match(str(error))) is None:
        return None
    name, told, key = found["file"], found["told"], found["key"]
    file, group = f"configs/{name}.yaml", name.rpartition("/")[0]
    if found["kind"] in ("ConfigKeyError", "ConfigAttributeError"):
        near = did_you_mean(key, known, most=1, show=0)
        if key == name.split("/")[0]:
            near = f"; a file of this group starts with the line '# @package {_PACKAGES.get(group, '_global_')}'"
        return f"{file} sets '{key}', and there is no such key{near}"
    if found["kind"] == "KeyValidationError":
        return f"{file} sets '{key}': a key is a word; a number in its place is often a comma in a number (1,5 for 1.5)"
    if (section := re.search(r"is not a subclass of (\w+)Config\. value: (.*)", told)) is not None:
        return f"{file} sets {section[1].lower()} to {section[2]}: expected a mapping of its keys"
    if "incompatible container types" in told:
        return f"{file} sets {_list_in(name) or 'a section'} to a list: expected a mapping of its keys"
    value = _written_in(name, key)
    if told.startswith("Cannot assign") and " to Dict[" in told:
        choose = f"; an option is chosen in the defaults list, '- override /{_folder_of(key)}: {value}'"
        return f"{file} sets {key} to {value}: expected a mapping of its keys{choose}"
    if (expected := of_type(told)) is None:
        return f"{file} sets {key}: {told}"
    if expected == "a list" and value is not None:
        return f"{file} sets {key} to {value}: expected a list, write [{value}]"
    if expected == "a value":
        return f"{file} sets {key} to null: give it a value, or take the line out"
    return f"{file} sets {key} to {value}: expected {expected}"


def of_type(told: str) -> str | None:
    """What a key takes, from what OmegaConf says of a value that it does not take; None if it says something else."""
    if (found := re.match(r"Value '.*' of type '\w+' could not be converted to (\w+)", told, re.DOTALL)) is not None:
        return _TYPES.get(found[1])
    if re.match(r"Value '.*' is not a valid bool", told):
        return "true or false"
    if "is not a ListConfig" in told:
        return "a list"
    if (found := re.match(r"Invalid value '.*', expected one of \[(.*)\]", told)) is not None:
        return " or ".join(found[1].replace("'", "").split(", "))
    return "a value" if re.match(r"field '.*' is not Optional", told) else None


def _folder_of(key: str) -> str:
    return next((kind.folder for kind in KINDS.values() if (kind.package or kind.folder) == key), key)


def _content(name: str) -> Any:
    """What a config file holds, with the package it is put into; None while Hydra is not set up."""
    if not GlobalHydra.instance().is_initialized():
        return None
    loaded = GlobalHydra.instance().config_loader().repository.load_config(name)  # pyright: ignore[reportAttributeAccessIssue]
    content = OmegaConf.to_container(loaded.config, resolve=False)
    package = (loaded.header or {}).get("package") or name.rpartition("/")[0].replace("/", ".")
    for part in reversed([] if package == "_global_" else package.split(".")):
        content = {part: content}
    return content


def _written_in(name: str, key: str) -> Any:
    node = _content(name)
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node


def _list_in(name: str) -> str | None:
    """The section that a file gives a list."""
    content, expected = _content(name), asdict(RunConfig())
    lists = [key for key, value in (content or {}).items() if isinstance(value, list) and key in expected]
    return next((key for key in lists if isinstance(expected[key], dict)), None)


def dotted(node: Any, prefix: str = "") -> list[str]:
    """Every key of nested mappings, the mappings' own too."""
    if not isinstance(node, dict):
        return [prefix]
    below = [path for key, value in node.items() for path in dotted(value, f"{prefix}.{key}" if prefix else str(key))]
    return below + ([prefix] if prefix else [])


def first_line(error: BaseException) -> str:
    """The first line of what an error says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
