"""A study of a train function: its hyperparameters are searched, by several processes at a time."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from accelerator.errors import ConfigError
from accelerator.experiment.runner import Experiment, Trial, merged
from accelerator.runtime.checkpoint.operation import write_bytes
from accelerator.runtime.journal import Journal
from accelerator.runtime.run_directory import CONFIG, JOURNAL, PLOTS, RESULT, owned
from accelerator.tracking.difference import difference
from accelerator.tracking.fleet import Fleet, FleetTracker, say_dead
from accelerator.tracking.locations import locate
from accelerator.tracking.masking import masked
from accelerator.tracking.record import About, RunRecord, check_store
from accelerator.tracking.tracker import environment
from accelerator.tuning import base
from accelerator.tuning.base import Plan, State, StudyError, TrialOutcome, TrialPruned, best_of, changed_study
from accelerator.tuning.search_space import SearchSpace

PLACE = "studies"
PRIMARY = "primary_metric"
BEST = "best.yaml"

_NAMED = re.compile(r"[\w+-][\w.+-]*")  # not ".."


@dataclass
class StudyResult:
    """What a study came to.

    Attributes:
        folder: of the study; each trial has a folder of its number in it.
        outcomes: every trial, in order.
        best: the best that ran to its end.
        hyperparameters: the whole set of the best, as the function was given them.
        importances: how much each hyperparameter mattered, as shares.
        run_id: of the study's record.
        where: where the record is to be found: labels and what they say.
    """

    folder: Path
    outcomes: list[TrialOutcome]
    best: TrialOutcome
    hyperparameters: dict[str, Any]
    importances: dict[str, float] = field(default_factory=dict)
    run_id: str | None = None
    where: list[tuple[str, str]] = field(default_factory=list)


class FunctionStudy:
    """Measures the trials of a study of a train function.

    Args:
        experiment: the function and its config.
        overrides: what was typed, for the record.

    Raises:
        ConfigError: holds what is wrong with the section ``tuning``.
    """

    def __init__(self, experiment: Experiment, overrides: tuple[str, ...] = ()) -> None:
        self.experiment, self.overrides = experiment, overrides
        self.section = experiment.config.tuning
        name = self.section.name or re.sub(r"[^\w.+-]+", "-", experiment.name)
        if not _NAMED.fullmatch(name):
            raise ConfigError(f"tuning.name={name}: expected letters, digits and . _ + -; it is the name of a folder")
        self.folder = Path(PLACE, name).absolute()
        self.plan = Plan(
            name,
            SearchSpace.parse(self.section.space, "tuning.space"),
            {PRIMARY: "min" if self.section.direction == "minimize" else "max"},
            trials=self.section.n_trials,
            workers=self.section.workers,
            retries=self.section.retries,
            heartbeat=self.section.heartbeat,
            seed=experiment.config.seed,
            timeout=self.section.timeout,
        )

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
        check_store(recorded)
        self._check_same(recorded)
        with owned(self.folder), Journal(self.folder / JOURNAL) as journal:
            try:
                tuner = self._tuner()
            except ConfigError as raised:  # the section has another name there
                problems = [re.sub(r"\btune\.", "tuning.", problem) for problem in raised.problems]
                raise ConfigError(problems) from raised
            about = About("tune", recorded, self.overrides, kind="tune", name=f"study {self.plan.name}")
            record = RunRecord(recorded, about, self.folder)
            record.open(journal, {"train_function": self.experiment.function_name})
            fleet = None
            if self.experiment.config.mlflow.enabled:
                fleet = Fleet(self.folder, environment(locate(self.experiment.config.mlflow.uri)))
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

    def _tuner(self) -> Any:
        section = self.section
        options = (self.plan, self.folder, section.storage, _named(section.sampler), _named(section.pruner))
        if section.backend == "ray":
            from accelerator.tuning.ray_tuner import RayTuner

            return RayTuner(*options, **vars(section.ray))
        from accelerator.tuning.optuna_tuner import OptunaTuner

        return OptunaTuner(*options)

    def _measure(self, tuner: Any, fleet: Fleet | None, journal: Journal, told: Callable[[TrialOutcome], None]) -> None:
        experiment, folder, mode = self.experiment, self.folder, self.section.direction
        tracker = partial(FleetTracker, fleet=fleet)

        def objective(trial: base.Trial) -> float:
            ours = Trial(trial.number, folder, trial.report)
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
                say_dead(place, place / JOURNAL, outcome.error)
            if outcome.state is State.COMPLETE and outcome.scores:
                journal.metric(f"trial/{PRIMARY}", outcome.scores[0], outcome.number)
                journal.flush()
            told(outcome)

        tuner.run(objective, ended)

    def _result(self, tuner: Any, journal: Journal) -> StudyResult:
        """Find the best, and leave behind what others go on from."""
        outcomes = [outcome for outcome in tuner.outcomes() if outcome.state is not State.WAITING]
        best = best_of(outcomes, self.plan.objectives)
        if not best:
            failed = [outcome for outcome in outcomes if outcome.state is State.FAILED]
            why = f"; trial {failed[0].number}: {failed[0].error}" if failed else ""
            kind = ConfigError if failed and all(outcome.users for outcome in failed) else StudyError
            raise kind(f"study {self.plan.name}: no trial has run to its end{why}")
        whole = merged(self.experiment.config.hyperparameters, best[0].values)
        result = StudyResult(self.folder, outcomes, best[0], whole)
        assert best[0].scores is not None
        journal.metrics(
            {f"best/{PRIMARY}": best[0].scores[0], "best/trial": best[0].number, "trials": len(outcomes)}, 0
        )
        config = {
            "experiment": {"name": self.experiment.name, "seed": self.experiment.config.seed},
            "hyperparameters": whole,
        }
        heading = f"# Trial {best[0].number} of study {self.plan.name}: {PRIMARY} {best[0].scores[0]:.5g}\n"
        path = self.folder / BEST
        write_bytes(path, (heading + yaml.safe_dump(config, sort_keys=False)).encode())
        journal.event("artifact", path=str(path), artifact_path=None)
        from accelerator.tuning.pictures import draw, importances

        result.importances = importances(tuner.study, [PRIMARY]).get(PRIMARY, {})
        journal.metrics({f"importance/{key}": share for key, share in result.importances.items()}, 0)
        for picture in draw(tuner.study, [PRIMARY], self.folder / PLOTS):
            journal.event("artifact", path=str(picture), artifact_path=PLOTS)
        return result

    def _check_same(self, recorded: Mapping[str, Any]) -> None:
        """What is the same in all trials decides their values as much as what is tried."""
        path = self.folder / CONFIG
        if not path.exists():
            return
        before = yaml.safe_load(path.read_text())
        was, now = ({**config["hyperparameters"], "seed": config["seed"]} for config in (before, masked(recorded)))
        found = difference(was, now)
        changed = [f"hyperparameters.{key} was {a}, is now {b}" for key, (a, b) in found["changed"].items()]
        changed += [f"hyperparameters.{key} is new: {value}" for key, value in found["added"].items()]
        changed += [f"hyperparameters.{key} was {value}, and is gone" for key, value in found["removed"].items()]
        if changed:
            raise ConfigError(changed_study(self.plan.name, changed).replace("tune.name", "tuning.name"))


def _named(chosen: str | dict[str, Any]) -> dict[str, Any]:
    return {"name": chosen} if isinstance(chosen, str) else chosen


def as_plain(result: StudyResult) -> dict[str, Any]:
    """A result as the file ``result.json`` holds it."""
    assert result.best.scores is not None
    return {
        "metrics": {f"best/{PRIMARY}": result.best.scores[0]},
        "best_trial": result.best.number,
        "hyperparameters": result.hyperparameters,
        "importances": result.importances,
        "trials": [{**vars(outcome), "state": str(outcome.state)} for outcome in result.outcomes],
        "run_dir": str(result.folder),
        "run_id": result.run_id,
    }
