"""What every tuner has in common: the plan of a study, what an objective is given, and what became of each trial.

A tuner calls an *objective*, ``trial -> values``, once for each point of the space it wants measured::

    def objective(trial):
        loss = train(**trial.values)            # {"optimizer.lr": 0.003, …}
        for step in range(10):
            if trial.report(loss, step):        # true: not worth going on with
                break
        return loss                             # or one value for each objective

Which library chooses the points, and in which processes the objective is called, is the tuner's business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from accelerator.errors import AcceleratorError
from accelerator.tuning.search_space import SearchSpace

DIRECTIONS = ("min", "max")


class StudyError(AcceleratorError):
    """A study ended without a single trial that did."""


class TrialPruned(Exception):  # noqa: N818 - not an error of anybody's
    """An objective may raise it to say that it stopped because it was asked to."""


class State(StrEnum):
    """What became of a trial."""

    COMPLETE = "complete"
    PRUNED = "pruned"  # stopped because others were better: no failure
    FAILED = "failed"  # it raised, or its value is no number, or its process died
    STOPPED = "stopped"  # the study was stopped while it ran; it is tried again when the study goes on
    RUNNING = "running"
    WAITING = "waiting"


@dataclass(frozen=True)
class Plan:
    """What is to be tried, and how often.

    Attributes:
        name: of the study, in its storage.
        space: what is tried.
        objectives: ``min`` or ``max`` by the metric's name, in the order in which an objective returns them.
        trials: points to measure; those an earlier part of the study has measured count.
        workers: processes that measure.
        retries: how often a trial is tried again whose process died.
        heartbeat: seconds between two signs of life; a process that gives none twice is ended. None: never.
        seed: of what is drawn at random; None: another one each time.
        timeout: seconds after which no new trial begins; None: there is no such time.
        alike: what else has to be the same for trials to compare: what it is called, and what it is.
    """

    name: str
    space: SearchSpace
    objectives: Mapping[str, str]
    trials: int
    workers: int = 1
    retries: int = 2
    heartbeat: float | None = 60.0
    seed: int | None = 0
    timeout: float | None = None
    alike: Mapping[str, str] = field(default_factory=dict)

    def described(self) -> dict[str, dict[str, str]]:
        """What makes it this study and no other, in words; see `differences`."""
        said = {"space": self.space.described(), "objectives": dict(self.objectives)}
        return {**said, "alike": dict(self.alike)} if self.alike else said


class Trial(Protocol):
    """What an objective is given.

    Attributes:
        number: of the trial, from 0 on.
        values: what is tried, by key.
        should_stop: what the last report was answered; a trial that returns with it set is a pruned one.
    """

    number: int
    values: Mapping[str, Any]
    should_stop: bool

    def report(self, value: float, step: int) -> bool:
        """Tell how good it is so far.

        Args:
            value: of the (only) objective.
            step: how far it is; later reports have larger ones.

        Returns:
            Whether to stop: others were better by then.
        """
        ...


Objective = Callable[[Trial], "float | Sequence[float]"]


@dataclass
class TrialOutcome:
    """What became of one trial.

    Attributes:
        number: of the trial.
        values: what was tried, by key.
        state: how it ended.
        scores: its value for each objective; of a pruned one the last it reported.
        error: why it failed.
        users: the failure is a mistake in config or data, not a fault.
        seconds: it took.
        retry_of: number of the trial of which this one is another attempt.
        reports: what it reported, by step.
    """

    number: int
    values: dict[str, Any]
    state: State
    scores: list[float] | None = None
    error: str | None = None
    users: bool = False
    seconds: float | None = None
    retry_of: int | None = None
    reports: dict[int, float] = field(default_factory=dict)


class Tuner(Protocol):
    """Chooses points and has them measured.

    Attributes:
        plan: of the study.
    """

    plan: Plan

    def run(self, objective: Objective, told: Callable[[TrialOutcome], None] = ...) -> None:
        """Measure until the plan's number of trials is reached.

        Args:
            objective: called in a process of its own, once for each trial.
            told: called here with each trial that has ended.

        Raises:
            Terminated: a signal stopped the study; what has ended is kept, and the rest is tried when it goes on.
        """
        ...

    def outcomes(self) -> list[TrialOutcome]:
        """Every trial of the study, in order."""
        ...


def better(mode: str) -> Callable[[float, float], bool]:
    """Whether a first value is better than a second."""
    return (lambda one, other: one > other) if mode == "max" else (lambda one, other: one < other)


def best_of(outcomes: Sequence[TrialOutcome], objectives: Mapping[str, str]) -> list[TrialOutcome]:
    """The best trials that ran to their end: one, or with several objectives all that no other is better than in all.

    With several objectives that is the Pareto front, in the order of the first objective.
    """
    ended = [outcome for outcome in outcomes if outcome.state is State.COMPLETE and outcome.scores is not None]
    signs = [1.0 if mode == "min" else -1.0 for mode in objectives.values()]
    costs = {
        outcome.number: [sign * score for sign, score in zip(signs, outcome.scores or (), strict=True)]
        for outcome in ended
    }
    if len(signs) == 1:
        return [min(ended, key=lambda outcome: costs[outcome.number])] if ended else []
    front = [
        outcome
        for outcome in ended
        if not any(_dominates(costs[other.number], costs[outcome.number]) for other in ended)
    ]
    return sorted(front, key=lambda outcome: costs[outcome.number])


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


@dataclass(frozen=True)
class Standing:
    """How far a study is. Its points are counted, not the attempts at them.

    Attributes:
        done: points that are measured: to the end, or as far as it was worth.
        stopped: numbers of the trials that are tried again because the study was stopped while they ran.
        failed: numbers of the failed trials that are tried again because the plan asks for more points than are done.
    """

    done: int
    stopped: list[int]
    failed: list[int]

    @classmethod
    def of(cls, outcomes: Sequence[TrialOutcome], plan: Plan) -> Standing:
        """What there is to go on from: failed trials take nothing of the plan's number."""
        last = last_attempts(outcomes)
        done = sum(outcome.state in (State.COMPLETE, State.PRUNED) for outcome in last)
        stopped = [outcome.number for outcome in last if outcome.state in (State.STOPPED, State.RUNNING)]
        failed = [outcome.number for outcome in last if outcome.state is State.FAILED]
        return cls(done, stopped, failed[: max(0, plan.trials - done - len(stopped))])

    def said(self, plan: Plan) -> str:
        """The same in a sentence."""
        over = self.done >= plan.trials
        parts = [
            f"{self.done} {'trial is' if self.done == 1 else 'trials are'} done"
            + (f", and {plan.trials} asked for" if over else f"; going on to {plan.trials}")
        ]
        for numbers, became in ((self.stopped, "stopped"), (self.failed, "failed")):
            if numbers:
                one = len(numbers) == 1
                parts.append(f"{len(numbers)} {became} before and {'is' if one else 'are'} tried again")
        return f"study {plan.name}: {'; '.join(parts)}"


