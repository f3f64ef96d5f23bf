"""A study of a train function: its hyperparameters are searched, by several processes at a time."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from accelerator.errors import ConfigError, Terminated
from accelerator.experiment.best_config import as_file
from accelerator.experiment.config import TuningConfig
from accelerator.experiment.runner import ELSEWHERE, Experiment, Trial, in_own_words, merged
from accelerator.experiment.study_checks import PRIMARY, check_config, check_same, study_name, with_name
from accelerator.experiment.train_function import identity
from accelerator.runtime.checkpoint.operation import write_bytes
from accelerator.runtime.journal import Journal
from accelerator.runtime.run_directory import JOURNAL, PLOTS, RESULT, owned
from accelerator.tracking.fleet import Fleet, FleetTracker, say_dead
from accelerator.tracking.record import About, RunRecord, check_store
from accelerator.tuning import base
from accelerator.tuning.base import (
    Plan,
    State,
    StudyError,
    TrialOutcome,
    TrialPruned,
    best_of,
    last_attempts,
)
from accelerator.tuning.distributions import brief
from accelerator.tuning.search_space import SearchSpace
from accelerator.tuning.study_file import STUDY, write_study

log = logging.getLogger(__name__)

PLACE = "studies"
BEST = "best.yaml"
DEFAULT_STORAGE = TuningConfig().storage


@dataclass
class StudyResult:
    """What a study came to.

    Attributes:
        folder: of the study; each trial has a folder of its number in it.
        outcomes: every trial, in order.
        best: the best that ran to its end.
        hyperparameters: the whole set of the best, as the function was given them.
        metric: what the function calls its primary metric.
        importances: how much each hyperparameter mattered, as shares.
        run_id: of the study's record.
        where: where the record is to be found: labels and what they say.
    """

    folder: Path
    outcomes: list[TrialOutcome]
    best: TrialOutcome
    hyperparameters: dict[str, Any]
    metric: str = PRIMARY
    importances: dict[str, float] = field(default_factory=dict)
    run_id: str | None = None
    where: list[tuple[str, str]] = field(default_factory=list)


class FunctionStudy:
    """Measures the trials of a study of a train function.

    Args:
        experiment: the function and its config.
        overrides: what was typed, for the record.

    Attributes:
        folder: of the study.
        outcomes: its trials, as far as it has come.

    Raises:
        ConfigError: holds what is wrong with the section ``tuning``.
    """

    def __init__(self, experiment: Experiment, overrides: tuple[str, ...] = ()) -> None:
        check_config(experiment.config, experiment.name)
        self.experiment, self.overrides = experiment, overrides
        self.section = experiment.config.tuning
        name = study_name(experiment.config, experiment.name)
        self.folder = Path(PLACE, name).absolute()
        self.outcomes: list[TrialOutcome] = []
        self._metric = PRIMARY
        self._plan = Plan(
            name,
            SearchSpace.parse(self.section.space, "tuning.space"),
            {PRIMARY: "min" if self.section.direction == "minimize" else "max"},
            trials=self.section.n_trials,
            workers=self.section.workers,
            retries=self.section.retries,
            heartbeat=self.section.heartbeat,
            seed=experiment.config.seed,
            timeout=self.section.timeout,
            alike={"train function": identity(experiment.function)},
        )

    @property
    def plan(self) -> Plan:
        """The plan, with the primary metric called as the function calls it, once a trial has said how."""
        return replace(self._plan, objectives=dict.fromkeys([self._metric], self._plan.objectives[PRIMARY]))

    def run(self, told: Callable[[TrialOutcome], None] = lambda outcome: None) -> StudyResult:
        """Go on from where the study stands to its last trial.

        Args:
            told: called with each trial that has ended.

        Raises:
            ConfigError: the study in the folder is another one, or its storage cannot be opened.
            StudyError: no trial has run to its end.
            Terminated: a signal stopped the study; the same call goes on with it.
        """
        recorded = self.experiment.recorded(self.experiment.config)
        with in_own_words():
            check_store(recorded)
            check_same(self.folder, self._plan, recorded)  # before a storage that is lost is made anew
            self._check_storage()
        with owned(self.folder, ELSEWHERE), Journal(self.folder / JOURNAL) as journal:
            with in_own_words():
                tuner = self._tuner()
            self._look(tuner)
            about = About("tune", recorded, self.overrides, kind="tune", name=f"study {self._plan.name}")
            record = RunRecord(recorded, about, self.folder)
            record.open(journal, {"train_function": self.experiment.function_name})
            if self.outcomes:
                log.info("%s", tuner.standing().said(self._plan))
            fleet = None
            if self.experiment.config.mlflow.enabled:
                fleet = Fleet(self.folder, self.experiment.config.mlflow.uri)
                if self.section.backend == "ray":  # whose workers are no forks of this process
                    tuner.began = lambda number: fleet.announce(self.folder / str(number))
            error = None
            try:
                self._measure(tuner, fleet, journal, told)
                result = self._result(tuner, journal)
            except BaseException as raised:
                error = raised
                raise
            finally:
                if fleet is not None:
                    fleet.finish([], self.experiment.config.mlflow.timeout)
                record.close(journal, error)
            result.run_id = record.tracked.run_id if record.tracked else None
            result.where = record.where
            write_bytes(self.folder / RESULT, json.dumps(as_plain(result), indent=1).encode())
        return result

    def _check_storage(self) -> None:
        """What cannot be had is told before there is a folder."""
        if self.section.storage != DEFAULT_STORAGE:
            from accelerator.tuning.storage import open_storage

            open_storage(self.section.storage, self.folder)

    def _tuner(self) -> Any:
        section = self.section
        options = (self._plan, self.folder, section.storage, with_name(section.sampler), with_name(section.pruner))
        if section.backend == "ray":
            from accelerator.tuning.ray_tuner import RayTuner

            return RayTuner(*options, **vars(section.ray))
        from accelerator.tuning.optuna_tuner import OptunaTuner

        return OptunaTuner(*options)

    def _look(self, tuner: Any, shares: Mapping[str, Mapping[str, float]] | None = None) -> None:
        """See how far the study is, and tell it in its file."""
        self.outcomes = [outcome for outcome in tuner.outcomes() if outcome.state is not State.WAITING]
        for outcome in self.outcomes:
            self._learn_name(outcome)
        write_study(self.folder / STUDY, self.plan, self.outcomes, storage=self.section.storage, shares=shares)

    def _learn_name(self, outcome: TrialOutcome) -> None:
        if self._metric == PRIMARY and outcome.state in (State.COMPLETE, State.PRUNED):
            with suppress(OSError, ValueError, KeyError):
                result = json.loads((self.folder / str(outcome.number) / RESULT).read_text())
                self._metric = str(result["primary_metric_name"])

    def _measure(self, tuner: Any, fleet: Fleet | None, journal: Journal, told: Callable[[TrialOutcome], None]) -> None:
        experiment, folder, mode = self.experiment, self.folder, self.section.direction
        tracker = partial(FleetTracker, fleet=fleet)

        def objective(trial: base.Trial) -> float:
            tried = " ".join(f"{key}={brief(value)}" for key, value in trial.values.items())
            ours = Trial(trial.number, folder, trial.report, f"{trial.number}: {tried}")
            outcome = experiment.run(trial.values, run_dir=folder / str(trial.number), trial=ours, tracker=tracker)
            if outcome.result.minimize != (mode == "minimize"):
                raise ConfigError(
                    f"tuning.direction={mode}, and the function returned minimize={outcome.result.minimize} with "
                    f"{outcome.result.primary_metric_name}: make them agree"
                )
            if outcome.pruned:
                raise TrialPruned
            return outcome.result.primary_metric

        def ended(outcome: TrialOutcome) -> None:
            place = folder / str(outcome.number)
            if outcome.state in (State.FAILED, State.STOPPED) and outcome.error:
                say_dead(place, place / JOURNAL, outcome.error, stopped=outcome.state is State.STOPPED)
            self._learn_name(outcome)
            if outcome.state is State.COMPLETE and outcome.scores:
                journal.metric(f"trial/{self._metric}", outcome.scores[0], outcome.number)
                journal.flush()
            told(outcome)

        try:
            tuner.run(objective, ended)
        except Terminated as stopped:
            done = f"{tuner.standing().done} of {self._plan.trials} trials are done"
            stopped.args = (f"{stopped}; {done}; the same command goes on with the study",)
            raise
        finally:
            self._look(tuner)

    def _result(self, tuner: Any, journal: Journal) -> StudyResult:
        """Find the best, and leave behind what others go on from."""
        outcomes, plan = self.outcomes, self.plan
        best = best_of(outcomes, plan.objectives)
        if not best:
            failed = [outcome for outcome in last_attempts(outcomes) if outcome.state is State.FAILED]
            why = f"; trial {failed[0].number}: {failed[0].error}" if failed else ""
            kind = ConfigError if failed and all(outcome.users for outcome in failed) else StudyError
            raise kind(f"study {plan.name}: no trial has run to its end{why}")
        whole = merged(self.experiment.config.hyperparameters, best[0].values)
        result = StudyResult(self.folder, outcomes, best[0], whole, self._metric)
        assert best[0].scores is not None
        journal.metrics(
            {f"best/{self._metric}": best[0].scores[0], "best/trial": best[0].number, "trials": len(outcomes)}, 0
        )
        heading = f"Trial {best[0].number} of study {plan.name}: {self._metric} {best[0].scores[0]:.5g}"
        path = self.folder / BEST
        write_bytes(path, as_file(self.experiment, whole, heading).encode())
        journal.event("artifact", path=str(path), artifact_path=None)
        from accelerator.tuning.pictures import draw, importances

        shares = importances(tuner.study, [self._metric])
        result.importances = shares.get(self._metric, {})
        self._look(tuner, shares)
        journal.event("artifact", path=str(self.folder / STUDY), artifact_path=None)
        journal.metrics({f"importance/{key}": share for key, share in result.importances.items()}, 0)
        for picture in draw(tuner.study, [self._metric], self.folder / PLOTS):
            journal.event("artifact", path=str(picture), artifact_path=PLOTS)
        return result


def as_plain(result: StudyResult) -> dict[str, Any]:
    """A result as the file ``result.json`` holds it."""
    assert result.best.scores is not None
    return {
        "metrics": {f"best/{result.metric}": result.best.scores[0]},
        "best_trial": result.best.number,
        "hyperparameters": result.hyperparameters,
        "importances": result.importances,
        "trials": [{**vars(outcome), "state": str(outcome.state)} for outcome in result.outcomes],
        "run_dir": str(result.folder),
        "run_id": result.run_id,
    }
