"""One uploader for many runs: the trials of a study, the jobs of a sweep, each of which may last no longer than MLflow
takes to import.

Each run keeps its journal and its settings as it would alone; only the process that replays them is common. The runs of
a `Fleet` announce themselves to it through a pipe, which their processes inherit; it follows up to `AT_ONCE` journals
at a time, and ends when all that have been announced have arrived and the processes that could announce more are gone.

``python -m accelerator.tracking.fleet --parent PID`` is that process.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from accelerator.runtime.journal import Journal
from accelerator.tracking import spool
from accelerator.tracking.locations import locate
from accelerator.tracking.tracker import Status, TrackedRun, Tracker, environment
from accelerator.utilities.files import short

AT_ONCE = 8  # journals followed at the same time; of a run that has ended meanwhile nothing is lost
LOG = "uploads.log"
STALLED = 60.0  # seconds without any progress after which what is left stays spooled
ALONE = 300  # seconds it may go on when the study was killed
LOOK = 0.05  # seconds between two looks for progress at the end


class Fleet:
    """The common uploader, as the process that starts it and those it forks see it.

    Args:
        folder: where its log stands.
        uri: of the store, whose credentials its process is given; see `Tracker`.
        compare: tell what differs between each run and the one before, as a run alone does; it takes as long as all
            the rest of a small run's record.
    """

    def __init__(self, folder: Path, uri: str | None, *, compare: bool = False) -> None:
        self.log = folder / LOG
        self._announced: list[Path] = []
        self._process: subprocess.Popen[bytes] | None = None
        with suppress(OSError), self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - this very interpreter
                [sys.executable, "-m", "accelerator.tracking.fleet", "--parent", str(os.getpid())]
                + ["--compare"] * compare,
                cwd="/",
                env=environment(locate(uri)),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __getstate__(self) -> dict[str, Any]:
        # Sent to a process that is no fork, it announces nothing: whoever has made it does.
        return {**self.__dict__, "_process": None}

    def announce(self, run_dir: Path) -> None:
        """Have a run uploaded, from now until it says how it ended; from any process forked since."""
        if self._process is None or self._process.stdin is None:
            return
        with suppress(OSError):  # it is gone: what it leaves stays in the journals
            os.write(self._process.stdin.fileno(), f"{run_dir.absolute()}\n".encode())

    def finish(self, runs: Sequence[Path], stalled: float = STALLED) -> list[Path]:
        """Wait until everything has arrived, as long as something does.

        Args:
            runs: those announced.
            stalled: seconds without progress that are borne.

        Returns:
            The runs of which something has not arrived.
        """
        if (process := self._process) is not None:
            assert process.stdin is not None
            process.stdin.close()
            size, since = -1, time.monotonic()
            while process.poll() is None and time.monotonic() - since < stalled:
                if (now := self.log.stat().st_size) != size:
                    size, since = now, time.monotonic()
                time.sleep(LOOK)
            process.kill()
            process.wait()
            self._process = None
        return [run for run in runs if not arrived(run)]


def arrived(run_dir: Path) -> bool:
    """Whether a run's record is whole in MLflow, or it keeps none."""
    if not (run_dir / spool.SETTINGS).exists():
        return True
    settings = spool.load(run_dir / spool.SETTINGS, spool.Settings)
    state = spool.load(run_dir / spool.STATE, spool.State)
    return settings is not None and spool.unsent(run_dir / settings.journal, state).nothing


def told_late(runs: Sequence[Path], what: str) -> str:
    """What to say of runs whose record has not arrived.

    Args:
        runs: their folders.
        what: they are, ``jobs``.
    """
    folders = shlex.join(short(run) for run in runs[:3]) + (" …" if len(runs) > 3 else "")
    later = f"send it later with: accelerator tracking sync {folders}"
    return f"record: that of {len(runs)} {what} has not arrived; {later}"


