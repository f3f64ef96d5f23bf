"""What measures a trial in a worker of Ray: the objective in a thread, and Ray's steps from one report to the next.

Ray calls `Measurement.step` again and again, on whatever machine the worker is. Each call lets the objective go on to
its next report, which is what the call returns; the last one returns how the trial ended. So an objective that is to
stop is told so by its report, and ends by itself, as it does with the other backend; Ray ends nothing in the middle.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from ray import cloudpickle
from ray.tune import Trainable

from accelerator.errors import ConfigError
from accelerator.tuning.base import Objective, State
from accelerator.tuning.ray_pruning import STEP, VALUE
from accelerator.tuning.workers import OUTLIVES, AssignedTrial, Assignment, Ending, Report, measured, said_in

NUMBER, VALUES, ENDING = "number", "values", "ending"  # in what Ray is told of a trial
OUTPUT = "output.txt"
PLACE = "ray"  # in the study's folder: what Ray writes
_NOT_SHIPPED = ("CUDA_", "LD_", "OMP_", "PYTHON", "RAY_", "TUNE_", "VIRTUAL_ENV", "PATH", "HOME", "PWD", "TMPDIR")


@dataclass(frozen=True)
class Shipped:
    """The objective, and what it needs around it in another process, maybe of another machine.

    Attributes:
        objective: pickled.
        folder: the study's, which all machines see.
        place: the working directory.
        path: where modules are found.
        environment: variables that are set there if they are not.
        heartbeat: seconds between two signs of life; None: none is given.
    """

    objective: bytes
    folder: str
    place: str
    path: tuple[str, ...]
    environment: Mapping[str, str]
    heartbeat: float | None

    @classmethod
    def of(cls, objective: Objective, folder: Path, heartbeat: float | None) -> Shipped:
        """Pack it.

        Raises:
            ConfigError: it cannot be pickled.
        """
        try:
            pickled = cloudpickle.dumps(objective)
        except Exception as error:  # whatever the objects in it raise
            raise ConfigError(
                f"the objective cannot be sent to Ray's workers: {type(error).__name__}: {error}; make what cannot be "
                "pickled (locks, open files, connections, iterators) inside the function"
            ) from error
        environment = {key: value for key, value in os.environ.items() if not key.startswith(_NOT_SHIPPED)}
        path = tuple(os.path.abspath(entry) for entry in sys.path)
        return cls(pickled, str(folder.absolute()), os.getcwd(), path, environment, heartbeat)

    def unpacked(self) -> Objective:
        """Make this process like the one that packed it, and unpack.

        Raises:
            FileNotFoundError, ImportError, Exception: something it needs is not there.
        """
        for folder in (self.folder, self.place):
            if not Path(folder).is_dir():
                raise FileNotFoundError(f"{folder} is not there: the machines of a cluster have to share it")
        self.enter()
        for key, value in self.environment.items():
            os.environ.setdefault(key, value)
        sys.path += [entry for entry in self.path if entry not in sys.path]
        return cloudpickle.loads(self.objective)

    def enter(self) -> None:
        """Ray puts each trial into a folder of its own; relative paths are meant otherwise."""
        os.chdir(self.place)


class Call:
    """One call of the objective, in a thread of its own.

    Args:
        objective: what is called.
        assignment: the trial.
        shipped: what it needs around it.
    """

    def __init__(self, objective: Objective, assignment: Assignment, shipped: Shipped) -> None:
        self._said: queue.SimpleQueue[Report | Ending] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._ended = threading.Event()
        trial = AssignedTrial(assignment, self._said.put, self._answers.get)
        name = f"trial-{assignment.number}"
        self._thread = threading.Thread(target=self._call, args=(objective, trial), name=name, daemon=True)
        self._thread.start()
        if shipped.heartbeat:
            file = alive_file(Path(shipped.folder), assignment.number)
            threading.Thread(target=self._live, args=(file, shipped.heartbeat), daemon=True).start()

    def _call(self, objective: Objective, trial: AssignedTrial) -> None:
        try:
            ending = measured(objective, trial)
        except BaseException as error:  # nothing may keep `wait` from its answer
            ending = Ending(State.FAILED, error=f"{type(error).__name__}: {error}")
        self._ended.set()
        self._said.put(ending)

    def _live(self, file: Path, heartbeat: float) -> None:
        while not self._ended.wait(heartbeat):
            file.touch()

    def answer(self, stop: bool) -> None:
        """Let it go on from its report."""
        self._answers.put(stop)

    def wait(self) -> Report | Ending:
        """Its next report, or how it ended."""
        return self._said.get()

    def abandon(self) -> None:
        """Have it end, and wait for that as long as a training takes to save."""
        self.answer(True)
        self._thread.join(OUTLIVES)


class Measurement(Trainable):
    """One trial after the other, as Ray Tune sees it."""

    def setup(self, config: dict[str, Any], shipped: Shipped | None = None) -> None:
        """Unpack the objective; what is wrong with it is told by the first step."""
        assert shipped is not None
        self.shipped = shipped
        self.objective: Objective | None = None
        self.problem = ""
        try:
            self.objective = shipped.unpacked()
        except Exception as error:
            self.problem = f"{type(error).__name__}: {error}"
        self._next(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """The next trial."""
        self._next(new_config)
        return True

    def _next(self, config: Mapping[str, Any]) -> None:
        self.shipped.enter()
        self.assignment = Assignment(config[NUMBER], config[VALUES])
        self.call: Call | None = None
        self.stop_asked, self.reason, self.begin = False, "", 0.0

    def ask_to_stop(self, reason: str = "") -> None:
        """Have the objective told, by its last report, to stop.

        Args:
            reason: the signal that stopped the study; "": others were better.
        """
        self.stop_asked, self.reason = True, reason

    def step(self) -> dict[str, Any]:
        """Let the objective go on to its next report, or to its end."""
        if self.objective is None:
            return self._ending(Ending(State.FAILED, error=self.problem), usable=False)
        if self.call is None:
            self.begin = time.perf_counter()
            folder = Path(self.shipped.folder, str(self.assignment.number))
            folder.mkdir(exist_ok=True)
            said_in(folder / OUTPUT)
            self.call = Call(self.objective, self.assignment, self.shipped)
        else:
            self.call.answer(self.stop_asked)
        said = self.call.wait()
        if isinstance(said, Report):
            return {VALUE: said.value, STEP: said.step, NUMBER: self.assignment.number}
        self.call = None
        if self.reason and said.state is State.PRUNED:
            said = replace(said, state=State.STOPPED, error=f"stopped by {self.reason}")
        return self._ending(said)

    def _ending(self, ending: Ending, *, usable: bool = True) -> dict[str, Any]:
        seconds = time.perf_counter() - self.begin if self.begin else 0.0
        text = json.dumps({"ending": asdict(ending), "seconds": seconds, "usable": usable})
        return {ENDING: text, NUMBER: self.assignment.number, "done": True}

    def cleanup(self) -> None:
        """End what still runs."""
        if self.call is not None:
            self.call.abandon()


def alive_file(study: Path, number: int) -> Path:
    """What a trial touches as a sign of life."""
    return study / PLACE / f"alive-{number}"


class Ended(NamedTuple):
    """What a trial's last step says.

    Attributes:
        ending: how it ended.
        seconds: it took, without the start of the worker.
        usable: whether the worker could call the objective at all.
    """

    ending: Ending
    seconds: float
    usable: bool

    @classmethod
    def of(cls, text: str) -> Ended:
        """From what `Measurement.step` returns under ``ending``."""
        said = json.loads(text)
        ending = Ending(**{**said["ending"], "state": State(said["ending"]["state"])})
        return cls(ending, said["seconds"], said["usable"])
