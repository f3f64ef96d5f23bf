"""A study by Optuna's ask and tell: this process asks and tells, and worker processes measure.

What the storage holds is the study, whole: whoever dies, it goes on from there. A trial's user attributes say what its
state does not: ``error``; ``retry_of`` (number of the trial of which it is another attempt); ``again`` (it is to be
tried again: ``died`` or ``stopped``).
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerator.errors import ConfigError, Terminated
from accelerator.tuning.base import Objective, Plan, Standing, State, TrialOutcome, changed_study, differences
from accelerator.tuning.choosing import GRID, GRID_POINTS, make_pruner, make_sampler, quiet, require_optuna
from accelerator.tuning.distributions import Choice, Integer
from accelerator.tuning.search_space import Parameter
from accelerator.tuning.workers import Assignment, Ending, Pool, Report

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial
    from optuna.trial import Trial as OptunaTrial


DESCRIBED = "study"  # user attribute of a study: `Plan.described`
SECONDS = "seconds"  # user attribute of a trial that began later than it was asked for: how long it took


class OptunaTuner:
    """A study by Optuna; see `accelerator.tuning.base.Tuner`.

    Args:
        plan: of the study.
        folder: of the study; its own storage stands there.
        storage: see `accelerator.tuning.storage.open_storage`.
        sampler: ``name`` (see `accelerator.tuning.choosing.SAMPLERS`) and arguments of Optuna's class of that name.
        pruner: ``name`` (see `PRUNERS` there) and arguments; without any, the median's for one objective, else none.
        begin: called in each worker before anything else, with its index.

    Raises:
        ConfigError: sampler, pruner or storage are none, or the storage holds another study of that name.
    """

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        storage: str = "journal",
        sampler: Mapping[str, Any] | None = None,
        pruner: Mapping[str, Any] | None = None,
        begin: Callable[[int], None] = lambda index: None,
    ) -> None:
        require_optuna()
        self.plan = plan
        self._begin = begin
        self._sampler = dict(sampler or {"name": "tpe"})
        self.study = self._opened(folder, storage, pruner)
        self._running: dict[int, OptunaTrial] = {}

    def _opened(self, folder: Path, storage: str, pruner: Mapping[str, Any] | None) -> Study:
        import optuna

        from accelerator.tuning.storage import open_storage

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        plan = self.plan
        with quiet():
            # Everything that may be wrong is found before the storage is made.
            chosen = make_sampler(self._sampler, plan.seed)
            watching = make_pruner(pruner, plan.objectives)
            opened = open_storage(storage, folder)
            known = plan.name in optuna.get_all_study_names(opened)
            directions = [
                optuna.study.StudyDirection.MAXIMIZE if mode == "max" else optuna.study.StudyDirection.MINIMIZE
                for mode in plan.objectives.values()
            ]
            study = (
                optuna.load_study(study_name=plan.name, storage=opened, sampler=chosen, pruner=watching)
                if known
                else optuna.create_study(
                    study_name=plan.name, storage=opened, sampler=chosen, pruner=watching, directions=directions
                )
            )
        if not known:
            study.set_user_attr(DESCRIBED, plan.described())
            return study
        self._check_same(study, plan.described())
        done = len(study.get_trials(deepcopy=False))
        if done and plan.seed is not None:
            # The same seed again would draw the same points again.
            study.sampler = make_sampler(self._sampler, plan.seed + done)
        return study

    def _check_same(self, study: Study, now: Mapping[str, Mapping[str, str]]) -> None:
        before = study.user_attrs.get(DESCRIBED)
        if before is None:
            raise ConfigError(
                f"tune.storage: the study '{self.plan.name}' in it is not one of accelerator tune; choose another "
                "tune.name"
            )
        if changed := differences(before, now):
            raise ConfigError(changed_study(self.plan.name, changed))

    def run(self, objective: Objective, told: Callable[[TrialOutcome], None] = lambda outcome: None) -> None:
        """See `accelerator.tuning.base.Tuner`."""
        plan = self.plan
        self._recover()
        started = self._tried()
        until = math.inf if plan.timeout is None else time.monotonic() + plan.timeout
        points = self._grid()
        if started >= plan.trials and not self._waiting():
            return
        pool = Pool(objective, min(plan.workers, max(1, plan.trials)), plan.heartbeat, self._begin)
        kill = True
        try:
            with stopping(pool.stop) as asked, quiet():
                while True:
                    while not asked and time.monotonic() < until and (worker := pool.idle()) is not None:
                        again = self._waiting()
                        if not again and (started >= plan.trials or not self._enqueue(points, started)):
                            break
                        started += not again
                        worker.assign(self._ask())
                    if not pool.busy:
                        break
                    for worker, assignment, said in pool.wait():
                        if isinstance(said, Report):
                            worker.send(self._report(assignment.number, said))
                        else:
                            if asked and (said.died or said.state is State.STOPPED):  # of our asking
                                said = Ending(State.STOPPED, error=f"stopped by {asked[0]}")
                            told(self._tell(assignment.number, said))
            kill = False
        finally:
            pool.close(kill=kill)
        if asked:
            raise Terminated(asked[0])

    def outcomes(self) -> list[TrialOutcome]:
        """See `accelerator.tuning.base.Tuner`."""
        return [self._outcome(trial) for trial in self.study.get_trials(deepcopy=False)]

    def _tried(self) -> int:
        """Points tried so far; another attempt at one is no other point."""
        return sum("retry_of" not in trial.user_attrs for trial in self.study.get_trials(deepcopy=False))

    def _waiting(self) -> bool:
        from optuna.trial import TrialState

        return bool(self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))

    def standing(self) -> Standing:
        """How far the study is, and what of it `run` tries again."""
        return Standing.of(self.outcomes(), self.plan)

    def _recover(self) -> None:
        """After an earlier part of the study: what it left running is over, and what is to be tried again is queued."""
        from optuna.trial import TrialState

        trials, standing = self.study.get_trials(deepcopy=False), self.standing()
        queued = {trial.user_attrs.get("retry_of") for trial in trials}
        for number in [*standing.stopped, *standing.failed]:
            if trials[number].state is TrialState.RUNNING:
                self._fail(trials[number], "the study was killed while it ran", again="stopped")
            elif number not in queued:
                self._again(trials[number])

    def _grid(self) -> Iterator[dict[str, Any]] | None:
        """What a grid has left; None for a sampler that has no end."""
        if self._sampler.get("name") != GRID:
            return None
        points = self.plan.space.grid(self._sampler.get("points", GRID_POINTS))
        for _ in range(self._tried()):
            next(points, None)
        return points

    def _enqueue(self, points: Iterator[dict[str, Any]] | None, number: int) -> bool:
        """Queue a grid's next point; False where it has none left."""
        if points is None:
            return True
        if (point := next(points, None)) is None:
            return False
        self.study.enqueue_trial(self.plan.space.encode(point))
        return True

    def _ask(self) -> Assignment:
        trial = self.study.ask()
        self._running[trial.number] = trial
        space = self.plan.space
        values = space.suggest(lambda parameter: parameter.distribution.decode(_suggested(trial, parameter)))
        return Assignment(trial.number, values)

    def _report(self, number: int, report: Report) -> bool:
        if len(self.plan.objectives) > 1:
            return False  # which of two trials is better is not told by one of several values
        trial = self._running[number]
        trial.report(report.value, report.step)
        return trial.should_prune()

    def _tell(self, number: int, ending: Ending) -> TrialOutcome:
        from optuna.trial import TrialState

        trial = self._running.pop(number)
        ending = _checked(ending, self.plan)
        if ending.state is State.COMPLETE:
            told = self.study.tell(trial, ending.scores)
        elif ending.state is State.PRUNED:
            told = self.study.tell(trial, state=TrialState.PRUNED)
        else:
            frozen = self.study.get_trials(deepcopy=False)[number]
            again = "stopped" if ending.state is State.STOPPED else "died" if self._may_retry(frozen, ending) else None
            told = self._fail(frozen, ending.error or "", again=again, users=ending.users)
        return self._outcome(told)

    def _may_retry(self, trial: FrozenTrial, ending: Ending) -> bool:
        """Whether a process that died is a reason to try once more.

        That the study was stopped counts for nothing, and neither does what an earlier part of it had given up.
        """
        attempts = 0
        trials = self.study.get_trials(deepcopy=False)
        while (before := trial.user_attrs.get("retry_of")) is not None and "again" in trials[before].user_attrs:
            trial = trials[before]
            attempts += trial.user_attrs["again"] == "died"
        return ending.died and attempts < self.plan.retries

    def _fail(self, trial: FrozenTrial, error: str, *, again: str | None, users: bool = False) -> FrozenTrial:
        from optuna.trial import TrialState

        storage, study = self.study._storage, self.study
        storage.set_trial_user_attr(trial._trial_id, "error", error[:2000])
        if users:
            storage.set_trial_user_attr(trial._trial_id, "users", True)
        if again is not None:
            storage.set_trial_user_attr(trial._trial_id, "again", again)
        told = study.tell(trial.number, state=TrialState.FAIL)
        if again is not None:
            self._again(told)
        return told

    def _again(self, trial: FrozenTrial) -> None:
        """Queue another attempt."""
        self.study.enqueue_trial(dict(trial.params), user_attrs={"retry_of": trial.number})

    def _outcome(self, trial: FrozenTrial) -> TrialOutcome:
        from optuna.trial import TrialState

        states = {
            TrialState.COMPLETE: State.COMPLETE,
            TrialState.PRUNED: State.PRUNED,
            TrialState.FAIL: State.FAILED,
            TrialState.RUNNING: State.RUNNING,
            TrialState.WAITING: State.WAITING,
        }
        state = states[trial.state]
        if state is State.FAILED and trial.user_attrs.get("again") == "stopped":
            state = State.STOPPED
        begin, end = trial.datetime_start, trial.datetime_complete
        return TrialOutcome(
            number=trial.number,
            values=self.plan.space.decode(trial.params) if _whole(self.plan, trial) else {},
            state=state,
            scores=list(trial.values) if trial.values is not None else None,
            error=trial.user_attrs.get("error"),
            users=bool(trial.user_attrs.get("users")),
            seconds=trial.user_attrs.get(SECONDS, (end - begin).total_seconds() if begin and end else None),
            retry_of=trial.user_attrs.get("retry_of"),
            reports=dict(sorted(trial.intermediate_values.items())),
        )


