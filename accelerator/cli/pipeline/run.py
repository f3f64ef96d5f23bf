"""Runs a pipeline that is composed and checked: its folder, its steps as processes, its record, its result."""

from __future__ import annotations

import importlib
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerator.cli.which_run import run_id
from accelerator.errors import ConfigError, StepError, Terminated, did_you_mean
from accelerator.pipeline.process import forked, may_fork, spawned, threads
from accelerator.pipeline.run import MADE, OUTPUT, UNCHANGED, Execution, Listener
from accelerator.pipeline.state import BEGUN, Folder, PipelineResult
from accelerator.pipeline.timeline import Bar, as_text, draw
from accelerator.runtime.run_directory import JOURNAL, RESULT, owned
from accelerator.tracking.masking import mask_arguments
from accelerator.utilities import shell

if TYPE_CHECKING:
    from accelerator.cli.pipeline.config import Prepared
    from accelerator.pipeline.plan import Step
    from accelerator.runtime.journal import Journal

TIMELINE = "timeline.png"

# What steps import on their way: torch._inductor by torch.use_deterministic_algorithms, which takes seconds.
_LATE = ("torch._inductor", "accelerator.cli.experiment", "accelerator.cli.record", "accelerator.cli.task")


@dataclass(frozen=True)
class Options:
    """How a pipeline is run.

    Attributes:
        parallel: steps side by side; None takes the pipeline's own.
        forced: steps to run though they are done; None none, an empty list all.
        until: the last step to run.
        json: print for programs, on stdout and nothing else there.
    """

    parallel: int | None = None
    forced: Sequence[str] | None = None
    until: str | None = None
    json: bool = False


def show_plan(prepared: Prepared, options: Options) -> None:
    """Print what would happen; nothing is written."""
    from accelerator.cli.pipeline.show import Told, plan_as_json, print_plan

    prepared = as_asked(prepared, options)
    folder = Folder(prepared.run_dir, prepared.difference)
    plan = _execution(prepared, options, folder, Told(prepared.pipeline, folder.path)).plan()
    commands = {
        name: command_of(prepared, folder, prepared.pipeline.steps[name], begun=verdict.state == BEGUN)
        for name, verdict in plan.items()
    }
    if options.json:
        print(plan_as_json(folder.path, prepared.pipeline, plan, commands))
    else:
        print_plan(prepared.pipeline, plan, commands)


def run_prepared(prepared: Prepared, options: Options, typed: Sequence[str]) -> PipelineResult:
    """Run what is not done, and keep the record.

    Args:
        prepared: the pipeline.
        options: how it is run.
        typed: its overrides, as they were typed.

    Raises:
        StepError: a step failed.
        Terminated: a signal stopped it.
        RunDirectoryError: another pipeline runs in its folder.
    """
    from accelerator.cli.pipeline.show import Told, print_outcome
    from accelerator.cli.record import RunRecord, check_store
    from accelerator.runtime.checkpoint.operation import write_bytes
    from accelerator.runtime.journal import Journal
    from accelerator.utilities.files import short

    prepared = as_asked(prepared, options)
    values, about = _described(prepared, typed)
    check_store(values)
    with owned(prepared.run_dir) as run_dir, Journal(run_dir / JOURNAL) as journal:
        (run_dir / RESULT).unlink(missing_ok=True)
        folder = Folder(run_dir, prepared.difference)
        folder.state.executions += 1
        folder.save()
        record = RunRecord(values, about, run_dir)
        record.open(journal, {})
        execution = _execution(prepared, options, folder, Told(prepared.pipeline, run_dir, to_stderr=options.json))
        error: BaseException | None = None
        try:
            execution.run()
            if execution.failed:
                raise _failure(execution)
        except BaseException as raised:
            error = raised
            if isinstance(raised, Terminated):
                again = shell.join(["accelerator", "pipeline", prepared.pipeline.name, *mask_arguments(typed)])
                raised.args = (f"{raised}; what is done is kept, go on with: {again}",)
            raise
        finally:
            result = _told(execution)
            bars = _record_outcome(execution, result, journal)
            record.close(journal, error)
            result.run_id = record.tracked.run_id if record.tracked else None
            text = json.dumps(vars(result), default=str, indent=1)
            if error is None:
                write_bytes(run_dir / RESULT, text.encode())
            if options.json:
                print(text)
            else:
                print_outcome(result, bars, [("run directory", short(run_dir)), *record.where])
    return result


