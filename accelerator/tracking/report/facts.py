"""What a report tells of a run, read from its folder; whatever is not there is left out."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerator.errors import CheckpointError, UserError
from accelerator.runtime.run_directory import CHECKPOINTS, CONFIG, ERROR, JOURNAL, OVERRIDES, PLOTS, RESULT
from accelerator.tracking import comparison, spool
from accelerator.tracking.bridge import to_params

if TYPE_CHECKING:
    from accelerator.runtime.pictures.history import History

# Of the journal: the loss of single steps, most of its lines.
_TRAINING = b'{"key":"train/loss",'

_MOST_PICTURES, _LARGEST_PICTURE = 24, 3_000_000  # on a page, and bytes of one


@dataclass(frozen=True)
class Metric:
    """A metric: its last value, the number of points, and its best with the step of that where one can be told."""

    name: str
    last: float
    points: int
    best: float | None = None
    step: int | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A file with weights."""

    name: str
    bytes: int
    step: int
    level: int
    metrics: dict[str, float]
    best: bool
    last: bool


@dataclass(frozen=True)
class Facts:
    """What is known of a run.

    Attributes:
        name: how it is called.
        folder: where it stands; None where it is known from a store only.
        experiment: its experiment.
        status: FINISHED, FAILED, KILLED or RUNNING.
        started, ended: UTC, milliseconds since 1970.
        run_id: its MLflow id.
        uri: the store that has it.
        link: its page in MLflow's UI.
        config: as it was composed, without secrets.
        overrides: what was typed.
        tags: where it comes from.
        metrics: all of them.
        history: its losses; None where none was noted.
        pictures: name and content of its PNG files.
        checkpoints: its files with weights.
        environment: machine and packages.
        diff: what the code differed in from its commit.
        error: how it failed.
        notes: what MLflow does not show as it was.
    """

    name: str
    folder: Path | None = None
    experiment: str | None = None
    status: str | None = None
    started: int | None = None
    ended: int | None = None
    run_id: str | None = None
    uri: str | None = None
    link: str | None = None
    config: dict[str, Any] = field(default_factory=dict, repr=False)
    overrides: list[str] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict, repr=False)
    metrics: list[Metric] = field(default_factory=list, repr=False)
    history: History | None = field(default=None, repr=False)
    pictures: list[tuple[str, bytes]] = field(default_factory=list, repr=False)
    checkpoints: list[Checkpoint] = field(default_factory=list, repr=False)
    environment: dict[str, Any] = field(default_factory=dict, repr=False)
    diff: str = field(default="", repr=False)
    error: str = field(default="", repr=False)
    notes: list[str] = field(default_factory=list, repr=False)

    @property
    def params(self) -> dict[str, str]:
        """The config, flattened."""
        return to_params(self.config)[0]

    @property
    def monitor(self) -> tuple[str, str] | None:
        """The metric it was rated by, and ``min`` or ``max``."""
        section = self.config.get("checkpoint")
        if not isinstance(section, Mapping) or not section.get("monitor"):
            return None
        return str(section["monitor"]), str(section.get("mode", "min"))

    @property
    def seconds(self) -> float | None:
        """From its start to the last it wrote; none at all where the clock was set back meanwhile."""
        return None if self.started is None or self.ended is None else max(self.ended - self.started, 0) / 1000


def is_run(folder: Path) -> bool:
    """Whether a folder holds anything of a run."""
    return any((folder / name).is_file() for name in (JOURNAL, CONFIG, spool.SETTINGS))


def read_run(folder: Path) -> Facts:
    """What a run's folder tells.

    Raises:
        UserError: it is none.
    """
    folder = folder.absolute()
    if not is_run(folder):
        raise UserError(f"{folder} is no run's folder: there is no {JOURNAL} and no {CONFIG} in it")
    config, overrides = _yaml(folder / CONFIG, dict), _yaml(folder / OVERRIDES, list)
    settings = spool.load(folder / spool.SETTINGS, spool.Settings)
    state = spool.load(folder / spool.STATE, spool.State)
    facts = Facts(
        name=(settings and settings.run_name) or folder.name,
        folder=folder,
        experiment=settings.experiment if settings else None,
        config=config,
        overrides=[str(override) for override in overrides],
        pictures=_pictures(folder / PLOTS),
        checkpoints=_checkpoints(folder, config),
        environment=_yaml(folder / "environment.yaml", dict),
        diff=_text(folder / "git.diff"),
        error=_text(folder / ERROR),
    )
    facts = _journaled(facts, folder / (settings.journal if settings else JOURNAL))
    if settings:
        facts = replace(facts, started=settings.started)
    if state and state.run_id:
        from accelerator.tracking.locations import run_link

        link = run_link(state.uri, state.experiment_id or "0", state.run_id)
        facts = replace(facts, run_id=state.run_id, uri=state.uri, link=link, notes=state.notes)
    if facts.status is None:
        status = "FAILED" if facts.error else "FINISHED" if (folder / RESULT).exists() else None
        facts = replace(facts, status=status)
    if facts.status in (None, spool.RUNNING) and not _is_at_work(folder):
        facts = replace(facts, status="KILLED")
    return facts