def differences(before: Mapping[str, Mapping[str, str]], now: Mapping[str, Mapping[str, str]]) -> list[str]:
    """What of a study's space and objectives is another than it was, a sentence each."""
    found = []
    for part, what in (("space", "is tried"), ("objectives", "is the aim"), ("alike", "is given")):
        if part == "alike" and part not in before:  # an older study does not tell
            continue
        old, new = before.get(part, {}), now.get(part, {})
        for key in dict.fromkeys([*old, *new]):
            if old.get(key) != new.get(key):
                was = f"was {old[key]}" if key in old else "was not there"
                found.append(f"{key} {was}, {f'is now {new[key]}' if key in new else f'no longer {what}'}")
    return found


def last_attempts(outcomes: Sequence[TrialOutcome]) -> list[TrialOutcome]:
    """Of each point that was tried the newest attempt that has begun."""
    begun = [outcome for outcome in outcomes if outcome.state is not State.WAITING]
    retried = {outcome.retry_of for outcome in begun}
    return [outcome for outcome in begun if outcome.number not in retried]


def changed_study(name: str, changed: list[str]) -> str:
    """The message for a study that is not what it was."""
    rows = "".join(f"\n  {sentence}" for sentence in changed)
    return (
        f"the study '{name}' is another one, and its trials do not compare with new ones:{rows}\n"
        "leave that as it was, or give the new study a name of its own with tune.name=<name>; nothing was changed"
    )
