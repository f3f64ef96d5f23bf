"""Calls a train function with everything around it: its folder, its record, seeds, device, signals, a study."""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsFloat

from accelerator.errors import ConfigError, Terminated
from accelerator.experiment.config import ExperimentConfig
from accelerator.experiment.frameworks import framework
from accelerator.experiment.protocols import TrainFunction, TrainingContext, TrainingResult
from accelerator.experiment.train_function import call, check_train_function
from accelerator.runtime.checkpoint.operation import write_bytes
from accelerator.runtime.journal import Journal
from accelerator.runtime.run_directory import CHECKPOINTS, JOURNAL, RESULT, owned
from accelerator.runtime.signals import stop_on_signals
from accelerator.tracking.record import About, RunRecord, check_store
from accelerator.tracking.tracker import Tracker

if TYPE_CHECKING:
    from accelerator.experiment.study import StudyResult
    from accelerator.tuning.base import TrialOutcome

ELSEWHERE = "call it from"  # how one comes to another folder, for messages
FLUSH = 0.25  # seconds between two flushes of what the function logs


class JournalTracker:
    """The tracker of a train function: it writes the run's journal, which a process beside it puts on record.

    Args:
        journal: of the run.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def log_metric(self, name: str, value: SupportsFloat, step: int = 0) -> None:
        """One point."""
        self._journal.metric(name, _number(value), step)
        self._journal.flush_if_due()

    def log_metrics(self, values: Mapping[str, SupportsFloat], step: int = 0) -> None:
        """Several points of one step."""
        self._journal.metrics({name: _number(value) for name, value in values.items()}, step)
        self._journal.flush_if_due()

    def log_params(self, values: Mapping[str, Any]) -> None:
        """More params, beside the hyperparameters."""
        self._journal.event("params", values={name: str(value) for name, value in values.items()})

    def set_tags(self, values: Mapping[str, Any]) -> None:
        """Tags."""
        self._journal.event("tags", values={name: str(value) for name, value in values.items()})

    def log_artifact(self, path: str | Path, folder: str | None = None) -> None:
        """A file, or the content of a folder."""
        self._journal.event("artifact", path=str(Path(path).absolute()), artifact_path=folder)


@dataclass
class Outcome:
    """What a training leaves behind.

    Attributes:
        result: of the train function.
        run_dir: the run's folder.
        seconds: it took.
        run_id: of its record; None if none was kept.
        pruned: it was stopped because others of its study were better.
    """

    result: TrainingResult
    run_dir: Path
    seconds: float
    run_id: str | None = None
    pruned: bool = False


class Experiment:
    """A train function and its config.

    Args:
        function: takes a `TrainingContext`, returns a `TrainingResult`.
        config: see `ExperimentConfig`.
        command: what was typed, for the record.

    Raises:
        ConfigError: the function cannot be called with one argument.
    """

    def __init__(self, function: TrainFunction, config: ExperimentConfig | None = None, command: str = "run") -> None:
        check_train_function(function, getattr(function, "__name__", "the train function"))
        self.function, self.config, self.command = function, config or ExperimentConfig(), command

    @property
    def name(self) -> str:
        """The experiment's, in the record."""
        return self.config.name or self.config.mlflow.experiment or Path.cwd().name or "accelerator"

    def run(
        self,
        hyperparameters: Mapping[str, Any] | None = None,
        *,
        run_dir: Path | None = None,
        trial: Trial | None = None,
        overrides: tuple[str, ...] = (),
        tracker: Callable[..., Tracker] = Tracker,
    ) -> Outcome:
        """Train once.

        Args:
            hyperparameters: in place of the config's, those that are named.
            run_dir: a folder of its own; None: a new one below ``outputs/``.
            trial: of the study it is a part of.
            overrides: what was typed, for the record.
            tracker: makes what keeps the record.

        Raises:
            ConfigError: device, framework or store cannot be had.
            TrainFunctionError: the function returned no result.
            Terminated: a signal stopped it; the function had its chance to save.
            Exception: whatever the function raised; its traceback stands in ``error.txt``.
        """
        config = replace(self.config, hyperparameters=merged(self.config.hyperparameters, hyperparameters or {}))
        run_dir = run_dir or new_folder()
        recorded = self.recorded(config)
        if trial is not None:
            recorded["tracking"]["run_name"] = None  # it is the study's
        if trial is None:  # a study has looked for all of its trials
            with in_own_words():
                check_store(recorded)
        tools = framework(config.framework)
        device = "cpu" if tools is None else tools.device(config.device)
        if tools is not None:
            tools.limit_memory(config.memory_limit_gb, device)
            tools.seed(config.seed)
        begin = time.perf_counter()
        with owned(run_dir, ELSEWHERE), Journal(run_dir / JOURNAL, flush_every=FLUSH) as journal:
            (run_dir / RESULT).unlink(missing_ok=True)
            context = TrainingContext(
                hyperparameters=config.hyperparameters,
                tracker=JournalTracker(journal),
                trial_id="run" if trial is None else f"trial-{trial.number}",
                trial_number=0 if trial is None else trial.number,
                experiment_name=self.name,
                device=device,
                checkpoint_dir=run_dir / CHECKPOINTS,
                seed=config.seed,
                _judge=None if trial is None else trial.report,
            )
            context.checkpoint_dir.mkdir(exist_ok=True)
            about = About(
                self.command if trial is None else "tune",
                recorded,
                overrides,
                parent=None if trial is None else trial.study,
                kind="run" if trial is None else "trial",
                name=(config.name or self.function_name) if trial is None else trial.name,
            )
            record = RunRecord(recorded, about, run_dir, tracker=tracker)
            with record.kept(journal, {"train_function": self.function_name, "trial": trial and trial.number}):
                result = self._call(context)
                self._log(journal, result, context.pruned)
        outcome = Outcome(
            result,
            run_dir,
            time.perf_counter() - begin,
            record.tracked.run_id if record.tracked else None,
            context.pruned,
        )
        write_bytes(run_dir / RESULT, json.dumps(as_plain(outcome), indent=1).encode())
        self.record = record
        return outcome

    def tune(self, told: Callable[[TrialOutcome], None] = lambda outcome: None) -> StudyResult:
        """Search the hyperparameters as the config's section ``tuning`` says; the same call goes on with a study.

        Args:
            told: called with each trial that has ended.

        Raises:
            ConfigError: the space, the storage or the study in the folder is not what it has to be.
            StudyError: no trial has run to its end.
            Terminated: a signal stopped the study.
        """
        from accelerator.experiment.study import FunctionStudy

        return FunctionStudy(self).run(told)

    @property
    def function_name(self) -> str:
        """Of the train function, with its module."""
        module = getattr(self.function, "__module__", "")
        return f"{module}:{getattr(self.function, '__qualname__', type(self.function).__name__)}"

    def _call(self, context: TrainingContext) -> TrainingResult:
        with stop_on_signals(context):
            result = call(self.function, context)
        if context.asked is not None:
            raise Terminated(context.asked)
        return result

    def _log(self, journal: Journal, result: TrainingResult, pruned: bool) -> None:
        metrics = {**result.metrics, result.primary_metric_name: result.primary_metric}
        journal.metrics(metrics, result.epochs_completed)
        journal.event(
            "tags",
            values={
                "primary_metric": result.primary_metric_name,
                "primary_metric.mode": "min" if result.minimize else "max",
                "epochs_completed": result.epochs_completed,
                **({"pruned": "true"} if pruned else {}),
            },
        )
        if result.best_model_path is not None:
            path = Path(result.best_model_path).absolute()
            journal.event("artifact", path=str(path), artifact_path="model" if path.is_file() else f"model/{path.name}")

    def recorded(self, config: ExperimentConfig) -> dict[str, Any]:
        """The config as it is put on record: with the section that says where."""
        plain = asdict(config)
        tracking = plain.pop("mlflow") | {"experiment": self.name}
        sections = {name: plain.pop(name) for name in ("hyperparameters", "tuning")}
        seed = plain.pop("seed")
        return {"seed": seed, "experiment": plain, **sections, "tracking": tracking}


