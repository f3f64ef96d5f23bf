"""The closed sections of a run's configuration: their keys, types and defaults stand here and nowhere else.

The open sections (model, data, loss, …) hold a component and its arguments; they are checked against the
component's own signature when the run is built.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

# Sections that name a component: any argument of its constructor may be set there.
OPEN_SECTIONS = (
    "model",
    "data",
    "loss",
    "optimizer",
    "scheduler",
    "transform",
    "metrics",
    "engine",
    "multilevel",
    "callbacks",
)


@dataclass
class TrainerConfig:
    """How long to train, and what is done on the way."""

    max_epochs: int = 20  # the work budget, in passes of the full network over the training split
    max_steps: int | None = None  # a smaller budget, in work units (full-network steps)
    validate_every: int = 1  # epochs between two validations
    accumulate: int = 1  # pieces a batch is computed in, one after the other: the same step in less memory
    clip_norm: float | None = None  # largest 2-norm of the gradient
    clip_value: float | None = None  # largest absolute value of its entries; cut before the norm
    test: bool = True  # test the best checkpoint at the end


@dataclass
class LoaderConfig:
    """How samples become batches."""

    batch_size: int = 32
    eval_batch_size: int | None = None  # for validation and test; None: 4 x batch_size
    shuffle: bool = True
    drop_last: bool = False
    workers: int = 0  # loader processes, for data that is read from disk sample by sample
    split: list[float] = field(default_factory=lambda: [0.8, 0.1, 0.1])  # for data that comes as one set


@dataclass
class MemoryConfig:
    """What of a GPU's memory a run may take, with engine=single_gpu."""

    limit_gb: float | None = None  # None: ACCELERATOR_GPU_MEMORY_GB, else 24; 0: all there is


@dataclass
class CheckpointConfig:
    """What is kept, and what "best" means."""

    monitor: str = "val/loss"
    mode: str = "min"
    every_epochs: int = 1
    every_steps: int | None = None
    keep: int = 2  # newest checkpoints kept beside the best ones
    top_k: int = 1  # best checkpoints kept
    filename: str = "step-{step:08d}"  # fields: step, epoch, level and metrics, as in epoch-{epoch}-{val/loss:.4f}


@dataclass
class TrackingConfig:
    """Where the record goes."""

    enabled: bool = True
    uri: str | None = None  # None: MLFLOW_TRACKING_URI, else sqlite:///<working directory>/mlflow.db
    experiment: str | None = None  # None: the name of the working directory, so one for each project
    run_name: str | None = None
    group: str | None = None  # a word that several runs share, to find them by
    tags: dict[str, str] = field(default_factory=dict)  # of your own
    parent: str | None = None  # folder of the run this one is a part of; a sweep and a pipeline set it
    timeout: float = 60.0  # seconds to wait at the end for the last points to arrive


@dataclass
class RunConfig:
    """One run, whole."""

    seed: int = 0
    imports: list[str] = field(default_factory=list)  # the user's modules: they may register and be named in _target_
    resume: str | None = None  # last, best, a run directory, an MLflow run id, or a checkpoint file
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    engine: dict[str, Any] = field(default_factory=dict)
    multilevel: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    loss: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    scheduler: dict[str, Any] = field(default_factory=dict)
    transform: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    callbacks: dict[str, Any] = field(default_factory=dict)
    vars: dict[str, Any] = field(default_factory=dict)  # values of your own, for ${vars.name}
