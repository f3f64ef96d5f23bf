"""A study by Ray Tune: the same study as by Optuna alone, measured in the workers of a Ray cluster.

Ray asks for points (`ray_search`), starts workers and hands them trials, and gives trials up (`ray_pruning`). What the
study is made of stays where the other backend has it: Optuna's storage holds each point, each report and each ending
at the moment it is known, so whoever dies, the study goes on from there, with either backend, with more trials, or with
other workers. Ray's own snapshots are not read: they are seconds old, hold nothing of a scheduler, and are pickles.
"""

from __future__ import annotations

import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerator.errors import Terminated
from accelerator.tuning.base import Objective, Plan, TrialOutcome
from accelerator.tuning.choosing import quiet
from accelerator.tuning.optuna_tuner import OptunaTuner, stopping
from accelerator.tuning.ray_cluster import cluster, require_ray
from accelerator.tuning.ray_pruning import make_scheduler, remember, split_pruner


class RayTuner(OptunaTuner):
    """A study by Ray Tune; see `accelerator.tuning.base.Tuner`.

    Args:
        plan: of the study.
        folder: of the study; in a cluster of several machines all of them see it under this path.
        storage: see `accelerator.tuning.storage.open_storage`.
        sampler: as for `OptunaTuner`.
        pruner: as for `OptunaTuner`; asha, hyperband and median are Ray's schedulers of these names.
        address: of a cluster, ``host:port`` or ``auto``; None takes RAY_ADDRESS, else a cluster of its own.
        cpus: of a trial; None: a share of this machine's cores.
        gpus: of a trial; None: a share of those there are.

    Raises:
        ConfigError: Ray is not installed; otherwise as `OptunaTuner`.
    """

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        storage: str = "journal",
        sampler: Mapping[str, Any] | None = None,
        pruner: Mapping[str, Any] | None = None,
        address: str | None = None,
        cpus: float | None = None,
        gpus: float | None = None,
    ) -> None:
        require_ray(address)
        self._scheduler, optunas = split_pruner(pruner, plan.objectives)
        super().__init__(plan, folder, storage, sampler, optunas)
        self.folder = Path(folder).absolute()
        self._address, self._cpus, self._gpus = address, cpus, gpus
        self.began: Callable[[int], None] = lambda number: None
        """Called in this process with the number of each trial from which something has been heard."""

    def run(self, objective: Objective, told: Callable[[TrialOutcome], None] = lambda outcome: None) -> None:
        """See `accelerator.tuning.base.Tuner`.

        Raises:
            ConfigError: there is no such cluster, or the objective cannot be pickled.
            StudyError: the workers cannot import what the objective needs.
        """
        self._recover()
        if self._tried() >= self.plan.trials and not self._waiting():
            return
        with stopping(lambda: None) as asked, _handlers_kept() as ours, quiet(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(ray|pydantic|google|tensorboardX)\b")
            workers = min(self.plan.workers, self.plan.trials)
            with cluster(workers, self._address, self._cpus, self._gpus) as share:
                ours()
                self._fit(objective, told, asked, share)
        if asked:
            raise Terminated(asked[0])

    def _fit(
        self,
        objective: Objective,
        told: Callable[[TrialOutcome], None],
        asked: list[str],
        share: dict[str, float],
    ) -> None:
        from ray import tune

        from accelerator.tuning.ray_search import Sitting, StudySearch
        from accelerator.tuning.ray_watch import Judge, Stop, Watch
        from accelerator.tuning.ray_worker import NUMBER, PLACE, Measurement, Shipped

        plan = self.plan
        shipped = Shipped.of(objective, self.folder, plan.heartbeat)
        scheduler = None
        if self._scheduler is not None:
            scheduler = make_scheduler(self._scheduler, next(iter(plan.objectives.values())))
            assert scheduler is not None
            remember(scheduler, self.outcomes())
        sitting, stop = Sitting(self, told, self.began, asked), Stop()
        trainable: Any = tune.with_resources(tune.with_parameters(Measurement, shipped=shipped), dict(share))

        def name(trial: Any) -> str:
            return f"trial-{trial.config[NUMBER]}"

        (self.folder / PLACE).mkdir(parents=True, exist_ok=True)
        try:
            tune.Tuner(
                trainable,
                tune_config=tune.TuneConfig(
                    num_samples=-1,  # the study says when there are enough
                    search_alg=StudySearch(sitting),
                    scheduler=Judge(sitting, scheduler),
                    max_concurrent_trials=plan.workers,
                    reuse_actors=True,
                    trial_name_creator=name,
                    trial_dirname_creator=name,
                ),
                run_config=tune.RunConfig(
                    name=PLACE,
                    storage_path=str(self.folder),
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # a trial keeps its own
                    stop=stop,
                    callbacks=[Watch(sitting, stop)],
                    verbose=0,
                ),
            ).fit()
        finally:
            sitting.close()
        if sitting.raised is not None:
            raise sitting.raised


@contextmanager
def _handlers_kept() -> Iterator[Callable[[], None]]:
    """While inside, and afterwards, signals are handled as before.

    Yields:
        What puts the handlers back that Ray has replaced by its own; it does so whenever it is started.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    try:
        yield restore
    finally:
        restore()
