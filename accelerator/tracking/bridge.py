"""From a composed config to what MLflow keeps of it: params, tags and files.

Secrets are masked in all three (see `accelerator.tracking.masking`). Nothing is dropped silently: whatever does not
fit MLflow's limits is named in the tag ``accelerator.params_changed``, and stands whole in the file ``config.yaml``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from accelerator.tracking import provenance
from accelerator.tracking.limits import PARAM_LENGTH, TAG_LENGTH, cut, legal_key, unique_keys, with_digest
from accelerator.tracking.masking import mask_arguments, masked
from accelerator.utilities import shell

CHANGED_TAG = "accelerator.params_changed"


class Description(NamedTuple):
    """What is said of a run at its start; both parts fit MLflow's limits."""

    params: dict[str, str]
    tags: dict[str, str]


def describe(
    config: Mapping[str, Any],
    *,
    overrides: Sequence[str] = (),
    argv: Sequence[str] | None = None,
    unresolved: Mapping[str, Any] | None = None,
    choices: Mapping[str, Any] | None = None,
    tags: Mapping[str, Any] | None = None,
) -> Description:
    """The params and tags of a run.

    Args:
        config: the resolved config as plain nested dicts and lists.
        overrides: what the user changed on the command line, as ``key=value``.
        argv: the command line; `sys.argv` by default.
        unresolved: the config before interpolation, so that values taken from the environment are shown as
            ``${oc.env:NAME}``.
        choices: the option of each config group, such as ``{"model": "mlp"}``.
        tags: more tags, such as seed, engine and schedule; None as a value leaves one out.
    """
    params, changed = to_params(masked(config, unresolved))
    argv = mask_arguments(sys.argv if argv is None else argv)
    found = {
        **provenance.git_tags(),
        **provenance.machine_tags(),
        "command": shell.join(argv),
        "overrides": shell.join(mask_arguments(overrides)),
        "mlflow.source.name": Path(argv[0]).name if argv else "",
        **{
            f"choice.{group.rpartition('/')[2]}": str(option)
            for group, option in (choices or {}).items()
            if option is not None and not group.startswith("hydra/")
        },
        "mlflow.source.type": "LOCAL",
        **{key: str(value) for key, value in (tags or {}).items() if value is not None},
    }
    if changed:
        found[CHANGED_TAG] = "; ".join(changed) + " (whole in config.yaml)"
    return Description(params, {legal_key(key): cut(value, TAG_LENGTH) for key, value in found.items() if value})


def to_params(config: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """Flatten a config to dotted keys that MLflow accepts.

    A list is one param, written as JSON. An empty section is the param ``{}``.

    Returns:
        The params, and a sentence for each that is not what stands in the config.
    """
    from flatten_dict import flatten

    flat: dict[str, Any] = {}
    params, changed = {}, []
    for path, value in flatten(config, "tuple", keep_empty_types=(dict,)).items():
        key = ".".join(map(str, path))
        if key in flat:  # {"a.b": 1, "a": {"b": 2}}
            changed.append(f"a second {key} is logged with a digest behind its name")
            key = with_digest(repr(path), key)
        flat[key] = value
    legal = unique_keys(list(flat))
    for key, value in flat.items():
        text = value if isinstance(value, str) else _text(value)
        params[legal[key]] = cut(text, PARAM_LENGTH)
        if legal[key] != key:
            changed.append(f"{key} is logged as {legal[key]}")
        if len(text) > PARAM_LENGTH:
            changed.append(f"{legal[key]} is cut from {len(text)} to {PARAM_LENGTH} characters")
    return params, changed


def write_files(
    folder: Path,
    config: Mapping[str, Any],
    *,
    overrides: Sequence[str] = (),
    unresolved: Mapping[str, Any] | None = None,
    composition: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write what is logged as files.

    That is ``config.yaml``, ``overrides.yaml``, ``composition.yaml`` (the option of each group, and the files the
    config was composed of), ``environment.yaml``, ``requirements.txt``, and ``git.diff`` where the code is dirty.

    Returns:
        The files written, to be journaled as artifacts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    environment = provenance.environment() | provenance.gpus()
    texts = {
        "config.yaml": _yaml(masked(config, unresolved)),
        "overrides.yaml": _yaml(mask_arguments(overrides)),
        "composition.yaml": _yaml(dict(composition)) if composition else "",
        "environment.yaml": _yaml(environment),
        "requirements.txt": "".join(f"{name}=={number}\n" for name, number in environment["packages"].items()),
        "git.diff": provenance.git_diff(),
    }
    written = []
    for name, text in texts.items():
        if text:
            (folder / name).write_text(text, encoding="utf-8")
            written.append(folder / name)
    return written


def _yaml(value: Any) -> str:
    import yaml

    dumper = getattr(
        yaml, "CSafeDumper", yaml.SafeDumper
    )  # libyaml's, where PyYAML was built with it, is 8 times faster
    return yaml.dump(value, Dumper=dumper, sort_keys=False, allow_unicode=True, width=120)


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else str(value)
