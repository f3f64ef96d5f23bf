"""Processes that measure trials, one after the other, and the process that hands them out.

A worker is a fork of the process that drives the study: everything imported there is there, so it begins within
milliseconds. It holds no storage and decides nothing: it is sent a trial, sends back what the objective reports and
returns, and gives a sign of life while it works. So no trial is lost or doubled, however many workers there are, and
one that is killed, even in the middle of a word, costs its trial alone.

A worker outlives the driving process by the time its training takes to save.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from traceback import format_exception
from typing import Any, NamedTuple

from accelerator.errors import AcceleratorError, Terminated, UserError
from accelerator.tuning.base import Objective, State, TrialPruned

LOOK = 0.5  # seconds between a worker's looks at whether the driving process lives
OUTLIVES = 30.0  # seconds it has for saving when it does not


class Assignment(NamedTuple):
    """A trial to be measured."""

    number: int
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Ending:
    """How a trial ended.

    Attributes:
        state: complete, pruned, failed or stopped.
        scores: what the objective returned.
        error: why it failed.
        users: the failure is a mistake in config or data, not a fault.
        died: its process did.
    """

    state: State
    scores: list[float] | None = None
    error: str | None = None
    users: bool = False
    died: bool = False


class Report(NamedTuple):
    """How good a trial is so far; it waits for the answer whether to stop."""

    value: float
    step: int


class AssignedTrial:
    """The trial an objective is given, in the worker; see `accelerator.tuning.base.Trial`."""

    def __init__(self, assignment: Assignment, send: Callable[[Any], None], receive: Callable[[], Any]) -> None:
        self.number = assignment.number
        self.values = assignment.values
        self.should_stop = False
        self._send, self._receive = send, receive

    def report(self, value: float, step: int) -> bool:
        """See `accelerator.tuning.base.Trial`."""
        try:
            self._send(Report(float(value), int(step)))
            self.should_stop = bool(self._receive())
        except (EOFError, OSError):  # nobody drives the study any more: `_live` has the training saved and ended
            return False
        return self.should_stop


class Worker:
    """One such process, as the driving process sees it.

    Args:
        index: among the workers.
        objective: what it calls.
        heartbeat: seconds between two signs of life; None: it gives none.
        begin: called in the new process before anything else.
        others: the workers there are; the new process lets go of what it inherits of them.
    """

    def __init__(
        self,
        index: int,
        objective: Objective,
        heartbeat: float | None,
        begin: Callable[[int], None],
        others: Sequence[Worker],
    ) -> None:
        self.index = index
        self.assignment: Assignment | None = None
        self.heard = time.monotonic()
        self.connection, theirs = get_context("fork").Pipe()
        ours = [self.connection, *(worker.connection for worker in others)]
        sys.stdout.flush()
        sys.stderr.flush()
        self.process = get_context("fork").Process(
            target=_work, args=(index, objective, heartbeat, begin, theirs, ours, os.getpid()), daemon=False
        )
        self.process.start()
        theirs.close()
        self.gone = _death_of(self.process)

    def assign(self, assignment: Assignment) -> None:
        """Have a trial measured."""
        self.assignment, self.heard = assignment, time.monotonic()
        self.send(assignment)

    def send(self, message: Any) -> None:
        """Say something; a worker that is gone is noticed by `Pool.wait`."""
        with suppress(OSError):
            self.connection.send(message)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, unless it has ended."""
        if self.process.is_alive() and self.process.pid is not None:
            os.kill(self.process.pid, number)

    def bury(self) -> None:
        """Wait for its end, end whatever it has started, and let go of it."""
        self.process.join()
        assert self.process.pid is not None
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.connection.close()
        os.close(self.gone)

    def death(self, silent: float | None) -> str:
        """Why a worker that is gone is gone."""
        code = self.process.exitcode or 0
        if silent is not None:
            return f"gave no sign of life for {silent:.0f} s and was ended"
        if code < 0:
            hint = "; the system does that when memory runs out" if -code == signal.SIGKILL else ""
            return f"was killed by {signal.Signals(-code).name}{hint}"
        return f"ended with exit code {code}"


