"""From ``accelerator pipeline digits train:optimizer.lr=0.1`` to steps that are composed and checked, one and all."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString
from yaml import YAMLError

from accelerator.cli.compose.compose import COMPOSITION_ERRORS, composer, composition, group_options, plain
from accelerator.cli.compose.mistakes import diagnose, located
from accelerator.cli.compose.path_checks import check_paths
from accelerator.cli.compose.reasons import reason
from accelerator.cli.compose.schema import TrackingConfig
from accelerator.cli.load import inherited
from accelerator.cli.resume import computing, resolve, value_of
from accelerator.cli.run_files import config_in
from accelerator.errors import CheckpointError, ConfigError, RunDirectoryError, did_you_mean
from accelerator.pipeline.plan import ALL, KEYS, Pipeline, Step, read, readable
from accelerator.pipeline.process import warm_up
from accelerator.runtime.checkpoint.meta_handler import fingerprint
from accelerator.runtime.context.component import find, is_component
from accelerator.tracking.masking import masked

CONFIG_NAME = "pipeline"

# They decide nothing of what a step leaves.
_FREE = ("tracking", "resume", "vars")

# Of the pipeline's own record; each step has its own.
_NOT_PASSED_ON = ("run_name", "parent")

_MOST_TOLD, _LONGEST = 3, 40  # values that changed, and characters of one

_OF_A_STEP = re.compile(r"(?P<step>[\w-]+):(?P<override>[^=:]+=.*|~.+)", re.DOTALL)
_BARE = re.compile(r"[A-Za-z_/][\w./-]*", re.ASCII)
_HEAD = re.compile(r"[+~]*(?P<head>[\w/@]+)")


@dataclass(frozen=True)
class Prepared:
    """A pipeline, composed and checked.

    Attributes:
        pipeline: its steps.
        run_dir: its folder, absolute.
        values: its config, resolved, plain.
        unresolved: the same before interpolation.
        choices: the option of each config group.
        files: what it was composed of.
        shared: overrides by which each step's record goes where the pipeline's goes.
        fingerprints: of the composed steps' configs, by name.
        threads: of this process, before any code of the user's was imported.
        recorded: of the composed steps' configs what decides, by dotted key, as it stands in a record, and the
            keys that take their value from another.
    """

    pipeline: Pipeline
    run_dir: Path
    values: dict[str, Any]
    unresolved: dict[str, Any]
    choices: dict[str, Any]
    files: list[dict[str, str]]
    shared: list[str]
    fingerprints: dict[str, str]
    threads: int
    recorded: dict[str, tuple[dict[str, Any], set[str]]]

    def difference(self, step: str) -> str:
        """What a step's config has other values in than the one it was made with, and which."""
        try:
            before = _deciding(config_in(self.run_dir / step))
        except RunDirectoryError:
            return ""
        now, follows = self.recorded[step]
        changed = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
        changed = [key for key in changed if key not in follows] or changed
        more = f", and {len(changed) - _MOST_TOLD} more" if len(changed) > _MOST_TOLD else ""
        told = (f"{key} {_shown(before, key)} → {_shown(now, key)}" for key in changed[:_MOST_TOLD])
        return ", ".join(told) + more


