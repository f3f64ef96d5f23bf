"""The uploader: a process beside the training that replays the run's journal into MLflow.

``python -m accelerator.tracking.uploader RUN_DIR`` uploads what a run directory still holds, and ends.
`accelerator.tracking.tracker` starts the same with ``--parent``: it then follows the journal until the training has
told how it ended, or is gone without a word, which makes the run KILLED.

Replaying is idempotent. The place in the journal is stored after every batch. Where it does not hold — the journal
was cut back for a resume, a batch was under way when the uploader died, the state is lost — the store is asked which
steps it has, and those are skipped: one row for each key and step, the first value that arrived.

Exit codes: 0 everything arrived · 1 the store refuses the record · 75 something is left for later.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from filelock import FileLock, Timeout

from accelerator.errors import ConfigError
from accelerator.runtime.journal import read
from accelerator.tracking import spool
from accelerator.tracking.backlog import left_behind
from accelerator.tracking.lifeline import Lifeline
from accelerator.tracking.limits import METRICS_A_BATCH, legal_key, with_digest
from accelerator.tracking.locations import artifact_folder, locate
from accelerator.tracking.masking import MASK, mask_value
from accelerator.tracking.mlflow_run import NOTES_TAG, MlflowRun, RecordRefusedError, connect, is_denied
from accelerator.tracking.preflight import no_answer
from accelerator.tracking.system_metrics import SystemMetrics

POLL = 0.2  # seconds between two looks at the journal
LONGEST_PAUSE = 10.0  # seconds between two attempts while the store fails
NEVER_THERE = 5.0  # seconds a training that is over waits for a server it never reached
OTHERS_TAKE = 300  # seconds in which what earlier runs have left behind is uploaded, or waits for another start
NICENESS = 5
MOST_NOTES = 100
DIFFERENCE = "config_difference.json"

DONE, REFUSED, LATER = 0, 1, 75


class JournalCutError(Exception):
    """The journal became shorter than what was read of it."""


class Uploader:
    """Replays one journal into one MLflow run.

    Args:
        run_dir: the run directory.
        settings: what is asked for.
        uri: the store, with credentials where it needs them.
        lifeline: on the training process.
        state_file: where it is noted how far this is; by default, where it is for the run's own store.
    """

    def __init__(
        self, run_dir: Path, settings: spool.Settings, uri: str, lifeline: Lifeline, state_file: Path | None = None
    ) -> None:
        self.run_dir = run_dir
        self.settings = settings
        self.uri = uri
        self.lifeline = lifeline
        self.journal = run_dir / settings.journal
        self.state_file = state_file or run_dir / spool.STATE
        self.state = spool.load(self.state_file, spool.State) or spool.State()
        self.run: MlflowRun | None = None
        self.system: SystemMetrics | None = None
        self.batch = METRICS_A_BATCH
        self._known: dict[str, set[int]] | None = None
        self._keys = dict(self.state.names)
        self._noted = len(self.state.notes)
        self._failure = ""

    def upload(self) -> int:
        """Follow the journal to its end; returns the exit code."""
        failing_since = None
        pause = POLL
        search = self.settings.resumed or self.lifeline.parent is None
        while True:
            # Asked before the journal is measured: what was written before the end is then not missed.
            ended = self.lifeline.ended()
            if self.system is not None:
                self.system.sample_if_due()
            try:
                if self.run is None:
                    self.run = self._connect(search)
                    self._follow()
                self._drain(self.run)
                if ended or self.state.status in spool.FINAL:
                    self._close(self.run)
                    return DONE
                failing_since, pause = None, POLL
            except RecordRefusedError as error:
                self.state.refused = True
                self._failed(error)
                return REFUSED
            except JournalCutError as error:
                self._failed(error)
                return LATER
            except Exception as error:  # MLflow, SQLAlchemy and the network raise what they like
                self._failed(error)
                now = time.monotonic()
                failing_since = failing_since or now
                if ended and now - failing_since >= self._patience(error):
                    return LATER
                search = True
                pause = min(2 * pause, 1.0 if ended else LONGEST_PAUSE)
            self.lifeline.ended(wait=pause)

    def _connect(self, search: bool) -> MlflowRun:
        run = connect(self.settings, self.uri, self.state, note=self._note, search=search)
        if run.run_id != self.state.run_id:
            notes = [] if self.state.run_id else self.state.notes  # what was noted while this run was made
            self.state = spool.State(self.settings.uri, run.run_id, run.experiment_id, notes=notes)
            self._keys, self._noted = {}, 0
        elif self.state.tail != spool.tail_of(self.journal, self.state.offset):
            self.state.offset, self.state.artifacts, self.state.status = 0, [], spool.RUNNING
            self.state.changes = {}
        if run.continued and (self.state.offset == 0 or self.state.sending):
            self._known = {}
        self.state.closed, self.state.refused = None, False
        run.note_place(self.settings)
        self._save(self.state.offset)
        print(
            f"run {run.run_id} of experiment {run.experiment_id}, {'continued' if run.continued else 'new'}", flush=True
        )
        return run

    def _follow(self) -> None:
        """What is done once in a training's life, when its record is open."""
        if (parent := self.lifeline.parent) is None:
            return
        if (interval := self.settings.system_metrics) is not None:
            self.system = SystemMetrics(interval, started=self.settings.started, parent=parent, last=self.state.sampled)
        if others := left_behind(self.run_dir, self.settings.uri):
            _upload_beside(others)

    def _patience(self, error: Exception) -> float:
        """Seconds to go on trying once the training is over."""
        if is_denied(error):
            return 0.0
        never_there = self.run is None and no_answer(self.settings.uri, error) is not None
        return min(self.settings.patience, NEVER_THERE if never_there else math.inf)

    def _drain(self, run: MlflowRun) -> None:
        """Send what the journal holds now; what is written meanwhile is left for the next call."""
        stop = self.journal.stat().st_size
        if stop < self.state.offset:
            raise JournalCutError("the journal was cut while it was read: another process has resumed this run")
        points: list[dict[str, Any]] = []
        end = self.state.offset
        for line, after in read(self.journal, self.state.offset, stop):
            if line is None:
                self._note("a damaged line of the journal was left out")
            elif "key" in line:
                points.append(line)
            else:
                self._send(run, points, end)
                points = []
                self._event(run, line)
                self._save(after)
            end = after
            if len(points) >= self.batch:
                self._send(run, points, end)
                points = []
        self._send(run, points, end)
        self._send_samples(run)
        # Last, so that a file store that fails holds no metrics up.
        while self.state.artifacts:
            path, artifact_path, *kind = self.state.artifacts[0]
            if kind == ["model"]:
                run.log_model(self.journal.parent / str(path))
            else:
                run.log_artifact(self.journal.parent / str(path), artifact_path)
            del self.state.artifacts[0]
            self._save(self.state.offset)
        if len(self.state.notes) > self._noted:
            run.log_tags({NOTES_TAG: "; ".join(self.state.notes)})
            self._noted = len(self.state.notes)

    def _send(self, run: MlflowRun, points: list[dict[str, Any]], end: int) -> None:
        if end == self.state.offset:
            return
        if points := [point | {"key": self._key(point["key"])} for point in points]:
            points = [point for point in points if point["step"] not in self._steps(run, point["key"])]
        for point in points:
            if math.isinf(point["value"]):
                self._note_once(
                    f"metric {point['key']} was infinite", f"first at step {point['step']}; MLflow shows ±1.8e308"
                )
        if points:
            self.state.sending = True
            self._save(self.state.offset)
            try:
                run.log_metrics(points)
            except Exception:
                self.batch = max(1, self.batch // 2)
                raise
            self.batch = min(2 * self.batch, METRICS_A_BATCH)
        self.state.sending = False
        self._save(end)

    def _send_samples(self, run: MlflowRun) -> None:
        while self.system is not None and self.system.points:
            points = list(islice(self.system.points, self.batch))
            run.log_metrics(points)
            for _ in points:
                self.system.points.popleft()
            self.state.sampled = points[-1]["step"]
            self._save(self.state.offset)

    def _event(self, run: MlflowRun, line: Mapping[str, Any]) -> None:
        match line["event"]:
            case "params":
                run.log_params(line["values"])
                if not run.continued:
                    self._compare(run)
            case "change":
                key, change = line["name"], f"{line['was']} → {line['now']} at step {line['step']}"
                earlier = self.state.changes.get(key)
                self.state.changes[key] = f"{earlier}; {change}" if earlier else change
                run.log_tags({f"changed.{key}": self.state.changes[key]})
            case "tags":
                # Under `mlflow run` these are MLflow's own: who started which project.
                own = self.settings.adopt is not None
                run.log_tags(
                    {key: text for key, text in line["values"].items() if not (own and key.startswith("mlflow."))}
                )
            case "artifact":
                self.state.artifacts.append([line["path"], line.get("artifact_path")])
            case "model":
                self.state.artifacts.append([line["path"], None, "model"])
            case "dataset":
                run.log_dataset(line["facts"])
            case "status":
                self.state.status = line["value"]
            case other:
                self._note_once(f"event {other}", "is not known here and was left out")

    def _compare(self, run: MlflowRun) -> None:
        if self.state_file.name == spool.STATE:
            run.compare(self.run_dir / DIFFERENCE)
            return
        with TemporaryDirectory() as folder:  # the one in the run's folder tells of its own store
            run.compare(Path(folder) / DIFFERENCE)

    def _close(self, run: MlflowRun) -> None:
        status = self.state.status if self.state.status in spool.FINAL else "KILLED"
        # When the training last wrote; a clock set back meanwhile makes no run end before it began.
        run.end(status, max(int(self.journal.stat().st_mtime * 1000), self.settings.started))
        self.state.closed, self.state.error = status, None
        self._save(self.state.offset)
        print(f"run {run.run_id} is {status}", flush=True)

    def _steps(self, run: MlflowRun, key: str) -> set[int]:
        """The steps the store may hold already; asked once for each key, and only where the place was lost."""
        if self._known is None:
            return set()
        if key not in self._known:
            self._known[key] = run.steps(key)
        return self._known[key]

    def _key(self, key: str) -> str:
        if (legal := self._keys.get(key)) is None:
            legal = legal_key(key)
            if legal in self._keys.values():
                legal = with_digest(key, legal)
            self._keys[key] = legal
            if legal != key:
                self.state.names[key] = legal
                self._note(f"metric {key} is logged as {legal}")
        return legal

    def _note(self, sentence: str) -> None:
        if sentence not in self.state.notes and len(self.state.notes) < MOST_NOTES:
            self.state.notes.append(sentence)
            print(sentence, flush=True)

    def _note_once(self, about: str, what: str) -> None:
        if not any(sentence.startswith(about + " ") for sentence in self.state.notes):
            self._note(f"{about} {what}")

    def _failed(self, error: Exception) -> None:
        whole = mask_value(f"{type(error).__name__}: {error}")
        if whole != self._failure:  # once, however often it is tried
            print(time.strftime("%H:%M:%S"), whole, flush=True)
        self._failure = whole
        told = str(error) if isinstance(error, RecordRefusedError | JournalCutError) else whole
        self.state.error = no_answer(self.settings.uri, error) or told[:2000]
        with suppress(OSError):  # the disk may be what fails
            spool.save(self.state_file, self.state)

    def _save(self, offset: int) -> None:
        self.state.offset = offset
        self.state.tail = spool.tail_of(self.journal, offset)
        spool.save(self.state_file, self.state)


def upload(run_dir: Path, uri: str | None = None, parent: int | None = None, patience: float | None = None) -> int:
    """Upload what a run directory holds.

    Args:
        run_dir: the run directory.
        uri: another store than the one the run was started with.
        parent: follow the journal while this process, our parent, lives.
        patience: seconds of unbroken failure to bear; those of the run's settings by default.

    Returns:
        The exit code.
    """
    lifeline = Lifeline(parent)
    settings = spool.load(run_dir / spool.SETTINGS, spool.Settings)
    if settings is None:
        print(f"{run_dir} holds no record to upload: {spool.SETTINGS} is missing or damaged", flush=True)
        return REFUSED
    own = settings.uri
    if patience is not None:
        settings = replace(settings, patience=patience)
    try:
        if uri is not None or MASK in settings.uri:
            location = locate(uri)
            os.environ.update(location.secrets)
            uri = location.secrets.get("MLFLOW_TRACKING_URI", location.uri)
            if location.uri != settings.uri:
                settings = replace(settings, uri=location.uri, artifacts=artifact_folder(location.uri), adopt=None)
    except ConfigError as error:
        print(error, flush=True)
        return REFUSED
    lock = FileLock(run_dir / spool.LOCK)
    while True:
        try:
            with lock.acquire(timeout=1.0):
                state = spool.state_file(run_dir, settings.uri, own)
                return Uploader(run_dir, settings, uri or settings.uri, lifeline, state).upload()
        except Timeout:
            if lifeline.ended():
                print("another uploader is at work on this run", flush=True)
                return LATER


def _upload_beside(run_dirs: Sequence[Path]) -> None:
    """Upload other runs in a process of its own: neither this run nor the end of the training waits for them."""
    print(f"uploading what was left behind in {', '.join(map(str, run_dirs))}", flush=True)
    with suppress(OSError):
        subprocess.Popen(  # noqa: S603 - this very interpreter
            [sys.executable, "-m", "accelerator.tracking.uploader", "--briefly", *map(str, run_dirs)],
            cwd="/",
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )


def main(arguments: list[str] | None = None) -> int:
    """Entry point; see the module's description for the exit codes."""
    parser = argparse.ArgumentParser(
        prog="python -m accelerator.tracking.uploader", description="Upload what runs have journaled to MLflow."
    )
    parser.add_argument("run_dirs", metavar="RUN_DIR", nargs="+", type=Path)
    parser.add_argument("--uri", help="the store; the one each run was started with by default")
    parser.add_argument("--parent", type=int, help="follow the journal while this process lives")
    parser.add_argument(
        "--briefly", action="store_true", help=f"give up at the first failure, and after {OTHERS_TAKE} s"
    )
    options = parser.parse_args(arguments)
    if options.parent is not None:
        os.nice(NICENESS)
    if options.briefly:
        signal.alarm(OTHERS_TAKE)
    patience = 0.0 if options.briefly else None
    return max(upload(run_dir.absolute(), options.uri, options.parent, patience) for run_dir in options.run_dirs)


if __name__ == "__main__":
    ended = main()
    sys.stdout.flush()
    os._exit(ended)  # taking 2000 modules down takes 0.2 s, for which the training would wait
