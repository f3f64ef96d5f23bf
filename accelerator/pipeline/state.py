"""What a pipeline's folder says of its steps: which are done, which had begun, and what each was made from.

::

    pipelines/digits/
        pipeline.json        what this module notes of finished steps
        train/step.json      what the step is made from; written before it starts
        train/result.json    written last, by the step itself: the mark of one that is done
        earlier/             results that were made anew, kept

A step is done if its result is there, it was made from what it would be made from now, and nobody changed it since.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accelerator.pipeline.plan import EARLIER, Step
from accelerator.runtime.checkpoint.operation import write_bytes
from accelerator.runtime.run_directory import CHECKPOINTS, CONFIG, JOURNAL, RESULT

STATE, MADE_FROM = "pipeline.json", "step.json"

DONE, BEGUN, ABSENT = "done", "begun", "absent"
NEW = "was not made yet"

Ingredients = Mapping[str, str]


@dataclass(frozen=True)
class Verdict:
    """How far a step is.

    Attributes:
        state: `DONE`; `BEGUN`, to go on from its own checkpoint; or `ABSENT`, to be made from the start.
        reason: why it is not done.
    """

    state: str
    reason: str = ""


@dataclass
class Note:
    """What was noted of a finished step.

    Attributes:
        digest: of its result.
        seconds: it took, starts and stops included.
    """

    digest: str
    seconds: float


@dataclass
class State:
    """What is remembered between two executions.

    Attributes:
        executions: how many there were.
        steps: notes of those that finished, by name.
    """

    executions: int = 0
    steps: dict[str, Note] = field(default_factory=dict)


@dataclass
class PipelineResult:
    """What a pipeline leaves behind.

    Attributes:
        pipeline: its name.
        metrics: of all steps, as ``<step>/<metric>``.
        run_dir: its folder.
        steps: of each step its status, reason, seconds, exit code, metrics, what it made, and its MLflow run.
        seconds: of this execution.
        run_id: of its record in MLflow; None if it was not kept there.
    """

    pipeline: str
    metrics: dict[str, float]
    run_dir: Path
    steps: dict[str, dict[str, Any]]
    seconds: float
    run_id: str | None = None


class Folder:
    """A pipeline's folder; the caller owns it.

    Args:
        path: absolute.
        difference: what became different in a step's config, as text; it is asked for only where something did.
    """

    def __init__(self, path: Path, difference: Callable[[str], str] | None = None) -> None:
        self.path, self._difference = path, difference
        self.state = _load(path / STATE)

    def step(self, name: str) -> Path:
        """A step's own folder."""
        return self.path / name

    def save(self) -> None:
        """Remember."""
        write_bytes(self.path / STATE, json.dumps(asdict(self.state), indent=1).encode())

    def judge(self, step: Step, ingredients: Ingredients) -> Verdict:
        """How far a step is that would now be made from these."""
        folder = self.step(step.name)
        before = _json(folder / MADE_FROM)
        if before is None:
            return Verdict(ABSENT, NEW)
        if changed := [key for key in sorted(before.keys() | ingredients) if before.get(key) != ingredients.get(key)]:
            told = (self._change(step, key, before, ingredients) for key in changed)
            return Verdict(ABSENT, "; ".join(told))
        result = self.result(step.name)
        if result is None:
            resumable = step.kind.resumes and (folder / CONFIG).is_file() and _has_checkpoint(folder)
            return (
                Verdict(BEGUN, "goes on from its last checkpoint") if resumable else Verdict(ABSENT, "was not finished")
            )
        note = self.state.steps.get(step.name)
        if note is not None and note.digest != self.digest(step.name):
            return Verdict(ABSENT, f"its {RESULT} was changed by somebody")
        if (gone := _damaged(step, folder, result)) is not None:
            return Verdict(ABSENT, gone)
        return Verdict(DONE)

    def _change(self, step: Step, key: str, before: Ingredients, now: Ingredients) -> str:
        told = _change(key, before, now)
        values = self._difference(step.name) if key == "config" and self._difference is not None else ""
        return f"{told}: {values}" if values else told

    def result(self, name: str) -> dict[str, Any] | None:
        """What a finished step left; None if it left nothing that can be read."""
        found = _json(self.step(name) / RESULT)
        return found if found is not None and isinstance(found.get("metrics"), dict) else None

    def digest(self, name: str) -> str:
        """What stands for a step's result in what others are made from."""
        return hashlib.sha256((self.step(name) / RESULT).read_bytes()).hexdigest()

    def begin(self, step: Step, ingredients: Ingredients) -> Path:
        """Make a step's folder anew; a result that stands there is kept among the earlier ones.

        A kill at any moment leaves the old folder whole, none, or one without a result.
        """
        folder = self.step(step.name)
        if self.state.steps.pop(step.name, None) is not None:
            self.save()
        if folder.exists():
            aside = self.path / EARLIER / f"{step.name}-{time.time_ns()}"
            aside.parent.mkdir(exist_ok=True)
            folder.rename(aside)  # its uploader may still be at work there: it stands in the folder, not on the path
            if not any((aside / kept).exists() for kept in (JOURNAL, RESULT)):
                shutil.rmtree(aside)
        folder.mkdir(parents=True)
        write_bytes(folder / MADE_FROM, json.dumps(dict(ingredients), indent=1).encode())
        return folder

    def finish_export(self, step: Step, seconds: float) -> None:
        """Leave the result of a step whose command leaves none."""
        assert step.out is not None
        folder = self.step(step.name)
        file = folder / step.out
        result = {
            "metrics": {"bytes": float(file.stat().st_size)},
            "run_dir": str(folder),
            "file": step.out,
            "sha256": _sha256(file),
            "seconds": seconds,
        }
        write_bytes(folder / RESULT, json.dumps(result, indent=1).encode())

    def note(self, name: str, seconds: float) -> None:
        """Remember that a step is done."""
        self.state.steps[name] = Note(self.digest(name), seconds)
        self.save()

    def model(self, name: str, choice: str | None) -> Path:
        """The checkpoint that ``<step>:<choice>`` means; the step's folder where nothing was chosen."""
        if choice is None:
            return self.step(name)
        result = self.result(name) or {}
        return Path(result[choice]) if result.get(choice) else self.step(name)


def _load(path: Path) -> State:
    values = _json(path) or {}
    try:
        return State(values["executions"], {name: Note(**note) for name, note in values["steps"].items()})
    except (KeyError, TypeError, AttributeError):
        return State()


def _json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _change(key: str, before: Ingredients, now: Ingredients) -> str:
    part, _, step = key.partition(":")
    if part == "need":
        return (
            f"it needs {step} now"
            if key not in before
            else f"it does not need {step} any more"
            if key not in now
            else f"{step} was made anew"
        )
    what = {"command": "it does something else", "out": "its file has another name", "load": "it loads another model"}
    return what.get(part, f"its {part} changed")


def _has_checkpoint(folder: Path) -> bool:
    return any(path.with_suffix(".safetensors").exists() for path in (folder / CHECKPOINTS).glob("*.json"))


def _damaged(step: Step, folder: Path, result: Mapping[str, Any]) -> str | None:
    """What of a result is not there any more."""
    if step.out is not None:
        file = folder / step.out
        if not file.is_file():
            return f"its file {step.out} is gone"
        return None if _sha256(file) == result.get("sha256") else f"its file {step.out} was changed by somebody"
    if step.kind.makes_model and (best := result.get("best")) and not Path(best).exists():
        return f"its checkpoint {Path(best).name} is gone"
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
