"""The section ``tracking`` of every config: its keys, types and defaults stand here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


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
    server: Literal["none", "auto"] = "none"  # auto: MLflow's pages are there, by a server in the background
    timeout: float = 60.0  # seconds to wait at the end for the last points to arrive
    system_metrics: float | None = 10.0  # seconds between two samples of how busy the machine is
    model: list[str] = field(default_factory=lambda: ["safetensors", "pt2"])  # the best network, in these; []: none
    artifacts: str | None = None  # where a new experiment keeps its files: a folder, s3://…; None: beside the store
