"""Hydra's own launcher, one job after the other in this process; with ``sweep.vectorize`` small ones together.

Hydra imports this module at each start, to see what is in it: what it needs is imported when jobs are launched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.utils import JobReturn


class VectorizedBasicLauncher(BasicLauncher):
    """The launcher of ``accelerator train -m``, unless another is chosen (configs/hydra/launcher/)."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """See Hydra's own."""
        from accelerator.cli.sweep import SweepRecord

        assert self.config is not None
        assert self.hydra_context is not None
        task: Any = self.task_function
        for callback in self.hydra_context.callbacks.callbacks:
            if isinstance(callback, SweepRecord):
                callback.plan(job_overrides, initial_job_idx)
                task.record = callback
        # A number below 1 is told by each job's check of its config.
        if (self.config.sweep.vectorize or 0) < 2 or task.__name__ != "train":
            return super().launch(job_overrides, initial_job_idx)
        from accelerator.cli.sweep_vectorized import launch

        return launch(self, super().launch, job_overrides, initial_job_idx)