def as_asked(prepared: Prepared, options: Options) -> Prepared:
    """The pipeline, with what was asked for on top.

    Raises:
        ConfigError: a step that was named is not there.
    """
    pipeline = prepared.pipeline
    problems = [
        f"{flag} {step}: there is no step '{step}'{did_you_mean(step, pipeline.steps)}"
        for flag, named in (("--force", options.forced or ()), ("--until", [options.until] if options.until else ()))
        for step in named
        if step not in pipeline.steps
    ]
    if options.parallel is not None and options.parallel < 1:
        problems.append(f"--parallel {options.parallel}: expected a number of steps, at least 1")
    if problems:
        raise ConfigError(problems)
    return replace(prepared, pipeline=replace(pipeline, parallel=options.parallel or pipeline.parallel))


def command_of(prepared: Prepared, folder: Folder, step: Step, *, begun: bool) -> list[str]:
    """What is typed for a step, after ``accelerator``.

    Args:
        prepared: the pipeline.
        folder: its folder.
        step: the step.
        begun: it goes on from its own checkpoint.
    """
    from accelerator.cli.pipeline.config import literal

    own = folder.step(step.name)
    source = None if step.source is None else str(folder.model(step.source, step.choice))
    if not step.kind.composed:
        return [*step.kind.command, str(source), "-o", str(own / str(step.out)), "--force"]
    if begun:  # its own overrides are on record there
        return [*step.kind.command, f"resume={literal(str(own))}"]
    return [
        *step.kind.command,
        *prepared.shared,
        f"tracking.run_name={literal(step.name)}",
        *_without_overruled(step.overrides),
        *([f"load={literal(source)}"] if source else []),
        f"hydra.run.dir={literal(str(own))}",
        f"tracking.parent={literal(str(folder.path))}",
    ]


def _without_overruled(overrides: Sequence[str]) -> list[str]:
    """The overrides without those that a later one for the same key makes void."""
    kept: list[str] = []
    later: set[str] = set()
    for override in reversed(overrides):
        key, _, value = override.partition("=")
        if key in later and not override.startswith(("+", "~")) and not value.startswith("{"):
            continue
        kept.append(override)
        if not value.startswith("{"):  # a mapping adds to what stands there
            later.add(key)
    return kept[::-1]


def _execution(prepared: Prepared, options: Options, folder: Folder, listener: Listener) -> Execution:
    def own(step: Step) -> dict[str, str]:
        if not step.kind.composed:
            return {"command": step.run, "out": str(step.out)}
        return {"command": step.run, "config": prepared.fingerprints[step.name]}

    steps = prepared.pipeline.steps
    forced = () if options.forced is None else options.forced or list(steps)
    start = _Start(prepared, folder)
    return Execution(prepared.pipeline, folder, own, start, listener, forced, options.until)


class _Start:
    """Starts steps: as forks that need import nothing again, where a fork is as good as a process of its own."""

    def __init__(self, prepared: Prepared, folder: Folder) -> None:
        self.prepared, self.folder = prepared, folder
        self._known: int | None = None

    def __call__(self, step: Step, log: Path, begun: bool) -> int:
        command = command_of(self.prepared, self.folder, step, begun=begun)
        if self._known is None:
            self._known = self._import_late()
        if may_fork(self._known):
            return forked(lambda: _in_fork(command), log)
        return spawned([sys.executable, "-m", "accelerator", *command], log)

    def _import_late(self) -> int:
        """Import what steps import on their way, once for all; it takes seconds."""
        if not may_fork(self.prepared.threads):
            return 0
        for name in _LATE:
            importlib.import_module(name)
        return threads()


