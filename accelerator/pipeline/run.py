"""Runs the steps of a pipeline that are not done, each as a process of its own, as many side by side as is asked."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from accelerator.errors import RunDirectoryError, Terminated
from accelerator.pipeline.plan import Pipeline, Step
from accelerator.pipeline.process import STOPPING, Log
from accelerator.pipeline.state import ABSENT, BEGUN, DONE, Folder, Ingredients, Verdict
from accelerator.runtime.run_directory import is_owned

OUTPUT = "output.log"  # what a step said, in its folder

MADE, UNCHANGED, FAILED, STOPPED, NOT_RUN = "done", "unchanged", "failed", "stopped", "not run"

_LOOK = 0.1  # seconds between two looks at what steps say
_OTHERS_SAVE = 60.0  # seconds to wait for a step that a killed pipeline left behind


@dataclass
class Outcome:
    """What became of a step.

    Attributes:
        status: `MADE`, `UNCHANGED`, `FAILED`, `STOPPED` or `NOT_RUN`.
        reason: why it was run, or was not.
        begin: seconds after the pipeline's start.
        end: the same.
        code: exit code of its process.
    """

    status: str = NOT_RUN
    reason: str = ""
    begin: float | None = None
    end: float | None = None
    code: int | None = None


class Listener(Protocol):
    """Is told what happens."""

    def begins(self, step: Step, verdict: Verdict) -> None:
        """A step starts."""

    def says(self, step: Step, line: str) -> None:
        """It says a line."""

    def ends(self, step: Step, outcome: Outcome) -> None:
        """It is over, or need not run."""

    def waits(self, step: Step) -> None:
        """A process that a killed pipeline left behind still works on it."""


@dataclass
class _Running:
    step: Step
    pid: int
    handle: int
    log: Log
    outcome: Outcome


@dataclass
class Execution:
    """One execution.

    Args:
        pipeline: what to run.
        folder: its folder; the caller owns it.
        own: what a step is made from, but for other steps' results.
        start: starts a step's process, from its beginning or on from its own checkpoint; returns its id.
        listener: is told what happens.
        forced: steps to run though they are done.
        until: the last step to run; None runs all.
    """

    pipeline: Pipeline
    folder: Folder
    own: Callable[[Step], Ingredients]
    start: Callable[[Step, Path, bool], int]
    listener: Listener
    forced: Collection[str] = ()
    until: str | None = None
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.outcomes = {name: Outcome() for name in self.pipeline.steps}
        self._wanted = list(self.pipeline.steps) if self.until is None else self.pipeline.until(self.until)
        self._running: list[_Running] = []
        self._signals: list[int] = []
        self._begin = time.monotonic()

    def ingredients(self, step: Step) -> dict[str, str]:
        """What a step is made from, now; those it needs must be done."""
        found = dict(self.own(step))
        found |= {f"need:{need}": self.folder.digest(need) for need in step.needs}
        if step.source is not None:
            found["load"] = f"{step.source}:{step.choice or ''}"
        return found

    def plan(self) -> dict[str, Verdict]:
        """What would happen, as far as it can be known before: a step after one that is made is made too."""
        found: dict[str, Verdict] = {}
        for name, step in self.pipeline.steps.items():
            made = [need for need in step.needs if found[need].state != DONE]
            if made:
                found[name] = Verdict(ABSENT, f"needs {', '.join(made)}")
            elif name in self.forced:
                found[name] = Verdict(ABSENT, "forced")
            else:
                found[name] = self.folder.judge(step, self.ingredients(step))
        return {name: verdict for name, verdict in found.items() if name in self._wanted}

    def run(self) -> None:
        """Run; `outcomes` tells what became of each step.

        Raises:
            Terminated: a signal stopped it; the steps that ran were told, and have ended.
            KeyboardInterrupt: it came a second time.
        """
        self._begin = time.monotonic()
        try:
            with self._passing_signals_on():
                while True:
                    self._start_what_is_ready()
                    if not self._running:
                        break
                    self._look()
        finally:
            for running in self._running:  # only where we failed ourselves, or were told twice
                with suppress(ProcessLookupError):
                    os.killpg(running.pid, signal.SIGKILL)
                os.waitpid(running.pid, 0)
                os.close(running.handle)
            for name in self._wanted:
                missing = self._missing(self.pipeline.steps[name])
                if missing and self.outcomes[name].status == NOT_RUN:
                    self.outcomes[name].reason = f"needs {', '.join(missing)}"
        if self._signals:
            raise Terminated(signal.Signals(self._signals[0]).name)

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._begin

    @property
    def failed(self) -> list[str]:
        """The steps that failed."""
        return [name for name, outcome in self.outcomes.items() if outcome.status == FAILED]

    def _start_what_is_ready(self) -> None:
        """Start what can be, and pass over what is done; again, for what that makes ready."""
        progress = True
        while progress and not self._signals and not (self.failed and self.pipeline.on_error == "stop"):
            progress = False
            for name in self._wanted:
                if len(self._running) >= self.pipeline.parallel:
                    return
                if self._is_ready(self.pipeline.steps[name]):
                    self._begin_step(self.pipeline.steps[name])
                    progress = True

    def _is_ready(self, step: Step) -> bool:
        begun = self.outcomes[step.name].status != NOT_RUN or any(step is other.step for other in self._running)
        return not begun and not self._missing(step)

    def _missing(self, step: Step) -> list[str]:
        """What it needs that is not done."""
        return [need for need in step.needs if self.outcomes[need].status not in (MADE, UNCHANGED)]

    def _begin_step(self, step: Step) -> None:
        self._wait_for_others(step)
        if self._signals:
            return
        ingredients = self.ingredients(step)
        verdict = self.folder.judge(step, ingredients)
        if step.name in self.forced:
            verdict = Verdict(ABSENT, "forced")
        outcome = self.outcomes[step.name]
        outcome.reason = verdict.reason
        if verdict.state == DONE:
            outcome.status = UNCHANGED
            if step.name not in self.folder.state.steps:  # it had just finished when the pipeline was killed
                self.folder.note(step.name, (self.folder.result(step.name) or {}).get("seconds", 0.0))
            self.listener.ends(step, outcome)
            return
        folder = self.folder.step(step.name) if verdict.state == BEGUN else self.folder.begin(step, ingredients)
        self.listener.begins(step, verdict)
        log = Log(folder / OUTPUT)
        # A signal that comes now is held back until there is somebody to pass it on to.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
        try:
            pid = self.start(step, folder / OUTPUT, verdict.state == BEGUN)
            outcome.begin = self.seconds
            self._running.append(_Running(step, pid, os.pidfd_open(pid), log, outcome))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _wait_for_others(self, step: Step) -> None:
        folder, end = self.folder.step(step.name), time.monotonic() + _OTHERS_SAVE
        if not is_owned(folder):
            return
        self.listener.waits(step)
        while is_owned(folder) and not self._signals:
            if time.monotonic() > end:
                raise RunDirectoryError(f"{folder} is in use by another process for {_OTHERS_SAVE:.0f} s; stop it")
            time.sleep(0.2)

    def _look(self) -> None:
        ended = select.select([running.handle for running in self._running], [], [], _LOOK)[0]
        for running in list(self._running):
            over = running.handle in ended
            code = self._exit_code(running) if over else None
            for line in running.log.lines(over=over):
                self.listener.says(running.step, line)
            if code is not None:
                self._end_step(running, code)

    def _exit_code(self, running: _Running) -> int:
        _, status = os.waitpid(running.pid, 0)
        os.close(running.handle)
        self._running.remove(running)
        code = os.waitstatus_to_exitcode(status)
        return 128 - code if code < 0 else code

    def _end_step(self, running: _Running, code: int) -> None:
        step, outcome = running.step, running.outcome
        outcome.end, outcome.code = self.seconds, code
        assert outcome.begin is not None
        seconds = outcome.end - outcome.begin
        if code == 0 and not step.kind.composed and (self.folder.step(step.name) / str(step.out)).is_file():
            self.folder.finish_export(step, seconds)
        if code == 0 and self.folder.result(step.name) is not None:
            outcome.status = MADE
            self.folder.note(step.name, seconds)
        elif self._signals and code != 0:
            outcome.status = STOPPED
        else:
            outcome.status = FAILED
            outcome.reason = f"exit code {code}" if code else "it left no result"
            outcome.code = code or 1
        self.listener.ends(step, outcome)

    @contextmanager
    def _passing_signals_on(self) -> Iterator[None]:
        """The first signal goes to the steps, which save themselves; the second ends them and us at once."""

        def pass_on(number: int, frame: Any) -> None:
            if self._signals:
                raise KeyboardInterrupt
            self._signals.append(number)
            for running in self._running:
                with suppress(ProcessLookupError):
                    os.kill(running.pid, number)

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, pass_on) for number in STOPPING}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
