"""What a pipeline is: its steps, what each needs, in which order they run, and every mistake in saying so."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any

from accelerator.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Kind:
    """What a step can do.

    Attributes:
        command: what is typed for it after ``accelerator``.
        makes_model: other steps may load what it leaves.
        takes_model: it needs one to work on.
        composed: its command composes a config, from overrides.
        resumes: one that was killed goes on from its own last checkpoint.
    """

    command: tuple[str, ...]
    makes_model: bool = False
    takes_model: bool = False
    composed: bool = True
    resumes: bool = False


KINDS = {
    "train": Kind(("train",), makes_model=True, resumes=True),
    "accelerate": Kind(("accelerate",), makes_model=True, takes_model=True),
    "evaluate": Kind(("evaluate",), takes_model=True),
    "export": Kind(("checkpoint", "export"), takes_model=True, composed=False),
    "analyze_data": Kind(("analyze-data",)),
    "analyze_model": Kind(("analyze-model",)),
}

KEYS = ("vars", "overrides", "steps", "on_error", "parallel", "tracking")
STEP_KEYS = ("run", "overrides", "needs", "load_from", "out")
ON_ERROR = ("stop", "continue")
PREVIOUS = "previous"
CHOICES = ("best", "last")
ALL = "all"
EARLIER = "earlier"  # where results stand that were made anew

# Names of folders in a pipeline's own, and words that mean something else where a step is named.
_TAKEN = (PREVIOUS, ALL, EARLIER, "checkpoints", "plots")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_FILE = re.compile(r"\w[\w.-]*\.(safetensors|onnx|pt2)")

# What a pipeline itself says to its steps.
_OURS = ("hydra.", "resume=", "tracking.parent=")


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        name: also of its folder.
        run: what it does; a key of `KINDS`.
        overrides: what its config is composed with, after those of the step it loads from.
        needs: the steps that come before it, the one it loads from among them.
        source: the step whose model it loads.
        choice: which of that step's checkpoints, ``best`` or ``last``; None leaves it to the command.
        out: name of the file an export writes.
    """

    name: str
    run: str
    overrides: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    source: str | None = None
    choice: str | None = None
    out: str | None = None

    @property
    def kind(self) -> Kind:
        """What it does."""
        return KINDS[self.run]


@dataclass(frozen=True)
class Pipeline:
    """Steps, in the order they run in.

    Attributes:
        name: of the pipeline.
        steps: by name; each stands after those it needs.
        on_error: after a step has failed, ``stop`` starts no more, ``continue`` those that do not need it.
        parallel: how many steps run side by side at most.
    """

    name: str
    steps: dict[str, Step] = field(default_factory=dict)
    on_error: str = "stop"
    parallel: int = 1

    def until(self, name: str) -> list[str]:
        """The steps up to this one."""
        names = list(self.steps)
        return names[: names.index(name) + 1]


def read(name: str, values: Mapping[str, Any], typed: Mapping[str, Sequence[str]] | None = None) -> Pipeline:
    """A pipeline from its config.

    Args:
        name: of the pipeline.
        values: its config, resolved, plain.
        typed: more overrides for single steps, by name; `ALL` stands for every one. They win over those of the config.

    Raises:
        ConfigError: holds every mistake found.
    """
    problems = [f"there is no key '{key}' in a pipeline{did_you_mean(key, KEYS)}" for key in values if key not in KEYS]
    if (on_error := values.get("on_error", "stop")) not in ON_ERROR:
        problems.append(f"on_error={on_error}: expected {' or '.join(ON_ERROR)}")
    if not isinstance(parallel := values.get("parallel", 1), int) or isinstance(parallel, bool) or parallel < 1:
        problems.append(f"parallel={parallel}: expected a number of steps, at least 1")
    sections = values.get("steps")
    if not isinstance(sections, Mapping) or not sections:
        no_steps = f"the pipeline '{name}' has no steps; name them below steps:, as in train: {{run: train}}"
        raise ConfigError([*problems, no_steps])
    sections = {str(key): section for key, section in sections.items()}
    reader = _Reader(sections, values.get("overrides"), typed or {})
    steps = {step.name: step for each in sections if (step := reader.step(each)) is not None}
    order, circle = _order(steps)
    problems += reader.problems
    if circle:
        problems.append(f"steps need one another in a circle, and none can be the first: {' → '.join(circle)}")
    if problems:
        raise ConfigError(problems)
    return Pipeline(name, {step: steps[step] for step in order}, on_error, parallel)