class Pool:
    """The workers of a study.

    Args:
        objective: what they call.
        size: how many there are.
        heartbeat: see `Worker`.
        begin: see `Worker`.
    """

    def __init__(
        self,
        objective: Objective,
        size: int,
        heartbeat: float | None = None,
        begin: Callable[[int], None] = lambda index: None,
    ) -> None:
        self.objective, self.heartbeat, self.begin = objective, heartbeat, begin
        self.workers: list[Worker] = []
        for index in range(size):
            self.workers.append(self._started(index))

    def _started(self, index: int) -> Worker:
        others = [worker for worker in self.workers if worker.index != index]
        return Worker(index, self.objective, self.heartbeat, self.begin, others)

    def idle(self) -> Worker | None:
        """A worker that has nothing to do."""
        return next((worker for worker in self.workers if worker.assignment is None), None)

    @property
    def busy(self) -> list[Worker]:
        """The workers that measure."""
        return [worker for worker in self.workers if worker.assignment is not None]

    def wait(self) -> list[tuple[Worker, Assignment, Report | Ending]]:
        """What the workers have to say; waits until one has, or is gone."""
        busy = self.busy
        sources = [source for worker in busy for source in (worker.connection, worker.gone)]
        ready = wait(sources, self._patience(busy))
        said: list[tuple[Worker, Assignment, Report | Ending]] = []
        for worker in busy:
            assert worker.assignment is not None
            if worker.connection in ready or (worker.gone in ready and worker.connection.poll()):
                try:
                    message = worker.connection.recv()
                except (EOFError, OSError):
                    said.append(self._replaced(worker, None))
                    continue
                worker.heard = time.monotonic()
                if message is not None:
                    said.append((worker, worker.assignment, message))
                if isinstance(message, Ending):
                    worker.assignment = None
            elif worker.gone in ready:
                said.append(self._replaced(worker, None))
            elif self.heartbeat and (silent := time.monotonic() - worker.heard) > 2 * self.heartbeat:
                worker.signal(signal.SIGKILL)
                said.append(self._replaced(worker, silent))
        return said

    def _patience(self, busy: Sequence[Worker]) -> float | None:
        if not self.heartbeat or not busy:
            return None
        return max(0.0, min(worker.heard for worker in busy) + 2 * self.heartbeat - time.monotonic()) + 0.01

    def _replaced(self, worker: Worker, silent: float | None) -> tuple[Worker, Assignment, Ending]:
        assignment = worker.assignment
        assert assignment is not None
        worker.bury()
        ending = Ending(State.FAILED, error=f"its process {worker.death(silent)}", died=True)
        self.workers[self.workers.index(worker)] = self._started(worker.index)
        return worker, assignment, ending

    def stop(self) -> None:
        """Ask the trials under way to save and end."""
        for worker in self.busy:
            worker.signal(signal.SIGTERM)

    def close(self, *, kill: bool = False) -> None:
        """End the workers; at once, or when they have done what they are at."""
        for worker in self.workers:
            if kill:
                worker.signal(signal.SIGKILL)
            worker.send(None)
        for worker in self.workers:
            worker.process.join(OUTLIVES)
            worker.signal(signal.SIGKILL)
            worker.bury()


def _death_of(process: Any) -> int:
    """A descriptor that can be read once the process is dead, whatever it had started and still lives."""
    if hasattr(os, "pidfd_open"):
        return os.pidfd_open(process.pid)
    return os.dup(process.sentinel)


def _work(
    index: int,
    objective: Objective,
    heartbeat: float | None,
    begin: Callable[[int], None],
    connection: Connection,
    inherited: Sequence[Connection],
    parent: int,
) -> None:
    """The life of a worker."""
    os.setpgrp()  # Ctrl-C is for the driving process, which tells us
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for other in inherited:
        other.close()
    speak = threading.Lock()

    def send(message: Any) -> None:
        with speak:
            connection.send(message)

    begin(index)
    threading.Thread(target=_live, args=(send, heartbeat, parent), daemon=True).start()
    own, code = os.getpid(), 0
    try:
        while (assignment := connection.recv()) is not None:
            ending = measured(objective, AssignedTrial(assignment, send, connection.recv))
            if os.getpid() != own:  # the objective has forked, and this is what it left running
                os._exit(1)
            send(ending)
    except (EOFError, OSError):
        code = 1
    flush()
    os._exit(code)  # what was forked has nothing to take down that is its own


def flush() -> None:
    """Write out what was printed."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()


def _live(send: Callable[[Any], None], heartbeat: float | None, parent: int) -> None:
    """Give signs of life; end the training, and then the process, when the driving process is gone."""
    spoken = time.monotonic()
    while os.getppid() == parent:
        if heartbeat and time.monotonic() - spoken >= heartbeat:
            try:
                send(None)
            except OSError:
                break
            spoken = time.monotonic()
        time.sleep(min(LOOK, heartbeat or inf))
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(OUTLIVES)
    os._exit(1)


def measured(objective: Objective, trial: AssignedTrial) -> Ending:
    """Call the objective, and tell what came of it."""
    try:
        returned = objective(trial)
    except TrialPruned:
        return Ending(State.PRUNED)
    except Terminated as error:
        # A training's own message tells how to go on with it alone; the study tries it again itself.
        return Ending(State.STOPPED, error=f"stopped by {error.signal_name}")
    except (Exception, SystemExit) as error:
        text = f"{type(error).__name__}: {error}" if not isinstance(error, AcceleratorError) else str(error)
        if not isinstance(error, AcceleratorError):
            sys.stderr.write("".join(format_exception(error)))
        return Ending(State.FAILED, error=text, users=isinstance(error, UserError))
    if trial.should_stop:
        return Ending(State.PRUNED)
    try:
        scores = [float(value) for value in (returned if isinstance(returned, Sequence) else [returned])]
    except (TypeError, ValueError):
        return Ending(
            State.FAILED,
            error=f"the objective returned {returned!r} ({type(returned).__name__}): expected a number, or several",
        )
    return Ending(State.COMPLETE, scores)


def said_in(file: Path) -> None:
    """From here on this process prints into a file."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