def prepare(name: str, typed: Sequence[str]) -> Prepared:
    """Compose and check a pipeline and every step of it; nothing is written.

    Args:
        name: of the pipeline.
        typed: overrides of its config and, as ``step:key=value``, of its steps'.

    Raises:
        ConfigError: holds every mistake found.
    """
    check_paths(typed)
    own, of_steps, problems = _sorted_out(typed)
    overrides = [f"pipeline={name}", *own]
    try:
        with composer(CONFIG_NAME) as compose:
            if name not in (options := group_options("pipeline")):
                raise ConfigError(f"there is no pipeline '{name}' in configs/pipeline/{did_you_mean(name, options)}")
            known = plain(compose(overrides[:1]), resolve=False).get("vars") or {}
            problems += _unknown_vars(own, known)
            config = compose(overrides)
            files = composition(overrides, CONFIG_NAME)
        values, unresolved = plain(config), plain(config, resolve=False)
    except COMPOSITION_ERRORS as error:
        raise ConfigError([*problems, *_diagnosed(overrides, error)]) from error
    except YAMLError as error:
        raise ConfigError(f"a config file is not valid YAML: {' '.join(str(error).split())}") from error
    if "pipeline" in values:
        problems.append(f"configs/pipeline/{name}.yaml does not start with the line '# @package _global_'")
        raise ConfigError(problems)
    try:
        pipeline = read(name, values, of_steps)
    except ConfigError as error:
        _, wrong = _composed_steps(readable(name, values, of_steps), ())
        raise ConfigError([*problems, *error.problems, *wrong]) from error
    shared = _tracking_overrides(values["tracking"])
    threads = warm_up()
    configs, wrong = _composed_steps(pipeline, shared)
    if problems or wrong:
        raise ConfigError([*problems, *wrong])
    folder = Path(config.hydra.run.dir)
    named = any(override.startswith("hydra.run.dir=") for override in overrides)
    return Prepared(
        pipeline,
        (folder if named else folder / name).absolute(),
        values,
        unresolved,
        dict(config.hydra.runtime.choices),
        files,
        shared,
        {step: fingerprint(computing(config, _FREE, ())) for step, (config, _) in configs.items()},
        threads,
        {step: (_deciding(masked(*config)), _following(config[1])) for step, config in configs.items()},
    )


def _sorted_out(typed: Sequence[str]) -> tuple[list[str], dict[str, list[str]], list[str]]:
    """Overrides of the pipeline, those of its steps, and what is neither."""
    own: list[str] = []
    of_steps: dict[str, list[str]] = {}
    problems = []
    for text in typed:
        if found := _OF_A_STEP.fullmatch(text):
            of_steps.setdefault(found["step"], []).append(found["override"])
            continue
        head = found["head"] if (found := _HEAD.match(text)) else text
        if head in ("hydra", "tracking", "vars") or (head in KEYS and text[:1] in "+~"):
            own.append(text)
        elif head in KEYS:
            own.append(f"++{text}")
        else:
            problems.append(
                f"{text}: a pipeline has no key '{head}'{did_you_mean(head, KEYS, show=0)}; "
                f"to set it in every step write {ALL}:{text}, in one STEP:{text}"
            )
    return own, of_steps, problems


def _unknown_vars(own: Sequence[str], known: Mapping[str, Any]) -> list[str]:
    """A value that no step asks for is a word misspelt."""
    keys = [(text, text.split("=", 1)[0].split(".")) for text in own if text.startswith("vars.")]
    return [
        f"{text}: the pipeline has no such value{did_you_mean(key[1], known)}; to add one, +{text}"
        for text, key in keys
        if key[1] not in known
    ]


def literal(value: Any) -> str:
    """A value as Hydra reads it in an override."""
    if (
        isinstance(value, str)
        and _BARE.fullmatch(value)
        and value.lower() not in ("null", "true", "false", "nan", "inf")
    ):
        return value
    if isinstance(value, str):
        return QuotedString(value, Quote.single).with_quotes()
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {literal(child)}' for key, child in value.items())}}}"
    if isinstance(value, Sequence):
        return f"[{', '.join(map(literal, value))}]"
    return json.dumps(value)


def _deciding(config: Any) -> dict[str, Any]:
    """What decides of a step's config, by dotted key; what it loads is told by the name of another step."""
    return {key: value for key, value in computing(config, _FREE, ()).items() if key != "load"}


def _following(unresolved: Any) -> set[str]:
    """The keys that take their value from another."""
    return {key for key, value in _deciding(unresolved).items() if isinstance(value, str) and "${" in value}


def _shown(values: Mapping[str, Any], key: str) -> str:
    """A value in few words."""
    text = json.dumps(value_of(values, key), ensure_ascii=False, default=str).strip('"')
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