def _in_fork(command: list[str]) -> int:
    from accelerator.cli.app import main

    for name in ("accelerator", "domain"):  # those of the pipeline; the command makes its own
        logging.getLogger(name).handlers.clear()
    return main(command)


def _failure(execution: Execution) -> StepError:
    first, *others = execution.failed
    outcome = execution.outcomes[first]
    more = f" ({', '.join(others)} too)" if others else ""
    return StepError(
        f"step '{first}' failed{more}: {outcome.reason}; what it said is in {execution.folder.step(first) / OUTPUT}. "
        "Mend it and give the same command again: what is done is kept",
        outcome.code or 1,
    )


def _described(prepared: Prepared, typed: Sequence[str]) -> tuple[dict[str, Any], Any]:
    """The config for the record, and what else is told of a run: no secret in an override, and a seed of none."""
    from accelerator.cli.record import About
    from accelerator.cli.resume import recorded

    def shown(values: Mapping[str, Any]) -> dict[str, Any]:
        steps = {
            name: {**step, "overrides": mask_arguments(step.get("overrides") or [])}
            for name, step in values["steps"].items()
        }
        return {**values, "overrides": mask_arguments(values.get("overrides") or []), "steps": steps, "seed": None}

    parent = prepared.values["tracking"]["parent"]
    about = About(
        "pipeline",
        shown(prepared.unresolved),
        [prepared.pipeline.name, *recorded(typed)],
        prepared.choices,
        prepared.files,
        Path(parent).absolute() if parent else None,
        name=prepared.pipeline.name,
    )
    return shown(prepared.values), about


def _told(execution: Execution) -> PipelineResult:
    """What is known of every step; of those that were done before, too."""
    folder, steps = execution.folder, {}
    metrics: dict[str, float] = {}
    for name, outcome in execution.outcomes.items():
        done = outcome.status in (MADE, UNCHANGED)
        result = (folder.result(name) if done else None) or {}
        note = folder.state.steps.get(name) if done else None
        spent = None if outcome.begin is None or outcome.end is None else outcome.end - outcome.begin
        steps[name] = {
            "status": outcome.status,
            "reason": outcome.reason,
            "seconds": note.seconds if note is not None else spent,
            "code": outcome.code,
            "metrics": result.get("metrics", {}),
            "made": str(folder.step(name) / result["file"]) if "file" in result else result.get("best"),
            "run_id": result.get("run_id") or (None if outcome.begin is None else run_id(folder.step(name))),
        }
        metrics |= {f"{name}/{key}": value for key, value in steps[name]["metrics"].items()}
    return PipelineResult(execution.pipeline.name, metrics, folder.path, steps, execution.seconds)


def _record_outcome(execution: Execution, result: PipelineResult, journal: Journal) -> list[str]:
    """Put metrics, tags and files of this execution on record; the lines of its timeline."""
    number = execution.folder.state.executions
    journal.metrics(result.metrics, number)
    spent = {f"{name}/seconds": step["seconds"] for name, step in result.steps.items() if step["seconds"] is not None}
    journal.metrics(spent, number)
    journal.event("tags", values={f"step.{name}": step["status"] for name, step in result.steps.items()})
    bars = [
        Bar(name, outcome.begin, outcome.end, "" if outcome.status == MADE else outcome.status)
        for name, outcome in execution.outcomes.items()
        if outcome.begin is not None and outcome.end is not None
    ]
    picture = execution.folder.path / TIMELINE
    if draw(bars, picture, f"Pipeline {result.pipeline}, execution {number}"):
        journal.event("artifact", path=str(picture), artifact_path=None)
    for name, step in execution.pipeline.steps.items():
        if step.out is not None and result.steps[name]["status"] == MADE:
            journal.event("artifact", path=result.steps[name]["made"], artifact_path=name)
    return as_text(bars)
