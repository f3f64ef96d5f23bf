"""Experiments with a training loop of the user's own: ``train_model(ctx) -> TrainingResult``, in any framework.

>>> from accelerator.experiment import Experiment, ExperimentConfig, TrainingContext, TrainingResult
>>> def train_model(ctx: TrainingContext) -> TrainingResult:
...     return TrainingResult(primary_metric=(ctx.hyperparameters["x"] - 2) ** 2)
>>> Experiment(train_model, ExperimentConfig(hyperparameters={"x": 3})).run().result.primary_metric  # doctest: +SKIP
1
"""

from accelerator.experiment.config import ExperimentConfig, MLflowConfig, TuningConfig, experiment_config
from accelerator.experiment.protocols import TrackerLike, TrainFunction, TrainingContext, TrainingResult
from accelerator.experiment.runner import Experiment, Outcome
from accelerator.experiment.train_function import TrainFunctionError, find_train_function

__all__ = [
    "Experiment",
    "ExperimentConfig",
    "MLflowConfig",
    "Outcome",
    "TrackerLike",
    "TrainFunction",
    "TrainFunctionError",
    "TrainingContext",
    "TrainingResult",
    "TuningConfig",
    "experiment_config",
    "find_train_function",
]