def readable(name: str, values: Mapping[str, Any], typed: Mapping[str, Sequence[str]] | None = None) -> Pipeline:
    """The steps that compose whatever `read` finds wrong with the rest, so that their own mistakes can be told too."""
    sections = values.get("steps")
    sections = {str(key): section for key, section in sections.items()} if isinstance(sections, Mapping) else {}
    reader = _Reader(sections, values.get("overrides"), typed or {})
    found = [step for each in sections if (step := reader.step(each)) is not None]
    left = [step for step in found if all(_is_override(o) and not _is_ours(o) for o in step.overrides)]
    steps: dict[str, Step] = {}

    def is_ready(step: Step) -> bool:
        loads_none = sections[step.name].get("load_from") is None
        return step.name not in steps and (loads_none or step.source in steps)

    while ready := [step for step in left if is_ready(step)]:
        steps |= {step.name: step for step in ready}
    return Pipeline(name, steps)


def _is_override(text: str) -> bool:
    return not text.startswith("-") and ("=" in text or text.startswith("~"))


def _is_ours(override: str) -> bool:
    return override.lstrip("+").startswith(_OURS)


class _Reader:
    """Reads the sections of steps, and takes down what is wrong with them."""

    def __init__(self, sections: Mapping[str, Any], shared: Any, typed: Mapping[str, Sequence[str]]) -> None:
        self.sections, self.typed = sections, typed
        self.problems: list[str] = []
        self.shared = self._overrides("overrides", shared)
        for name, overrides in typed.items():
            if name not in (*sections, ALL):
                near = did_you_mean(name, sections)
                self.problems.append(f"{name}:{overrides[0]}: there is no step '{name}'{near}")
            self._check_overrides(name, overrides)

    def step(self, name: str) -> Step | None:
        """One step; None if nobody can tell what it is to do."""
        section, where = self.sections[name], f"steps.{name}"
        if not _NAME.fullmatch(name) or name in _TAKEN:
            why = "is taken" if name in _TAKEN else "is the name of a folder: letters, digits, - and _"
            self.problems.append(f"{where}: '{name}' cannot name a step: it {why}")
        if not isinstance(section, Mapping):
            self.problems.append(f"{where}={section}: expected a mapping such as {{run: train}}")
            return None
        for key in section:
            if key not in STEP_KEYS:
                near = did_you_mean(key, STEP_KEYS)
                self.problems.append(f"{where}.{key}: there is no such key of a step{near}")
        run = section.get("run")
        if run not in KINDS:
            what = f"{where}: run is missing" if run is None else f"{where}.run={run}: there is no such step"
            self.problems.append(f"{what}{did_you_mean(str(run or ''), KINDS)}")
            return None
        written = self._overrides(f"{where}.overrides", section.get("overrides"))
        own = [*written, *self.typed.get(name, ())]
        needs = self._needs(name, section.get("needs"))
        source, choice = self._source(name, section.get("load_from"))
        self._check_model(name, run, own)
        if source is not None and source not in needs:
            needs.append(source)
        if not KINDS[run].composed:
            if own:
                self.problems.append(f"{where}.overrides: {run} composes no config; it has none")
            return Step(name, run, (), tuple(needs), source, choice, self._out(where, section.get("out")))
        if (out := section.get("out")) is not None:
            self.problems.append(f"{where}.out={out}: only an export writes a file of your choice; {run} does not")
        # Who loads a model gets the overrides it was trained with, the shared ones among them.
        shared = self.shared if source is None else []
        overrides = (*shared, *written, *self.typed.get(ALL, ()), *self.typed.get(name, ()))
        return Step(name, run, overrides, tuple(needs), source, choice)

    def _needs(self, name: str, wanted: Any) -> list[str]:
        where = f"steps.{name}.needs"
        needs = self._texts(where, wanted)
        others = [step for step in self.sections if step != name]
        for need in needs:
            if need not in self.sections:
                self.problems.append(f"{where}: there is no step '{need}'{did_you_mean(need, others)}")
        return [need for need in needs if need in self.sections]

    def _source(self, name: str, wanted: Any) -> tuple[str | None, str | None]:
        """The step whose model is loaded, and which of its checkpoints."""
        if wanted is None:
            return None, None
        where = f"steps.{name}.load_from={wanted}"
        source, _, choice = str(wanted).partition(":")
        if choice and choice not in CHOICES:
            self.problems.append(f"{where}: '{choice}' is no checkpoint of a step; expected {' or '.join(CHOICES)}")
        steps = list(self.sections)
        makers = [step for step in steps if step != name and self._makes_model(step)]
        if source == PREVIOUS:
            above = [step for step in steps[: steps.index(name)] if step in makers]
            if not above:
                self.problems.append(f"{where}: no step above it makes a model")
            return above[-1] if above else None, choice or None
        if source not in steps:
            near = did_you_mean(source, [*makers, PREVIOUS])
            self.problems.append(f"{where}: there is no step '{source}'{near}")
            return None, None
        if source != name and source not in makers:
            makes = f"; {', '.join(makers)} would" if makers else ""
            self.problems.append(f"{where}: step '{source}' makes no model{makes}")
        return source, choice or None

    def _check_model(self, name: str, run: str, own: Sequence[str]) -> None:
        """A model is loaded from one place, and from one at least by who works on it."""
        where, wanted = f"steps.{name}", self.sections[name].get("load_from")
        loads = [override for override in own if override.startswith("load=")]
        if loads and wanted is not None:
            self.problems.append(f"{where}.overrides: {loads[0]}, and load_from={wanted}; one of them says it")
        if KINDS[run].takes_model and wanted is None and not loads:
            self.problems.append(
                f"{where}: {run} needs a model; say load_from: the name of a step that makes one, or {PREVIOUS}"
            )

    def _out(self, where: str, wanted: Any) -> str:
        out = "model.safetensors" if wanted is None else str(wanted)
        if not _FILE.fullmatch(out):
            self.problems.append(f"{where}.out={out}: expected a file's name that ends in .safetensors, .onnx or .pt2")
        return out

    def _makes_model(self, name: str) -> bool:
        section = self.sections[name]
        run = section.get("run") if isinstance(section, Mapping) else None
        return run not in KINDS or KINDS[run].makes_model  # what it is to do is a mistake told elsewhere

    def _overrides(self, where: str, value: Any) -> list[str]:
        overrides = self._texts(where, value)
        self._check_overrides(where, overrides)
        return overrides

    def _check_overrides(self, where: str, overrides: Sequence[str]) -> None:
        for override in overrides:
            if not _is_override(override):
                self.problems.append(f"{where}: '{override}' is no override; write key=value")
            elif _is_ours(override):
                self.problems.append(f"{where}: {override}: the pipeline itself says that to its steps; leave it out")

    def _texts(self, where: str, value: Any) -> list[str]:
        if value is None:
            return []
        if isinstance(value, str):
            self.problems.append(f"{where}={value}: expected a list, [{value}]")
            return []
        if not isinstance(value, Sequence) or not all(isinstance(item, str) for item in value):
            self.problems.append(f"{where}={value}: expected a list of words; quote each as in ['seed=1']")
            return []
        return list(value)


def _order(steps: Mapping[str, Step]) -> tuple[list[str], list[str]]:
    """The names in an order to run them in, as near to the given one as can be; or a circle, each needing the next."""
    order: list[str] = []
    waiting = dict(steps)
    while waiting:
        ready = [name for name, step in waiting.items() if not any(need in waiting for need in step.needs)]
        if not ready:
            break
        order.append(ready[0])
        del waiting[ready[0]]
    try:
        TopologicalSorter({name: [n for n in step.needs if n in waiting] for name, step in waiting.items()}).prepare()
    except CycleError as error:
        return order, list(reversed(error.args[1]))
    return order, []