class FleetTracker(Tracker):
    """A tracker that leaves the uploading to a fleet, and waits for nothing.

    Args:
        run_dir: the run directory.
        fleet: the uploader; None leaves the record in the journal.
        options: see `Tracker`.
    """

    def __init__(self, run_dir: Path, *, fleet: Fleet | None, **options: Any) -> None:
        super().__init__(run_dir, **options)
        self._fleet = fleet

    def _start_uploader(self) -> None:
        if self._fleet is not None:
            self._fleet.announce(self.run_dir)

    def finish(self, status: Status, timeout: float = 60.0) -> TrackedRun:
        """Say how the run ended; the fleet tells what has not arrived."""
        if self._result is None:
            self.journal.event("status", value=status)
            self.journal.flush()
            state = spool.load(self.run_dir / spool.STATE, spool.State)
            self._result = TrackedRun(
                run_id=state.run_id if state else None,
                experiment_id=state.experiment_id if state else None,
                uri=self.settings.uri,
                uploaded=True,
                spooled_points=0,
            )
        return self._result


def say_dead(run_dir: Path, journal: Path, why: str, *, stopped: bool = False) -> None:
    """Say in its stead how a run ended whose process died.

    Args:
        run_dir: of the run.
        journal: of the run.
        why: it died.
        stopped: its study was stopped, and it with it: it has not failed.
    """
    if (run_dir / spool.SETTINGS).exists() and journal.exists():
        with Journal(journal) as written:
            written.event("tags", values={"error": why, "trial.state": "stopped" if stopped else "failed"})
            written.event("status", value="KILLED" if stopped else "FAILED")


# A SQLite file has one writer at a time: who waits for it here does not wait for it there, where waiting is polling.
_ONE_WRITES = threading.Lock()


class _Ended:
    """Whether the runs' processes are gone, as an `Uploader` asks for it."""

    parent = 0  # there is one, and it is not for an uploader to follow

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        self._event.set()

    def ended(self, wait: float = 0.0) -> bool:
        return self._event.wait(wait) if wait else self._event.is_set()


def upload(run_dir: Path, ended: Any, compare: bool = False) -> None:
    """Upload one run; returns when it has said how it ended and all has arrived, or nothing more can be done."""
    from filelock import FileLock

    from accelerator.tracking.locations import sqlite_file
    from accelerator.tracking.masking import MASK
    from accelerator.tracking.mlflow_run import MlflowRun
    from accelerator.tracking.uploader import Uploader

    class OfAFleet(Uploader):
        """What takes as long as all the rest of a small run is left out, unless it is asked for."""

        def _follow(self) -> None:
            """What earlier runs have left behind is the study's own uploader's business."""

        def _event(self, run: MlflowRun, line: Mapping[str, Any]) -> None:
            if line["event"] == "params" and not compare:
                run.log_params(line["values"])
            else:
                super()._event(run, line)

        def _connect(self, search: bool) -> MlflowRun:
            with turn:
                return super()._connect(search)

        def _drain(self, run: MlflowRun) -> None:
            with turn:
                super()._drain(run)

    settings = spool.load(run_dir / spool.SETTINGS, spool.Settings)
    if settings is None:
        print(f"{run_dir} holds no record to upload", flush=True)
        return
    uri = os.environ.get("MLFLOW_TRACKING_URI", settings.uri) if MASK in settings.uri else settings.uri
    turn = _ONE_WRITES if sqlite_file(uri) is not None else nullcontext()
    try:
        with FileLock(run_dir / spool.LOCK):
            OfAFleet(run_dir, settings, uri, ended).upload()
    except Exception as error:
        print(f"{run_dir}: {type(error).__name__}: {error}", flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Entry point: read folders of runs, one a line, and upload them."""
    parser = argparse.ArgumentParser(prog="python -m accelerator.tracking.fleet", description=__doc__)
    parser.add_argument("--parent", type=int, required=True, help="the process that started it")
    parser.add_argument("--compare", action="store_true", help="tell what differs between each run and the one before")
    options = parser.parse_args(arguments)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.nice(5)
    ended = _Ended()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for line in sys.stdin:
            pool.submit(upload, Path(line.rstrip("\n")), ended, options.compare)
        ended.set()
        if os.getppid() != options.parent:  # nobody waits, and nobody would end us if a store hangs
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(ALONE)
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)