def previous_of(facts: Facts, folders: Sequence[Path]) -> Facts | None:
    """The run of the same experiment that was started before this one: its folder among these, its config read.

    Without a record of experiments, every run counts.
    """
    found: list[tuple[int, Path]] = []
    for folder in folders:
        settings = spool.load(folder / spool.SETTINGS, spool.Settings)
        if settings is None or folder == facts.folder or settings.experiment != facts.experiment:
            continue
        if facts.started is not None and settings.started < facts.started and (folder / CONFIG).is_file():
            found.append((settings.started, folder))
    if not found:
        return None
    folder = max(found)[1]
    settings = spool.load(folder / spool.SETTINGS, spool.Settings)
    return Facts((settings and settings.run_name) or folder.name, folder, config=_yaml(folder / CONFIG, dict))


def _journaled(facts: Facts, journal: Path) -> Facts:
    """With what the journal tells: metrics, losses, tags, status and times."""
    if not journal.is_file():
        return facts
    points: dict[str, list[tuple[int, float]]] = {}
    tags: dict[str, str] = {}
    counts: Counter[str] = Counter()
    status, times = None, []
    for line, count in _lines(journal):
        times.append(line["time"])
        match line.get("event"):
            case None:
                points.setdefault(line["key"], []).append((line["step"], line["value"]))
                counts[line["key"]] += count
            case "tags":
                tags.update({key: str(value) for key, value in line["values"].items()})
            case "status":
                status = line["value"]
    history = None
    if points.keys() & {"train/loss", "val/loss"}:
        from accelerator.runtime.pictures.history import read_history

        history = read_history(journal)
        if not len(history.training) and not len(history.validation):  # none that is a number
            history = None
    monitor = facts.monitor or ()
    metrics = [_metric(name, points[name], counts[name], monitor) for name in sorted(points, key=comparison.rank)]
    return replace(
        facts,
        metrics=metrics,
        history=history,
        tags=tags,
        status=status,
        started=min(times, default=None),
        ended=max(times, default=None),
    )


def _lines(journal: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """The whole lines of a journal, and how many points each stands for.

    Of the training loss, which may be a million points, only the last line is read, at the end.
    """
    last, count = b"", 0
    with journal.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            if line.startswith(_TRAINING):
                last, count = line, count + 1
            elif (found := _parsed(line)) is not None:
                yield found, 1
    if count and (found := _parsed(last)) is not None:
        yield found, count


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _metric(name: str, points: Sequence[tuple[int, float]], count: int, monitor: Sequence[str]) -> Metric:
    # A step's own loss depends on its batch: the least of them says nothing.
    mode = None if name == "train/loss" else comparison.better(name, *monitor)
    best = comparison.best([value for _, value in points], mode) if mode else None
    step = next((step for step, value in points if value == best), None)
    return Metric(name, points[-1][1], count, best, step)


def _checkpoints(folder: Path, config: Mapping[str, Any]) -> list[Checkpoint]:
    directory = folder / CHECKPOINTS
    if not directory.is_dir() or "checkpoint" not in config:
        return []
    from accelerator.runtime.checkpoint.checkpoint_handler import CheckpointHandler
    from accelerator.runtime.checkpoint.meta_handler import read_meta

    section = config["checkpoint"]
    handler = CheckpointHandler(directory, monitor=section["monitor"], mode=section["mode"])
    best, found = handler.best(), []
    for path in (paths := handler.paths()):
        try:
            meta = read_meta(path)
        except CheckpointError:
            continue
        metrics = {name: value for name, value in meta.metrics.items() if not math.isnan(value)}
        found.append(Checkpoint(path.name, meta.bytes, meta.step, meta.level, metrics, path == best, path == paths[-1]))
    return found


def _pictures(plots: Path) -> list[tuple[str, bytes]]:
    files = sorted(path for path in plots.rglob("*.png") if path.stat().st_size <= _LARGEST_PICTURE)
    return [(path.relative_to(plots).as_posix(), path.read_bytes()) for path in files[:_MOST_PICTURES]]


def _is_at_work(folder: Path) -> bool:
    """Whether a process holds the run's folder."""
    from filelock import FileLock, Timeout

    if not (folder / ".lock").exists():
        return False
    try:
        with FileLock(folder / ".lock", blocking=False):
            return False
    except Timeout:
        return True
    except (OSError, NotImplementedError):  # a folder that may only be read
        return False


def _yaml(path: Path, kind: type) -> Any:
    """What stands in a file; empty where it is not there, or not what it should be."""
    import yaml

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return kind()
    return found if isinstance(found, kind) else kind()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