def _suggested(trial: OptunaTrial, parameter: Parameter) -> Any:
    name, drawn = parameter.name, parameter.distribution
    if isinstance(drawn, Choice):
        return trial.suggest_categorical(name, drawn.labels)
    if isinstance(drawn, Integer):
        return trial.suggest_int(name, drawn.low, drawn.high, step=drawn.step, log=drawn.log)
    return trial.suggest_float(name, drawn.low, drawn.high, step=drawn.step, log=drawn.log)


def _whole(plan: Plan, trial: FrozenTrial) -> bool:
    """Whether every parameter of the trial was drawn before its process died."""
    try:
        plan.space.decode(trial.params)
    except (KeyError, StopIteration):
        return False
    return True


def _checked(ending: Ending, plan: Plan) -> Ending:
    """A trial that says it is complete has a finite number for each objective."""
    if ending.state is not State.COMPLETE:
        return ending
    scores = ending.scores or []
    if len(scores) != len(plan.objectives):
        return Ending(
            State.FAILED,
            error=f"{len(scores)} values for {len(plan.objectives)} objectives ({', '.join(plan.objectives)})",
        )
    wrong = [
        f"{name} is {score}" for name, score in zip(plan.objectives, scores, strict=True) if not math.isfinite(score)
    ]
    return Ending(State.FAILED, error="; ".join(wrong)) if wrong else ending


@contextmanager
def stopping(stop: Callable[[], None]) -> Iterator[list[str]]:
    """While inside, the first SIGTERM or SIGINT stops the study; the second ends everything at once.

    Args:
        stop: has the trials under way saved and ended.

    Yields:
        The signals that have come.
    """
    asked: list[str] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(number: int, _: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(signal.Signals(number).name)
        stop()

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
