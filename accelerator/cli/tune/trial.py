"""One trial of a study: a training like any other, in its own folder below the study's, nested in the study's run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerator.cli.tune.trial_config import SPARED, TrialConfigs
from accelerator.errors import ConfigError, did_you_mean
from accelerator.runtime.callbacks.base import Callback
from accelerator.tuning.base import Trial, better
from accelerator.tuning.distributions import brief
from accelerator.tuning.workers import said_in

if TYPE_CHECKING:
    from accelerator.runtime.context.context import Context
    from accelerator.runtime.run import Result
    from accelerator.tracking.tracker import Tracker

OUTPUT = "output.txt"  # what a trial prints
MEASURED = ("parameters", "seconds", "steps", "work")  # what every training measures, beside its metrics


class Watch(Callback):
    """Reports each validation of the full network to the study, and ends the training when it is not worth going on.

    Args:
        trial: what it is reported to.
        config: of the training.
    """

    priority = 30
    main_only = True

    def __init__(self, trial: Trial, config: dict[str, Any]) -> None:
        self.trial, self.config = trial, config
        self.monitor: str = config["checkpoint"]["monitor"]
        self._better = better(config["checkpoint"]["mode"])
        self.best: dict[str, float] = {}
        self.parameters = 0
        self.pruned = False
        self._step = 0

    def run_start(self, context: Context) -> None:
        """Count what is trained."""
        self.parameters = sum(parameter.numel() for parameter in context.levels[0].parameters())

    def validation_end(self, context: Context) -> None:
        """Keep what was measured at the best validation, and report; the pass over the data is the step."""
        if context.level != 0:
            return
        value = context.state.metrics[self.monitor]
        if math.isfinite(value) and (not self.best or self._better(value, self.best[self.monitor])):
            self.best = {key: number for key, number in context.state.metrics.items() if key.startswith("val/")}
        self._step = max(self._step + 1, context.state.epoch + 1)
        stop = self.trial.report(value, self._step)
        if stop and context.state.stage + 1 == len(context.stages) and context.state.stage_step >= context.stage_steps:
            self.trial.should_stop = False  # it is through: there is nothing to be spared
        elif stop:
            self.pruned = context.finish_early = True
            self.config["trainer"]["test"] = False  # nobody asks how good it would have been

    def run_end(self, context: Context) -> None:
        """Say on record what became of it."""
        if context.journal is not None and context.error is None:
            context.journal.event("tags", values={"trial.state": "pruned" if self.pruned else "complete"})

    def scores(self, result: Result, objectives: Mapping[str, str]) -> list[float]:
        """What the training achieved: its metrics at the best validation, and what else it measured.

        Raises:
            ConfigError: it measured no such metric.
        """
        measured = {
            **result.metrics,
            **self.best,
            "parameters": float(self.parameters),
            "seconds": result.seconds,
            "steps": float(result.steps),
            "work": result.work,
        }
        if self.monitor not in self.best:
            measured[self.monitor] = math.nan
        for name in objectives:
            if name not in measured:
                raise ConfigError(f"tune.objectives.{name}: the training measured none{did_you_mean(name, measured)}")
        return [measured[name] for name in objectives]


@dataclass(frozen=True)
class TrialRun:
    """The objective of a study on configs: trains what a trial says.

    Args:
        configs: composes it.
        study: the study's folder.
        name: of the study.
        objectives: what is returned.
        commit: of the user's git repository.
        tracker: makes what keeps a trial's record.
    """

    configs: TrialConfigs
    study: Path
    name: str
    objectives: Mapping[str, str]
    commit: str | None
    tracker: Callable[..., Tracker]

    def __call__(self, trial: Trial) -> list[float]:
        """Train it; what it prints goes into a file of its folder."""
        from accelerator.cli.compose.compose import plain
        from accelerator.cli.record import Record, about_of
        from accelerator.runtime.run import check_config, execute
        from accelerator.runtime.run_directory import owned

        folder = self.study / str(trial.number)
        folder.mkdir(parents=True, exist_ok=True)
        said_in(folder / OUTPUT)
        composed = self.configs.composed(trial.values, folder, self.study)
        spare(composed.config, self.configs.fixed)
        composed.config.tune = None
        composed.config.tracking.tags = {
            **composed.config.tracking.tags,
            "study": self.name,
            "trial": str(trial.number),
        }
        values = plain(composed.config)
        with owned(folder):
            check_config(values)
            tried = " ".join(f"{key}={brief(value)}" for key, value in trial.values.items())
            about = replace(about_of("train", composed, values), name=f"{trial.number}: {tried}")
            watch = Watch(trial, values)
            result = execute(
                values,
                folder,
                fingerprint=about.fingerprint,
                commit=self.commit,
                callbacks={"record": Record(values, about, folder, tracker=self.tracker), "trial": watch},
            )
        return watch.scores(result, self.objectives)


def spare(config: Any, typed: list[str]) -> None:
    """Leave out what a trial does without; what was asked for on the command line stays."""
    from omegaconf import OmegaConf

    from accelerator.cli.tune.trial_config import key_of

    asked = {key_of(override) for override in typed}
    for key, value in SPARED.items():
        section, _, name = key.rpartition(".")
        if not any(one == key or one.startswith(f"{key}.") for one in asked) and name in OmegaConf.select(
            config, section
        ):
            OmegaConf.update(config, key, value, merge=False)


def measurable(values: Mapping[str, Any]) -> set[str]:
    """What a training with this config measures, by name."""
    from accelerator.runtime.context.component import present

    names = {"loss", *present(values["metrics"])}
    return {f"{split}/{name}" for split in ("val", "test") for name in names} | set(MEASURED)