_Composed = tuple[dict[str, Any], dict[str, Any]]  # resolved, and before interpolation


def _composed_steps(pipeline: Pipeline, shared: Sequence[str]) -> tuple[dict[str, _Composed], list[str]]:
    """Each step's config, composed and checked, and the mistakes of all."""
    configs: dict[str, _Composed] = {}
    problems: list[str] = []
    for step in pipeline.steps.values():
        if not step.kind.composed:
            continue
        arguments: list[str] = []
        try:
            arguments = [*shared, *_arguments(pipeline, step)]
            configs[step.name] = _composed(step, arguments)
        except ConfigError as error:
            # A step that loads a network has the mistakes of the one that made it.
            told = {problem.partition(": ")[2] for problem in problems}
            found = located(error, arguments).problems
            problems += [f"step {step.name}: {problem}" for problem in found if problem not in told]
        except CheckpointError as error:
            problems.append(f"step {step.name}: {error}")
    return configs, [*problems, *_left_without_network(pipeline, configs)]


def _composed(step: Step, arguments: Sequence[str]) -> _Composed:
    from accelerator.cli.load import check_not_accelerated
    from accelerator.runtime.run import check_config

    try:
        with composer() as compose:
            composed = compose(arguments)
        config, unresolved = plain(composed), plain(composed, resolve=False)
    except COMPOSITION_ERRORS as error:
        raise diagnose(arguments, error) from error
    check_config(config)
    if step.run != "accelerate":
        check_not_accelerated(config, step.run)
    elif not is_component(config["acceleration"]):
        raise ConfigError("acceleration=none does nothing: choose acceleration=prune or acceleration=quantize")
    return config, unresolved


def _left_without_network(pipeline: Pipeline, configs: Mapping[str, _Composed]) -> list[str]:
    """A method of acceleration may leave a file that no step can load."""
    problems = []
    for step in pipeline.steps.values():
        source = step.source
        if source is None or source not in configs or pipeline.steps[source].run != "accelerate":
            continue
        config, _ = configs[source]
        method = find("acceleration", config["acceleration"], "acceleration", tuple(config["imports"]))
        if not hasattr(method, "apply"):
            problems.append(
                f"step {step.name}: load_from={source}, and there {method.__name__} leaves a file for other programs, "
                "no network to load; load from the step before it"
            )
    return problems


def _arguments(pipeline: Pipeline, step: Step) -> list[str]:
    """What a step's config is composed with: where it loads a network, the overrides of its run come first.

    Raises:
        CheckpointError: it loads one of no step, and that one is not there.
    """
    if step.source is not None:
        return [*inherited(_arguments(pipeline, pipeline.steps[step.source]), step.overrides), *step.overrides]
    return resolve(step.overrides)


def _tracking_overrides(tracking: Mapping[str, Any]) -> list[str]:
    defaults = asdict(TrackingConfig())
    return [
        f"tracking.{key}={literal(value)}"
        for key, value in tracking.items()
        if key not in _NOT_PASSED_ON and value != defaults[key]
    ]


def _diagnosed(overrides: Sequence[str], error: Exception) -> list[str]:
    """Every override that fails by itself, in a sentence of its own."""
    problems: list[str] = []
    known: list[str] = []
    good: list[str] = []
    for override in overrides:
        try:
            with composer(CONFIG_NAME) as compose:
                config = compose([*good, override])
                values = plain(config, resolve=False)
        except COMPOSITION_ERRORS as failed:
            key = override.split("=", 1)[0]
            near = did_you_mean(key, known, most=1, show=0) if "Could not override" in str(failed) else ""
            problems.append(f"{override}: {f'there is no key {key!r}{near}' if near else reason(failed)}")
        else:
            good.append(override)
            known = [f"{head}.{key}" for head in ("vars", "tracking") for key in values.get(head) or {}]
    return problems or [reason(error)]
