"""The tracker's part in the training process: it starts the uploader, and at the end waits for it, for a while.

Nothing here raises into the training: without the uploader the journal is still whole, and
``python -m accelerator.tracking.uploader RUN_DIR`` replays it at any later time.
"""

from __future__ import annotations

import os
import subprocess
import sys
import weakref
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import Literal
from uuid import uuid4

from accelerator.runtime.journal import Journal
from accelerator.tracking import spool
from accelerator.tracking.locations import UI, Location, artifact_folder, locate, run_link, ui_command
from accelerator.tracking.server import find

Status = Literal["FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True)
class TrackedRun:
    """What became of a run's record.

    Attributes:
        run_id: the MLflow run; None when it could not be made.
        experiment_id: its experiment.
        uri: the store, without credentials.
        uploaded: everything has arrived, and the run is closed.
        spooled_points: metric points that wait in the journal.
        error: why they wait, as far as it is known.
    """

    run_id: str | None
    experiment_id: str | None
    uri: str
    uploaded: bool
    spooled_points: int
    error: str | None = None

    @property
    def ui_command(self) -> str | None:
        """What to type to look at it; None when a server shows it already."""
        return ui_command(self.uri)

    @property
    def link(self) -> str | None:
        """The run's page, on the store's server if one lives, else where one would listen."""
        if self.run_id is None or self.experiment_id is None:
            return None
        server = find(self.uri)
        return run_link(self.uri, self.experiment_id, self.run_id, server=server.url if server is not None else UI)


class Tracker:
    """Keeps the MLflow record of one run directory through a child process.

    Where the directory had a tracker before, its MLflow run is continued. Under `mlflow run`, which sets
    MLFLOW_RUN_ID, the run it made is written to.

    Args:
        run_dir: the run directory.
        journal: the run's journal, in that directory.
        uri: an MLflow tracking URI; None takes MLFLOW_TRACKING_URI, else ``mlflow.db`` in the current directory.
        experiment: the experiment's name; it is made if absent.
        run_name: the run's name; None lets MLflow choose one.
        parent: the folder of the run this one is nested in.
        artifacts: where a new experiment keeps its files; None: beside a SQLite file, else where the server says.
        system_metrics: seconds between two samples of how busy the machine is; None takes none.
        patience: seconds of unbroken failure after which, once the training is over, points stay spooled.

    Raises:
        ConfigError: ``uri`` names no store MLflow can write to.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        journal: Journal,
        uri: str | None = None,
        experiment: str = "default",
        run_name: str | None = None,
        parent: Path | None = None,
        artifacts: str | None = None,
        system_metrics: float | None = None,
        patience: float = 20.0,
    ) -> None:
        self.run_dir = Path(run_dir).absolute()
        self.journal = journal
        self.location = locate(uri)
        before = spool.load(self.run_dir / spool.SETTINGS, spool.Settings)
        self.settings = spool.Settings(
            uri=self.location.uri,
            experiment=experiment,
            run_name=run_name,
            artifacts=artifacts or artifact_folder(self.location.uri),
            journal=os.path.relpath(journal.path.absolute(), self.run_dir),
            key=before.key if before else uuid4().hex,
            started=before.started if before else int(time() * 1000),
            patience=patience,
            # What `mlflow run` made is the sweep or the pipeline, not one of its parts.
            adopt=None if parent else os.environ.get("MLFLOW_RUN_ID") or None,
            part_of=str(Path(parent).absolute()) if parent else before.part_of if before else None,
            resumed=before is not None,
            system_metrics=system_metrics,
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._result: TrackedRun | None = None
        self._error: str | None = None

    def start(self) -> None:
        """Start the uploader; returns at once."""
        try:
            self.journal.event("status", value=spool.RUNNING)
            spool.save(self.run_dir / spool.SETTINGS, self.settings)
        except OSError as error:
            self._error = f"the uploader did not start: {error}"
            return
        self._start_uploader()

    def _start_uploader(self) -> None:
        try:
            with (self.run_dir / spool.LOG).open("ab") as log:
                self._process = subprocess.Popen(  # noqa: S603 - this very interpreter
                    [sys.executable, "-m", "accelerator.tracking.uploader", ".", "--parent", str(os.getpid())],
                    cwd=self.run_dir,
                    env=environment(self.location),
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C and a signal to the job's process group are not for it
                )
        except OSError as error:
            self._error = f"the uploader did not start: {error}"
            return
        _close_in_forks(self._process)

    def finish(self, status: Status, timeout: float = 60.0) -> TrackedRun:
        """Say how the run ended and wait until everything has arrived; later calls return the same.

        Args:
            status: FINISHED, FAILED or KILLED.
            timeout: seconds to wait at most; an uploader that takes longer is stopped, and the rest stays spooled.
        """
        if self._result is None:
            code = self._close(status, timeout)
            state = spool.load(self.run_dir / spool.STATE, spool.State)
            uploaded = code == 0
            self._result = TrackedRun(
                run_id=state.run_id if state else None,
                experiment_id=state.experiment_id if state else None,
                uri=self.settings.uri,
                uploaded=uploaded,
                spooled_points=0 if uploaded else spool.unsent(self.journal.path, state).points,
                error=None if uploaded else self._why(state),
            )
        return self._result

    def _why(self, state: spool.State | None) -> str:
        """Why points wait, as far as it is known here and there."""
        known = [self._error, state and state.error]
        return "; ".join(text for text in known if text) or f"see {self.run_dir / spool.LOG}"

    def _close(self, status: Status, timeout: float) -> int | None:
        try:
            self.journal.event("status", value=status)
        except (OSError, ValueError) as error:
            self._error = f"the journal could not be written: {error}"
        if self._process is not None and (self._process.poll() or 0) < 0:  # something has killed it: another finishes
            self._let_go(self._process)
            self.settings.resumed = True
            with suppress(OSError):
                spool.save(self.run_dir / spool.SETTINGS, self.settings)
            self._start_uploader()
        if (process := self._process) is None:
            return None
        self._let_go(process)
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._error = f"the uploader was not done within {timeout:g} s"
            process.kill()
            process.wait()
            return None

    def _let_go(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        with suppress(OSError):
            process.stdin.close()


def environment(location: Location) -> dict[str, str]:
    """An uploader sees what this process sees, wherever it runs, and keeps to one core."""
    paths = os.pathsep.join(os.path.abspath(path) for path in sys.path)
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return os.environ | threads | {"PYTHONPATH": paths} | location.secrets


def _close_in_forks(process: subprocess.Popen[bytes]) -> None:
    # A forked data worker would hold the uploader's stdin open beyond the training process's death.
    stdin = weakref.ref(process.stdin)

    def close() -> None:
        if (pipe := stdin()) is not None:
            pipe.close()

    os.register_at_fork(after_in_child=close)
