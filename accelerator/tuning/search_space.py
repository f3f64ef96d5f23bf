"""The search space: what is tried, as it is written in YAML; one language for every tuner.

::

    optimizer.lr: {log_uniform: [1e-4, 1e-1]}       a key of the config: numbers, every order of magnitude alike
    model.dropout: {uniform: [0, 0.5], step: 0.1}   0, 0.1, … 0.5
    loader.batch_size: {log_int: [16, 256]}         integers
    trainer.max_epochs: {int: [5, 20], step: 5}
    scheduler: {choice: [cosine, constant]}         a group of the config, or a value
    model:
      choice:                                       what is below an option is tried with that option only
        mlp: {model.hidden: {choice: [[32], [64, 64]]}}
        cnn:
    model.norm: {choice: [true, false], when: {model: [cnn]}}           the same, said the other way round
    loss.beta: {low: 0.1, high: 10, log: true, type: float}             a range in full

A key may also be nested (``optimizer: {lr: …}``), as the command line writes it (``tune.space.optimizer.lr={…}``);
where a key stands in both forms the nested one counts, so that what is typed wins over what a file says.

Nothing here knows a tuner: a tuner walks the space with `SearchSpace.suggest`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from accelerator.errors import ConfigError, did_you_mean
from accelerator.tuning.distributions import Choice, Distribution, same, shown
from accelerator.tuning.reading import PARTS, WORDS, is_distribution, read_distribution
from accelerator.utilities.nested import leaves

Condition = Mapping[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Parameter:
    """One thing that is tried.

    Attributes:
        name: in the space, where no other has it: the key, with the condition behind it where a key stands twice.
        key: of the config, a value's or a group's.
        distribution: what is tried.
        when: it is tried only where each of these keys has one of these options.
    """

    name: str
    key: str
    distribution: Distribution
    when: Condition = field(default_factory=dict)

    def applies(self, values: Mapping[str, Any]) -> bool:
        """Whether it is tried beside these values, by key."""
        return all(
            key in values and any(same(values[key], option) for option in options) for key, options in self.when.items()
        )

    def __str__(self) -> str:
        told = " and ".join(_condition(key, options) for key, options in self.when.items())
        return f"{self.distribution}{f' when {told}' if told else ''}"


@dataclass(frozen=True)
class SearchSpace:
    """What is tried; made by `parse`.

    Attributes:
        parameters: each after those its condition names.
    """

    parameters: tuple[Parameter, ...]

    @classmethod
    def parse(cls, written: Mapping[str, Any] | None, where: str = "tune.space") -> SearchSpace:
        """Read and check a space.

        Args:
            written: as it stands in YAML.
            where: its place in the config, for messages.

        Raises:
            ConfigError: holds every mistake found.
        """
        space, problems = cls.read(written, where)
        if problems:
            raise ConfigError(problems)
        return space

    @classmethod
    def read(cls, written: Mapping[str, Any] | None, where: str = "tune.space") -> tuple[SearchSpace, list[str]]:
        """What can be read of a space, and every mistake found, so that what is left can be looked at too.

        Args:
            written: as it stands in YAML.
            where: its place in the config, for messages.
        """
        if not written:
            return cls(()), [_nothing_to_try(where)]
        problems: list[str] = []
        found = _read(written, where, {}, problems)
        problems += _conditions(found, where, problems)
        if not problems:
            problems += _twice(found, where)
        if problems:
            return cls(tuple(_named([parameter for parameter in found if not parameter.when]))), problems
        return cls(tuple(_ordered(_named(found)))), []

    def suggest(self, draw: Callable[[Parameter], Any]) -> dict[str, Any]:
        """One point: what ``draw`` gives for each parameter that applies.

        Returns:
            The values, by key.
        """
        values: dict[str, Any] = {}
        for parameter in self.parameters:
            if parameter.applies(values):
                values[parameter.key] = draw(parameter)
        return values

    def random(self, random: Random) -> dict[str, Any]:
        """One point at random."""
        return self.suggest(lambda parameter: parameter.distribution.draw(random))

    def grid(self, points: int) -> Iterator[dict[str, Any]]:
        """Every combination, each once.

        Args:
            points: how many numbers stand for a range without steps.
        """
        yield from self._combined({}, points, 0)

    def _combined(self, values: dict[str, Any], points: int, index: int) -> Iterator[dict[str, Any]]:
        if index == len(self.parameters):
            yield dict(values)
            return
        parameter = self.parameters[index]
        if not parameter.applies(values):
            yield from self._combined(values, points, index + 1)
            return
        for value in parameter.distribution.points(points):
            yield from self._combined({**values, parameter.key: value}, points, index + 1)

    def problems(self, values: Mapping[str, Any]) -> list[str]:
        """Why a point is not of this space; empty where it is."""
        expected = {parameter.key: parameter for parameter in self.parameters if parameter.applies(values)}
        found = [f"{key} is missing" for key in expected if key not in values]
        found += [f"{key}={shown(values[key])} is not tried here" for key in values if key not in expected]
        return found + [
            f"{key}={shown(values[key])} is not in {parameter.distribution}"
            for key, parameter in expected.items()
            if key in values and not parameter.distribution.contains(values[key])
        ]

    def encode(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """A point as a storage keeps it: numbers and texts, by the parameters' names."""
        return {
            parameter.name: parameter.distribution.encode(values[parameter.key])
            for parameter in self.parameters
            if parameter.applies(values)
        }

    def decode(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """The point that was stored, by key."""
        return self.suggest(lambda parameter: parameter.distribution.decode(stored[parameter.name]))

    def described(self) -> dict[str, str]:
        """Each parameter in words, to show and to compare: two spaces are the same if these are."""
        return {parameter.name: str(parameter) for parameter in self.parameters}


def _nothing_to_try(where: str) -> str:
    if where != "tune.space":
        return f"{where} is empty: say what to try, such as '{where}.lr={{log_uniform: [1e-4, 1e-1]}}'"
    return (
        f"{where} is empty: say what to try, such as '{where}.optimizer.lr={{log_uniform:[1e-4,1e-1]}}', "
        "or choose a file of configs/tune/ with tune=<name>"
    )


def _read(node: Mapping[str, Any], where: str, when: Condition, problems: list[str]) -> list[Parameter]:
    """The parameters below a mapping of the space, those below the options of a choice included."""
    found: list[Parameter] = []
    dotted, nested = _keys(node)
    for key, written in {**dotted, **nested}.items():
        place = f"{where}.{key}"
        if not isinstance(written, Mapping):
            wish = f"{{choice:{written}}}" if isinstance(written, list) else f"{{choice:[{written},…]}}"
            problems.append(f"{place}={written}: expected a distribution, such as {place}={wish}")
            continue
        if not is_distribution(written):
            word = next((str(word) for word in written if word not in PARTS), "")
            near = did_you_mean(word, WORDS, show=0) or f" — choose from: {', '.join(WORDS)}"
            problems.append(f"{place}: there is no distribution '{word}'{near}")
            continue
        body = dict(written)
        own = _when(body.pop("when", None), place, problems)
        below: Mapping[Any, Any] = {}
        if isinstance(body.get("choice"), Mapping):
            below = body["choice"]
            body["choice"] = list(below)
        distribution = read_distribution(body, place, problems)
        if distribution is None:
            continue
        condition = {**when, **own}
        found.append(Parameter(key, key, distribution, condition))
        for option, inner in below.items():
            if inner is None or inner == {}:
                continue
            if not isinstance(inner, Mapping):
                problems.append(f"{place}.choice.{option}={inner}: expected what is tried with this option, or nothing")
                continue
            found += _read(inner, f"{place}.choice.{option}", {**condition, key: (option,)}, problems)
    return found


def _keys(node: Mapping[str, Any], prefix: str = "") -> tuple[dict[str, Any], dict[str, Any]]:
    """What stands below whole keys, and what below nested ones."""
    whole: dict[str, Any] = {}
    nested: dict[str, Any] = {}
    for name, below in node.items():
        key = f"{prefix}.{name}" if prefix else str(name)
        if not isinstance(below, Mapping):
            whole[key] = below
            continue
        # A mapping below anything that is no part of a distribution leads on to further keys.
        further = {word: inner for word, inner in below.items() if word not in PARTS and isinstance(inner, Mapping)}
        own = {word: inner for word, inner in below.items() if word not in further}
        if own or not further:
            whole[key] = own
        for part in _keys(further, key):
            nested |= part
    return whole, nested


def _when(written: Any, place: str, problems: list[str]) -> Condition:
    if written is None:
        return {}
    if not isinstance(written, Mapping) or not written:
        problems.append(f"{place}.when={written}: expected keys and options, such as when: {{model: mlp}}")
        return {}
    return {key: tuple(options) if isinstance(options, list) else (options,) for key, options in leaves(written)}


def _conditions(parameters: Sequence[Parameter], where: str, before: Sequence[str]) -> list[str]:
    """Conditions that name nothing, or an option that is none; what depends on a mistake told before is no other."""
    problems = []
    for parameter in parameters:
        for key, options in parameter.when.items():
            named = [other.distribution for other in parameters if other.key == key]
            choices = [choice for choice in named if isinstance(choice, Choice)]
            said = f"{where}.{parameter.key}.when.{key}"
            if key == parameter.key:
                problems.append(f"{said}: a key cannot depend on itself")
            elif any(problem.startswith(f"{where}.{key}") for problem in before):
                continue
            elif not choices:
                known = {other.key for other in parameters if isinstance(other.distribution, Choice)}
                what = "is no choice" if named else "is not in the space"
                problems.append(f"{said}: '{key}' {what}{did_you_mean(key, known - {parameter.key})}")
            else:
                known = [option for choice in choices for option in choice.options]
                problems += [
                    f"{said}: '{shown(option)}' is no option of {key}{did_you_mean(shown(option), map(shown, known))}"
                    for option in options
                    if not any(same(option, other) for other in known)
                ]
    if not problems and (circle := _circle(parameters)):
        problems.append(f"{where}: conditions go in a circle: {' → '.join(circle)}")
    return problems


def _circle(parameters: Sequence[Parameter]) -> list[str]:
    """Keys each of which depends on the next, the first one again at the end; empty where there are none."""
    depends: dict[str, set[str]] = {}
    for parameter in parameters:
        depends.setdefault(parameter.key, set()).update(parameter.when)
    for start in depends:
        path = [start]
        waiting = [(key, [start, key]) for key in sorted(depends[start])]
        seen: set[str] = set()
        while waiting:
            key, path = waiting.pop()
            if key == start:
                return path
            if key not in seen:
                seen.add(key)
                waiting += [(further, [*path, further]) for further in sorted(depends.get(key, ()))]
    return []


def _twice(parameters: Sequence[Parameter], where: str) -> list[str]:
    """Keys that stand twice where both would apply."""
    return [
        f"{where}.{one.key} stands twice, and both can apply at once: {one}; {other}. Leave one out, or give each a "
        "condition that excludes the other"
        for index, one in enumerate(parameters)
        for other in parameters[index + 1 :]
        if one.key == other.key and not _exclude(one.when, other.when)
    ]


def _exclude(one: Condition, other: Condition) -> bool:
    return any(not any(same(a, b) for a in one[key] for b in other[key]) for key in one.keys() & other.keys())


def _named(parameters: Sequence[Parameter]) -> list[Parameter]:
    """Each with a name of its own."""
    times = Counter(parameter.key for parameter in parameters)
    return [
        parameter
        if times[parameter.key] == 1
        else Parameter(
            f"{parameter.key} ({', '.join(_condition(*item) for item in parameter.when.items())})",
            parameter.key,
            parameter.distribution,
            parameter.when,
        )
        for parameter in parameters
    ]


def _condition(key: str, options: Sequence[Any]) -> str:
    return f"{key}={'|'.join(map(shown, options))}"


def _ordered(parameters: Sequence[Parameter]) -> list[Parameter]:
    """Each after all that its condition names, otherwise as written."""
    left, ordered = list(parameters), []
    while left:
        waiting = {parameter.key for parameter in left}
        ready = next(parameter for parameter in left if not waiting & parameter.when.keys())
        ordered.append(ready)
        left.remove(ready)
    return ordered
