"""What ``accelerator pipeline`` prints: the plan, what steps say while they run, and what became of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerator.pipeline.plan import Pipeline, Step
from accelerator.pipeline.run import FAILED, MADE, NOT_RUN, OUTPUT, STOPPED, UNCHANGED, Outcome
from accelerator.pipeline.state import BEGUN, DONE, NEW, Verdict
from accelerator.tracking.masking import mask_arguments
from accelerator.utilities import shell
from accelerator.utilities.quantities import measured as readable

if TYPE_CHECKING:
    from rich.console import Console

    from accelerator.pipeline.state import PipelineResult

_LOOKS = {MADE: "green", UNCHANGED: "dim", FAILED: "bold red", STOPPED: "yellow", NOT_RUN: "dim"}
_MOST = 2  # metrics of a step in the table


class Told:
    """Tells what happens, as it happens.

    Args:
        pipeline: the steps.
        folder: the pipeline's.
        to_stderr: keep stdout for programs.
    """

    def __init__(self, pipeline: Pipeline, folder: Path, *, to_stderr: bool = False) -> None:
        self.numbers = {name: number for number, name in enumerate(pipeline.steps, 1)}
        self.side_by_side = pipeline.parallel > 1
        self.folder, self.width = folder, max(map(len, pipeline.steps))
        self.console = _console(stderr=to_stderr)

    def begins(self, step: Step, verdict: Verdict) -> None:
        """A headline: what it does, and why again."""
        does, why = step.run.replace("_", " "), verdict.reason
        self._headline(step, *([] if does == step.name else [does]), *([] if why == NEW else [why]))

    def says(self, step: Step, line: str) -> None:
        """The line, with the step's name where several speak."""
        print(f"{step.name:<{self.width}} │ {line}" if self.side_by_side else line, file=self.console.file)

    def ends(self, step: Step, outcome: Outcome) -> None:
        """What became of it."""
        if outcome.status == UNCHANGED:
            self._headline(step, "done before, and nothing changed")
        elif outcome.status == FAILED:
            self._headline(step, f"failed: {outcome.reason}; what it said is in {self.folder / step.name / OUTPUT}")

    def waits(self, step: Step) -> None:
        """Why nothing happens."""
        self._headline(step, "a process of an earlier execution still saves itself; waiting for it")

    def _headline(self, step: Step, *texts: str) -> None:
        from rich.text import Text

        number = f"[{self.numbers[step.name]}/{len(self.numbers)}]"
        self.console.print(Text.assemble((f"{number} {step.name}", "bold"), *(f" · {text}" for text in texts)))
        self.console.file.flush()


def print_plan(pipeline: Pipeline, plan: Mapping[str, Verdict], commands: Mapping[str, Sequence[str]]) -> None:
    """The steps in order: what is done, what would run and why, and what could be typed for it."""
    from rich.table import Table
    from rich.text import Text

    console = _console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("step", "needs", "would", "because"):
        table.add_column(column, overflow="fold")
    for name, verdict in plan.items():
        would = "be skipped" if verdict.state == DONE else "go on" if verdict.state == BEGUN else "run"
        because = "done, and nothing changed" if verdict.state == DONE else verdict.reason
        needs = ", ".join(pipeline.steps[name].needs) or "–"
        table.add_row(name, needs, Text(would, "dim" if verdict.state == DONE else "green"), because)
    console.print(table)
    console.print()
    for name in plan:
        console.print(Text.assemble((f"{name}: ", "bold"), shown(commands[name])), soft_wrap=True)
    console.print("plan: every step composes; nothing was run, nothing was written")


def plan_as_json(
    folder: Path, pipeline: Pipeline, plan: Mapping[str, Verdict], commands: Mapping[str, Sequence[str]]
) -> str:
    """The same for programs."""
    steps = [
        {
            "step": step,
            "run": pipeline.steps[step].run,
            "needs": list(pipeline.steps[step].needs),
            "state": verdict.state,
            "reason": verdict.reason,
            "command": shown(commands[step]),
        }
        for step, verdict in plan.items()
    ]
    return json.dumps({"pipeline": pipeline.name, "folder": str(folder), "steps": steps}, indent=1)


def shown(command: Sequence[str]) -> str:
    """A step's command as it can be typed, without secrets."""
    return shell.join(["accelerator", *mask_arguments(command)])


def print_outcome(result: PipelineResult, bars: Sequence[str], rows: Sequence[tuple[str, str]]) -> None:
    """The table of all steps, when each ran, and where to look."""
    from rich.table import Table
    from rich.text import Text

    console = _console()
    table = Table(
        "step", "status", "seconds", "measured", "MLflow run", title=f"Pipeline {result.pipeline}", title_justify="left"
    )
    table.columns[2].justify = "right"
    for name, step in result.steps.items():
        status = step["status"] + (
            f": {step['reason']}" if step["reason"] and step["status"] in (FAILED, NOT_RUN) else ""
        )
        seconds = "" if step["seconds"] is None else f"{step['seconds']:.1f}"
        table.add_row(
            name, Text(status, _LOOKS[step["status"]]), seconds, measured(step["metrics"]), step["run_id"] or ""
        )
    console.print(table)
    for line in bars:
        console.print(Text(line))
    for label, text in rows:
        console.print(f"{label:<17}{text}", soft_wrap=True)


def measured(metrics: Mapping[str, Any]) -> str:
    """The few values that say most: those of the test, else the first."""
    keys = [key for key in metrics if key.startswith("test/")] or list(metrics)
    return "  ".join(f"{key} {readable(metrics[key], 4)}" for key in keys[:_MOST])


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    # A pipe has no width of its own: tables are not folded there.
    return Console(highlight=False, stderr=stderr, width=None if stream.isatty() else 160)
