"""What looks after the trials that Ray runs: judges their reports, passes signals on, ends those that hang."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray.tune import Callback
from ray.tune.experiment import Trial as RayTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.stopper import Stopper

from accelerator.tuning.ray_pruning import STEP, VALUE
from accelerator.tuning.ray_search import Sitting
from accelerator.tuning.ray_worker import NUMBER, alive_file
from accelerator.tuning.workers import Report

SAVES = 10.0  # seconds that trials have to save and end when the study is stopped
LOOK = 0.5  # seconds between two looks for signs of life


class Judge(FIFOScheduler):
    """Has trials stopped that are not worth going on with; asks Optuna's pruner and one of Ray's schedulers.

    Ray would end the process of such a trial. It is told to go on instead, and the objective, by its report, to stop.
    """

    def __init__(self, sitting: Sitting, scheduler: TrialScheduler | None) -> None:
        super().__init__()
        self.sitting, self.scheduler = sitting, scheduler
        self._asked: set[str] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        return FIFOScheduler, ()

    def on_trial_add(self, tune_controller: Any, trial: RayTrial) -> None:
        """A trial is about to begin."""
        if self.scheduler is not None:
            self.scheduler.on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: RayTrial, result: dict[str, Any]) -> str:
        """A trial has reported."""
        if VALUE not in result or trial.trial_id in self._asked:
            return TrialScheduler.CONTINUE
        if self.sitting.safely(lambda: self.stops(tune_controller, trial, result)):
            self._asked.add(trial.trial_id)
            # Calls of an actor are answered in order: this one before the next step.
            trial.temporary_state.ray_actor.ask_to_stop.remote()  # pyright: ignore[reportOptionalMemberAccess]
        return TrialScheduler.CONTINUE

    def stops(self, controller: Any, trial: RayTrial, result: dict[str, Any]) -> bool:
        """Put a report into the study, and judge it."""
        value, step = result[VALUE], result[STEP]
        tuner = self.sitting.tuner
        stop = tuner._report(self.sitting.running[trial.trial_id], Report(value, step))
        if self.scheduler is None:
            return stop
        if not math.isfinite(value):  # as Optuna's pruners have it
            return math.isnan(value) or (value > 0) == (next(iter(tuner.plan.objectives.values())) == "min")
        return self.scheduler.on_trial_result(controller, trial, result) == TrialScheduler.STOP

    def on_trial_complete(self, tune_controller: Any, trial: RayTrial, result: dict[str, Any]) -> None:
        """A trial has ended: the schedulers know its reports."""

    def on_trial_error(self, tune_controller: Any, trial: RayTrial) -> None:
        """A trial's process has died; told before `StudySearch.on_trial_complete` is."""
        file = trial.error_file
        text = Path(file).read_text() if file is not None and Path(file).exists() else ""
        self.sitting.deaths.setdefault(trial.trial_id, death(text))

    def on_trial_remove(self, tune_controller: Any, trial: RayTrial) -> None:
        """A trial that has not begun is not wanted any more."""


class Watch(Callback):
    """Looks after the trials that run: passes signals on, and ends processes that give no sign of life."""

    def __init__(self, sitting: Sitting, stop: Stop) -> None:
        self.sitting, self.stop = sitting, stop
        self.signs: dict[str, tuple[float, float]] = {}
        self.looked = 0.0
        self.passed_on: set[str] = set()
        self.deadline = math.inf

    def __reduce__(self) -> tuple[Any, ...]:
        return Callback, ()

    def on_trial_result(
        self, iteration: int, trials: list[RayTrial], trial: RayTrial, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial has said something."""
        self.sitting.heard(result[NUMBER])

    def on_step_end(self, iteration: int, trials: list[RayTrial], **info: Any) -> None:
        """Some ten times a second."""
        running = [trial for trial in trials if trial.status == RayTrial.RUNNING]
        if self.sitting.asked or self.sitting.raised is not None:
            self._end(running)
        elif self.sitting.tuner.plan.heartbeat and time.monotonic() - self.looked > LOOK:
            self.looked = time.monotonic()
            for trial in running:
                self._look(trial, self.sitting.tuner.plan.heartbeat)

    def _end(self, running: Sequence[RayTrial]) -> None:
        """Have the trials save and end; those that take too long are ended."""
        now = time.monotonic()
        self.deadline = min(self.deadline, now + SAVES)
        reason = self.sitting.asked[0] if self.sitting.asked else "the study's end"
        for trial in running:
            actor = trial.temporary_state.ray_actor
            if actor is not None and trial.trial_id not in self.passed_on:
                self.passed_on.add(trial.trial_id)
                actor.ask_to_stop.remote(reason)
            if actor is not None and now > self.deadline:
                ray.kill(actor)
        self.stop.now = not running or now > self.deadline + LOOK

    def _look(self, trial: RayTrial, heartbeat: float) -> None:
        now, number = time.monotonic(), self.sitting.running.get(trial.trial_id)
        if number is None:
            return
        try:
            sign = alive_file(Path(self.sitting.tuner.folder), number).stat().st_mtime
        except OSError:
            sign = 0.0
        last, since = self.signs.get(trial.trial_id, (-1.0, now))
        if sign != last:
            self.signs[trial.trial_id] = (sign, now)
        elif (silent := now - since) > 2 * heartbeat + LOOK and trial.temporary_state.ray_actor is not None:
            self.sitting.deaths[trial.trial_id] = f"its process gave no sign of life for {silent:.0f} s and was ended"
            ray.kill(trial.temporary_state.ray_actor)


class Stop(Stopper):
    """Ends Ray's run.

    Attributes:
        now: whether it is time.
    """

    now = False

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether one trial is to end: that is for others to say."""
        return False

    def stop_all(self) -> bool:
        """Whether all are."""
        return self.now


def death(text: str) -> str:
    """Why a process that is gone is gone.

    Args:
        text: what Ray says of it, a page of causes that might be.
    """
    if "memory" in text.split("exit detail:")[0] or "low on memory" in text:
        return "its process was ended by Ray because memory ran out"
    if "exit type: SYSTEM_ERROR" in text:
        return "its process died: it was killed (the system does that when memory runs out), or it ended by itself"
    if "node" in text and "died" in text.split("exit detail:")[0]:
        return "its process died, or its machine did"
    return f"Ray could not run it: {text.strip().splitlines()[-1] if text.strip() else 'it does not say why'}"
