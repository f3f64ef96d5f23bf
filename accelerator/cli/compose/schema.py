"""The closed sections of a run's configuration: their keys, types and defaults stand here and nowhere else.

The open sections (model, data, loss, …) hold a component and its arguments; they are checked against the
component's own signature when the run is built.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from accelerator.tracking.settings import TrackingConfig
from accelerator.tuning.ray_settings import RayConfig

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
    "acceleration",
)


# Sections that a single command reads; they are no params of the others' runs.
SECTIONS_OF = {
    "acceleration": ("accelerate",),
    "analysis": ("analyze-data", "analyze-model"),
    "evaluate": ("evaluate",),
    "sweep": (),
    "tune": ("tune",),
}


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
class EvaluateConfig:
    """What accelerator evaluate measures."""

    split: Literal["test", "val", "train"] = "test"


@dataclass
class AnalysisConfig:
    """What accelerator analyze-data and analyze-model look at."""

    samples: int | None = None  # of each split, spread over it; None: all
    near_duplicates: int = 10_000  # samples that are compared with one another; 0: none
    tolerance: float = 0.01  # distance of near ones, as a share of that of two samples at random
    outlier: float = 8.0  # robust standard deviations from the median that are too far; 0: nothing is
    batches: int = 4  # of training data, by which dead units and parameters without gradient are found
    rounds: int = 9  # in which the time of each layer is taken; 0: it is not
    json: bool = False  # print analysis.json instead of tables


@dataclass
class TuneConfig:
    """A study of accelerator tune: what is tried, how often, and by what."""

    space: dict[str, Any] = field(default_factory=dict)  # see docs/tuning.md
    trials: int = 50  # points that are measured; those of an earlier part of the study count
    workers: int = 1  # processes that measure
    name: str | None = (
        None  # of the study, and of its folder; None: told from what is tried, so the same command goes on
    )
    objectives: dict[str, str] = field(default_factory=dict)  # min or max by metric; {}: checkpoint.monitor, its mode
    sampler: dict[str, Any] = field(default_factory=lambda: {"name": "tpe"})  # and arguments of Optuna's class
    pruner: dict[str, Any] = field(default_factory=dict)  # {}: median with one objective, none with several
    storage: str = "journal"  # a file in the study's folder, or a database: sqlite:///study.db
    retries: int = 2  # how often a trial is tried again whose process died
    heartbeat: float | None = 60.0  # seconds between two signs of life; a process that misses two is ended
    seed: int | None = 0  # of what the sampler draws; the trainings have the run's own seed
    timeout: float | None = None  # seconds after which no new trial begins
    backend: Literal["optuna", "ray"] = "optuna"  # what starts the processes; the study is the same
    ray: RayConfig = field(default_factory=RayConfig)


@dataclass
class SweepConfig:
    """A sweep of accelerator train -m."""

    on_error: Literal["continue", "stop"] = "continue"  # whether a job that fails ends the sweep
    vectorize: int | None = None  # jobs trained together in this process, at most: docs/sweeps.md; None: one by one


@dataclass
class RunConfig:
    """One run, whole."""

    seed: int = 0
    imports: list[str] = field(default_factory=list)  # the user's modules: they may register and be named in _target_
    resume: str | None = None  # last, best, a run directory, an MLflow run id, or a checkpoint file
    load: str | None = None  # the trained network to begin with; the same words, and the best checkpoint of a run
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    analysis: AnalysisConfig = field(default_factory=AnalysisConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    tune: TuneConfig | None = None
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
    acceleration: dict[str, Any] = field(default_factory=dict)
    vars: dict[str, Any] = field(default_factory=dict)  # values of your own, for ${vars.name}
