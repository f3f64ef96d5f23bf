"""Where Ray Tune asks a study for points, and tells it which trials have ended.

The study is Optuna's, in the storage the other backend has it in, and the only thing that is kept; so the points are
the same, and a study goes on from there with either backend.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ray.tune.search import Searcher

from accelerator.tuning.base import State, StudyError, TrialOutcome
from accelerator.tuning.optuna_tuner import SECONDS
from accelerator.tuning.ray_worker import ENDING, NUMBER, VALUES, Ended, alive_file
from accelerator.tuning.workers import Assignment, Ending

if TYPE_CHECKING:
    from accelerator.tuning.ray_tuner import RayTuner


class Sitting:
    """One run of a study, from where it stands to its last trial or to the signal that stops it.

    Args:
        tuner: the study.
        told: called with each trial that has ended.
        began: called with the number of each trial of which something is heard for the first time.
        asked: the signals that have come.
    """

    def __init__(
        self,
        tuner: RayTuner,
        told: Callable[[TrialOutcome], None],
        began: Callable[[int], None],
        asked: list[str],
    ) -> None:
        self.tuner, self.told, self.began, self.asked = tuner, told, began, asked
        self.started = tuner._tried()
        timeout = tuner.plan.timeout
        self.until = math.inf if timeout is None else time.monotonic() + timeout
        self.points = tuner._grid()
        self.running: dict[str, int] = {}
        self.deaths: dict[str, str] = {}
        self.raised: BaseException | None = None
        self._heard: set[int] = set()
        self._nothing_left = False

    @property
    def over(self) -> bool:
        """Whether no further trial is to begin, whatever is left."""
        return bool(self.asked) or self.raised is not None or time.monotonic() >= self.until

    def next(self, trial_id: str) -> Assignment | None:
        """A point for one of Ray's trials; None where there is none, for now."""
        if self.over or self._nothing_left:
            return None
        again = self.tuner._waiting()
        if not again and (self.started >= self.tuner.plan.trials or not self.tuner._enqueue(self.points, self.started)):
            self._nothing_left = True
            return None
        self.started += not again
        assignment = self.tuner._ask()
        self.running[trial_id] = assignment.number
        return assignment

    def heard(self, number: int) -> None:
        """Something came from a trial."""
        if number not in self._heard:
            self._heard.add(number)
            self.safely(lambda: self.began(number))

    def ended(self, trial_id: str, ending: Ending, seconds: float | None = None) -> None:
        """A trial has ended, in whichever way.

        Args:
            trial_id: Ray's name of it.
            ending: how.
            seconds: it took by itself; None where its process cannot say.
        """
        if (number := self.running.pop(trial_id, None)) is None:
            return
        if self.asked and ending.died:
            ending = Ending(State.STOPPED, error=f"stopped by {self.asked[0]}")
        alive_file(self.tuner.folder, number).unlink(missing_ok=True)
        self._nothing_left = False  # it may be tried again
        self.heard(number)

        def tell() -> None:
            if seconds is not None:
                self.tuner._running[number].set_user_attr(SECONDS, seconds)
            self.told(self.tuner._tell(number, ending))

        self.safely(tell)

    def unusable(self, problem: str) -> None:
        """The workers cannot call the objective at all: another trial would fare no better."""
        self.raised = self.raised or StudyError(f"the objective cannot be called in Ray's workers: {problem}")

    def close(self) -> None:
        """Whatever still runs is over."""
        for trial_id in list(self.running):
            why = f"stopped by {self.asked[0]}" if self.asked else "the study ended while it ran"
            self.ended(trial_id, Ending(State.STOPPED, error=why))

    def safely(self, act: Callable[[], Any]) -> Any:
        """Do something for Ray; what it raises ends the study, where Ray would take it for a trial's failure."""
        try:
            return act()
        except BaseException as error:
            self.raised = self.raised or error
            return None


class StudySearch(Searcher):
    """Ray's source of points."""

    def __init__(self, sitting: Sitting) -> None:
        super().__init__()
        self.sitting = sitting

    def __reduce__(self) -> tuple[Any, ...]:
        # Ray keeps a copy of its settings in its folder; the study is in its storage, and nowhere else.
        return Searcher, ()

    def suggest(self, trial_id: str) -> Any:
        """A point, with the number of its trial; None where there is none for now, a word where there is no more."""
        assignment = self.sitting.next(trial_id)
        if assignment is None:
            return Searcher.FINISHED if self.sitting.over or not self.sitting.running else None
        return {NUMBER: assignment.number, VALUES: dict(assignment.values)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A trial has ended."""
        seconds = None
        if result and ENDING in result:
            ended = Ended.of(result[ENDING])
            ending, seconds = ended.ending, ended.seconds
            if not ended.usable:
                self.sitting.unusable(ending.error or "")
        elif error:
            ending = Ending(State.FAILED, error=self.sitting.deaths.pop(trial_id, "its process died"), died=True)
        else:
            ending = Ending(State.STOPPED, error="the study ended before it began")
        self.sitting.ended(trial_id, ending, seconds)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: see `__reduce__`."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, likewise."""
