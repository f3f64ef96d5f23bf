"""Hydra's Optuna sweeper as this package uses it; chosen by ``hydra/sweeper=optuna`` (configs/hydra/sweeper/).

Hydra imports this module at each start, to see what is in it: what it needs is imported when a sweep begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

with suppress(ImportError):  # the extra `tune`
    from hydra_plugins.hydra_optuna_sweeper.optuna_sweeper import OptunaSweeper

    JOURNAL = "journal:///"

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

            optuna.logging.set_verbosity(optuna.logging.WARNING)
            opened: Any = None
            if storage is not None and storage.startswith(JOURNAL):
                opened = open_journal(storage.removeprefix(JOURNAL))
            elif storage is not None:
                opened = open_storage(storage, Path())
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
            super().sweep(typed)

    class _Opening:
        """A launcher whose jobs may set keys of open sections that are new."""

        def __init__(self, launcher: Any) -> None:
            self._launcher = launcher

        def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Any:
            from accelerator.cli.compose.compose import opened

            return self._launcher.launch([opened(job) for job in job_overrides], initial_job_idx)
