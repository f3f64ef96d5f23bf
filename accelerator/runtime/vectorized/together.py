"""Several runs from their configs to their results, trained together.

Each is built as it would be alone, under its own seed, and each has its own context: feeds, callbacks, schedule,
validation, checkpoints, journal. What is common is the computing of the steps (`Stack`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from accelerator.runtime.callbacks.base import Callback
from accelerator.runtime.context.context import Context
from accelerator.runtime.data.feed import InMemoryFeed
from accelerator.runtime.engine.base import Clip
from accelerator.runtime.run import Result, opened
from accelerator.runtime.signals import stop_on_signals
from accelerator.runtime.vectorized.course import Course, course
from accelerator.runtime.vectorized.stack import CannotStackError, Stack
from accelerator.utilities.seed import rng_state, set_rng_state


@dataclass(frozen=True)
class Plan:
    """One of the runs; see `accelerator.runtime.run.execute`."""

    config: Mapping[str, Any]
    run_dir: Path
    fingerprint: str = ""
    commit: str | None = None
    callbacks: Mapping[str, Callback] = field(default_factory=dict)


def execute_together(
    plans: Sequence[Plan], watch: Callable[[Sequence[Context]], None] | None = None
) -> list[Result | Exception]:
    """Build, train and test the runs; one that fails leaves the others as they are.

    Args:
        plans: of runs that `accelerator.runtime.vectorized.fitness` has nothing against.
        watch: called after every step with the contexts of the runs that are on.

    Returns:
        For each run its result, or what ended it.

    Raises:
        CannotStackError: they cannot be trained together; nothing was trained, and nothing is left in their folders
            but an empty journal.
        KeyboardInterrupt: it was asked for; every run has been told.
    """
    outcomes: dict[int, Result | Exception] = {}
    contexts: dict[int, Context] = {}
    try:
        for number, plan in enumerate(plans):
            try:
                contexts[number] = _opened(plan, contexts)
            except Exception as error:
                outcomes[number] = error
        _check(list(contexts.values()))
    except BaseException:
        for context in contexts.values():
            assert context.journal is not None
            context.journal.close()
        raise
    with stop_on_signals(_All(list(contexts.values()))):
        _train(contexts, outcomes, watch)
    return [outcomes[number] for number in range(len(plans))]


def _opened(plan: Plan, others: Mapping[int, Context]) -> Context:
    randomness = _Randomness()
    context = opened(
        plan.config,
        plan.run_dir,
        fingerprint=plan.fingerprint,
        commit=plan.commit,
        callbacks={**plan.callbacks, "sweep.vectorize": randomness},
    )
    randomness.state = rng_state()
    for other in list(others.values())[:1]:
        _share_data(context, other)
    return context


class _Randomness(Callback):
    """The global generators as they were when the run was built: alone, nothing would have drawn from them since."""

    priority = 1000
    state: Mapping[str, Any]

    def save_start(self, context: Context) -> None:
        """Let the checkpoint hold them."""
        set_rng_state(dict(self.state))


class _All:
    """All runs, as somebody to ask to stop."""

    def __init__(self, contexts: Sequence[Context]) -> None:
        self.contexts = contexts
        self.asked: str | None = None

    def ask_to_stop(self, reason: str) -> None:
        self.asked = reason
        for context in self.contexts:
            context.ask_to_stop(reason)


def _share_data(context: Context, other: Context) -> None:
    """Keep data once that two runs have alike."""
    for name, feed in context.data.feeds.items():
        theirs = other.data.feeds.get(name)
        if isinstance(feed, InMemoryFeed) and isinstance(theirs, InMemoryFeed):
            if _equal(feed.inputs, theirs.inputs):
                feed.inputs = theirs.inputs
            if _equal(feed.targets, theirs.targets):
                feed.targets = theirs.targets


def _equal(ours: Tensor, theirs: Tensor) -> bool:
    return ours.dtype == theirs.dtype and ours.device == theirs.device and torch.equal(ours, theirs)


def _stack(contexts: Sequence[Context]) -> Stack:
    trainers = [context.config["trainer"] for context in contexts]
    return Stack(
        [context.model for context in contexts],
        contexts[0].objective,
        [context.optimizer for context in contexts],
        [Clip(trainer["clip_norm"], trainer["clip_value"]) for trainer in trainers],
    )


def _check(contexts: Sequence[Context]) -> None:
    """Try one step of all, and forget it."""
    if not contexts:
        return
    sizes = {(context.data.train.samples, context.data.train.batches) for context in contexts}
    if len(sizes) > 1:
        raise CannotStackError(
            f"data: the jobs have different numbers of training samples: {_numbers(size for size, _ in sizes)}"
        )
    batches = [next(iter(context.data.train.epoch(0))) for context in contexts]
    shapes = {tuple(part.shape for part in batch) for batch in batches}
    if len(shapes) > 1:
        raise CannotStackError("data: batches have other shapes in another job")
    before = rng_state()
    try:
        _stack(contexts).check(batches, [context.objective for context in contexts])
    finally:
        set_rng_state(before)


def _numbers(values: Any) -> str:
    return ", ".join(f"{value:,}" for value in sorted(values))


def _train(
    contexts: Mapping[int, Context],
    outcomes: dict[int, Result | Exception],
    watch: Callable[[Sequence[Context]], None] | None,
) -> None:
    """Let every run go on to its next batch, take the step of all, and so on until none is left."""
    courses = {number: course(context) for number, context in contexts.items()}

    def end(number: int, outcome: Result | Exception) -> None:
        outcomes[number] = outcome
        del courses[number]

    try:
        for number in list(courses):
            _advance(number, courses, end)
        stacked: list[int] = []
        on: list[Context] = []
        stack: Stack | None = None
        while courses:
            if stack is None or len(stacked) != len(courses):
                # Anew whenever one has left: nothing is computed for a run that is over.
                stacked = list(courses)
                on = [contexts[number] for number in stacked]
                stack = _stack(on)
            losses = stack.forward_backward([context.batch for context in on]).unbind()
            stack.step()
            for number, context, loss in zip(stacked, on, losses, strict=True):
                context.loss = loss
                _advance(number, courses, end)
            if watch is not None:
                watch(on)
    except BaseException as error:
        for number, left in list(courses.items()):
            with suppress(BaseException):  # that one is being told already
                left.throw(error)
            if isinstance(error, Exception):
                end(number, error)
        if not isinstance(error, Exception):
            raise


def _advance(number: int, courses: Mapping[int, Course], end: Callable[[int, Result | Exception], None]) -> None:
    try:
        next(courses[number])
    except StopIteration as stop:
        end(number, stop.value)
    except Exception as error:
        end(number, error)