@dataclass(frozen=True)
class Trial:
    """A trial, as a training of it sees it.

    Attributes:
        number: from 0 on.
        study: its study's folder.
        report: tells a value at a step; returns whether to stop.
        name: in the record.
    """

    number: int
    study: Path
    report: Any
    name: str | None = None


@contextmanager
def in_own_words() -> Iterator[None]:
    """What is found by what `accelerator train` has in common with this is told by the keys it has here."""

    def reworded(told: logging.LogRecord) -> bool:
        told.msg, told.args = in_words([told.getMessage()])[0], ()
        return True

    told_by = logging.getLogger(check_store.__module__)
    told_by.addFilter(reworded)
    try:
        yield
    except ConfigError as error:
        raise ConfigError(in_words(error.problems)) from error
    finally:
        told_by.removeFilter(reworded)


def in_words(problems: Iterable[str]) -> list[str]:
    """Mistakes in the sections ``tune`` and ``tracking`` as they are in ``tuning`` and ``mlflow``.

    >>> in_words(["tune.trials=0", "set tracking.uri"])
    ['tuning.n_trials=0', 'set mlflow.uri']
    """
    key = r"(?<![\w./])"
    names = {"tune.trials": "tuning.n_trials", "tracking.experiment": "experiment.name"}
    names |= {"tune.": "tuning.", "tracking.": "mlflow."}
    found = list(problems)
    for theirs, ours in names.items():
        found = [re.sub(key + re.escape(theirs), ours, problem) for problem in found]
    return found


def merged(values: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """A nested mapping with some of its values replaced; a dotted key reaches into it.

    >>> merged({"optimizer": {"lr": 1, "name": "adam"}}, {"optimizer.lr": 2})
    {'optimizer': {'lr': 2, 'name': 'adam'}}
    """
    result = {key: merged(value, {}) if isinstance(value, Mapping) else value for key, value in values.items()}
    for key, value in others.items():
        first, dot, rest = key.partition(".")
        if key in result or not dot:
            below = result.get(key)
            result[key] = merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
        else:
            below = result.get(first)
            result[first] = merged(below if isinstance(below, Mapping) else {}, {rest: value})
    return result


def _number(value: SupportsFloat) -> float:
    """A number now: a tensor may be written to afterwards."""
    return float(value.detach() if hasattr(value, "detach") else value)  # pyright: ignore[reportAttributeAccessIssue]


def new_folder(place: str = "outputs") -> Path:
    """A name for a run's folder that no other has, as `accelerator train` gives them."""
    now = datetime.now()  # on the clock of the people who look for it
    return Path(place, f"{now:%Y-%m-%d}", f"{now:%H-%M-%S-%f}-{os.getpid()}").absolute()


def as_plain(outcome: Outcome) -> dict[str, Any]:
    """An outcome as the file ``result.json`` holds it, with the keys that every run's has."""
    result = outcome.result
    return {
        "metrics": {**result.metrics, result.primary_metric_name: result.primary_metric},
        "primary_metric": result.primary_metric,
        "primary_metric_name": result.primary_metric_name,
        "minimize": result.minimize,
        "best": None if result.best_model_path is None else str(result.best_model_path),
        "epochs_completed": result.epochs_completed,
        "pruned": outcome.pruned,
        "run_dir": str(outcome.run_dir),
        "run_id": outcome.run_id,
        "seconds": outcome.seconds,
    }
