"""What a train function is given, and what it gives back. Nothing here needs a framework."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, SupportsFloat

from accelerator.errors import UserError


class TrainFunctionError(UserError):
    """The train function gave back, or reported, what is no result."""


class TrackerLike(Protocol):
    """Where a train function writes what it measures; nothing it does waits for a server."""

    def log_metric(self, name: str, value: SupportsFloat, step: int = 0) -> None:
        """One point."""
        ...

    def log_metrics(self, values: Mapping[str, SupportsFloat], step: int = 0) -> None:
        """Several points of one step."""
        ...

    def log_params(self, values: Mapping[str, Any]) -> None:
        """More params, beside the hyperparameters, which are on record already."""
        ...

    def set_tags(self, values: Mapping[str, Any]) -> None:
        """Tags."""
        ...

    def log_artifact(self, path: str | Path, folder: str | None = None) -> None:
        """A file, or the content of a folder; it is copied while the training goes on."""
        ...


@dataclass
class TrainingContext:
    """One training, as the function is given it.

    Attributes:
        hyperparameters: of the config, with what a tuner tries in their place; a nested one is read as
            ``ctx.hyperparameters["optimizer"]["lr"]``.
        tracker: where metrics go.
        trial_id: names this training: ``"trial-7"`` in a study, ``"run"`` otherwise.
        trial_number: from 0 on; 0 outside a study.
        experiment_name: as in the record.
        device: as the framework writes it: ``"cpu"``, ``"cuda:0"`` (torch), ``"/GPU:0"`` (TensorFlow).
        checkpoint_dir: a folder of this training's own.
        seed: every generator that is known was seeded with it.
    """

    hyperparameters: dict[str, Any]
    tracker: TrackerLike
    trial_id: str = "run"
    trial_number: int = 0
    experiment_name: str = "accelerator"
    device: str = "cpu"
    checkpoint_dir: Path = Path("checkpoints")
    seed: int = 0
    _judge: Callable[[float, int], bool] | None = field(default=None, repr=False)
    _stop: bool = field(default=False, repr=False)
    asked: str | None = field(default=None, repr=False)

    def report(self, value: SupportsFloat, step: int) -> None:
        """Tell how good it is so far: a study may find that it is not worth going on with (`should_stop`).

        Args:
            value: of the primary metric.
            step: how far it is (epochs, usually); later reports have larger ones.

        Raises:
            TrainFunctionError: the value is NaN: one that is not known yet is not reported.
        """
        number = float(value)
        if math.isnan(number):
            raise TrainFunctionError(
                f"ctx.report(nan, {step}): a study compares what is reported, and NaN compares with nothing; "
                "expected a number"
            )
        if self._judge is not None and self._judge(number, step):
            self._stop = True

    @property
    def should_stop(self) -> bool:
        """Whether to save and return now: the study says so, or a signal asked for it."""
        return self._stop or self.asked is not None

    @property
    def pruned(self) -> bool:
        """Whether it is the study that said so."""
        return self._stop

    def ask_to_stop(self, reason: str) -> None:
        """Let `should_stop` be true from now on; called when a signal arrives.

        Args:
            reason: the signal's name.
        """
        self.asked = reason


@dataclass
class TrainingResult:
    """What a training came to.

    Attributes:
        primary_metric: what it is judged by; a finite number.
        primary_metric_name: its name in the record.
        minimize: whether less is better.
        metrics: what else it measured.
        best_model_path: the saved model; it is put on record.
        epochs_completed: how far it went.
    """

    primary_metric: float
    primary_metric_name: str = "val_loss"
    minimize: bool = True
    metrics: dict[str, float] = field(default_factory=dict)
    best_model_path: str | Path | None = None
    epochs_completed: int = 0


class TrainFunction(Protocol):
    """What the user writes."""

    def __call__(self, ctx: TrainingContext, /) -> TrainingResult:
        """Train, and say what came of it."""
        ...
