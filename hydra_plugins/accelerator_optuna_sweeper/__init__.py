"""Hydra's Optuna sweeper as this package uses it; chosen by ``hydra/sweeper=optuna`` (configs/hydra/sweeper/).

Hydra imports this module at each start, to see what is in it: what it needs is imported when a sweep begins.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

with suppress(ImportError):  # the extra `tune`
    from hydra_plugins.hydra_optuna_sweeper.optuna_sweeper import OptunaSweeper

    JOURNAL = "journal:///"
    SECTION = "hydra.sweeper"

    class PersistentOptunaSweeper(OptunaSweeper):
        """Chooses the jobs of a sweep one after the other, and keeps the study on a storage of `accelerator tune`.

        What is typed takes the place of what a file says of the same key, and keys of open sections may be new, as in
        every other sweep.

        Args:
            storage: ``journal:///<file>``, or the URL of a database such as ``sqlite:///<file>``; None keeps nothing.
            direction: ``minimize`` or ``maximize``, or one for each objective; None: what ``checkpoint.mode`` says.
            options: see Hydra's own.
        """

        def __init__(self, storage: str | None = None, direction: Any = None, **options: Any) -> None:
            import optuna

            from accelerator.tuning.storage import open_journal, open_storage

            _check(storage, direction, options)
            optuna.logging.set_verbosity(optuna.logging.WARNING)
            opened: Any = None
            if storage is not None and storage.startswith(JOURNAL):
                opened = open_journal(storage.removeprefix(JOURNAL))
            elif storage is not None:
                opened = open_storage(storage, Path(), f"{SECTION}.storage")
            super().__init__(storage=opened, direction=direction, **options)

        def setup(self, *, config: DictConfig, **others: Any) -> None:
            """See Hydra's own."""
            super().setup(config=config, **others)
            launcher: Any = _Opening(self.sweeper.launcher)
            self.sweeper.launcher = launcher
            if self.sweeper.direction is None:
                self.sweeper.direction = "maximize" if config.checkpoint.mode == "max" else "minimize"

        def sweep(self, arguments: list[str]) -> None:
            """See Hydra's own."""
            typed = [argument.removeprefix("++") for argument in arguments]
            keys = {argument.split("=", 1)[0] for argument in typed}
            params = self.sweeper.params or {}
            kept: Any = {key: value for key, value in params.items() if key not in keys}
            self.sweeper.params = DictConfig(kept)
            name, before = self.sweeper.study_name, self._ended()
            if before:
                print(f"going on with study {name}: {before} trials done", flush=True)
            super().sweep(typed)
            if before and len((study := self._study()).directions) == 1:
                params = shlex.join(f"{key}={value}" for key, value in study.best_trial.params.items())
                print(f"best of all {self._ended()} trials of study {name}: {study.best_value:.5g} with {params}")

        def _ended(self) -> int:
            """How many trials the study has already had."""
            study = self._study()
            return 0 if study is None else sum(trial.state.is_finished() for trial in study.trials)

        def _study(self) -> Any:
            """The study as it is kept; None if there is none yet, or it is not kept."""
            import optuna

            if self.sweeper.storage is None:
                return None
            with suppress(KeyError):
                return optuna.load_study(study_name=self.sweeper.study_name, storage=self.sweeper.storage)

    def _check(storage: Any, direction: Any, options: Mapping[str, Any]) -> None:
        """See that the options are what the sweeper can use; it would fail of them in the middle of its work.

        Raises:
            ConfigError: holds every mistake found.
        """
        from accelerator.errors import ConfigError

        problems = []
        if not isinstance(sampler := options.get("sampler"), Mapping):
            problems.append(
                f"{SECTION}.sampler={sampler}: the sampler is an option of a group: hydra/sweeper/sampler=tpe "
                f"(or random, grid, cmaes, …), and its arguments are keys, {SECTION}.sampler.seed=0"
            )
        problems += [
            f"{SECTION}.{key}={value}: expected a whole number, at least 1"
            for key in ("n_trials", "n_jobs")
            if not isinstance(value := options.get(key), int) or value < 1
        ]
        problems += [
            f"{SECTION}.direction={one}: expected minimize or maximize, or null for checkpoint.mode"
            for one in ([direction] if direction is None or isinstance(direction, str) else direction)
            if one not in (None, "minimize", "maximize")
        ]
        if storage is not None and "://" not in str(storage):
            problems.append(
                f"{SECTION}.storage={storage}: expected {JOURNAL}<file>, the URL of a database such as "
                "sqlite:///sweeps.db, or null"
            )
        if problems:
            raise ConfigError(problems)

    class _Opening:
        """A launcher whose jobs may set keys of open sections that are new."""

        def __init__(self, launcher: Any) -> None:
            self._launcher = launcher

        def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Any:
            from accelerator.cli.compose.compose import opened

            return self._launcher.launch([opened(job) for job in job_overrides], initial_job_idx)
