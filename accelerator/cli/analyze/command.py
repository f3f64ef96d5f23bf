"""``accelerator analyze-data`` and ``analyze-model``: what a run's data and network are, before it is run."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerator.cli.compose.composed import Composed, removed_if_unused
from accelerator.cli.composed_command import ComposedCommand

if TYPE_CHECKING:
    from accelerator.analysis.report import Report
    from accelerator.cli.task import Task
    from accelerator.runtime.run import Result

PICTURES = "pictures"


def analyze_data_command(arguments: list[str]) -> int:
    """The command line's entry; see `accelerator.cli.app.main` for the exit codes."""
    return ANALYZE_DATA.main(arguments)


def analyze_model_command(arguments: list[str]) -> int:
    """The command line's entry; see `accelerator.cli.app.main` for the exit codes."""
    return ANALYZE_MODEL.main(arguments)


def _analyze_data(composed: Composed) -> Result:
    """Build the data, before anything is written; then read it once."""
    from accelerator.analysis.data import report_on, splits_of

    with removed_if_unused(composed.run_dir):
        values = _checked(composed)
        splits, takes = splits_of(values)
        typed = {each.split("=")[0].lstrip("+~") for each in composed.overrides}
        return _run(
            "analyze-data",
            composed,
            values,
            lambda run_dir: report_on(splits, values, takes=takes, typed=typed, folder=run_dir / PICTURES),
        )


def _analyze_model(composed: Composed) -> Result:
    """Build the run around its network, before anything is written; then look at it."""
    from accelerator.analysis.model import context_of, report_on
    from accelerator.cli.load import check_not_accelerated

    with removed_if_unused(composed.run_dir):
        values = _checked(composed)
        check_not_accelerated(values, "analyze-model")
        context = context_of(values)
        return _run("analyze-model", composed, values, lambda _: report_on(context, values))


def _checked(composed: Composed) -> dict[str, Any]:
    from accelerator.cli.compose.compose import plain
    from accelerator.errors import ConfigError
    from accelerator.runtime.run import check_config

    values = plain(composed.config)
    check_config(values)
    section = values["analysis"]
    least = {"samples": 1, "near_duplicates": 0, "tolerance": 0, "outlier": 0, "batches": 1, "rounds": 0}
    problems = [
        f"analysis.{key}={section[key]}: expected at least {low}"
        for key, low in least.items()
        if section[key] is not None and not section[key] >= low
    ]
    if problems:
        raise ConfigError(problems)
    return values


def _run(command: str, composed: Composed, values: Mapping[str, Any], look: Callable[[Path], Report]) -> Result:
    """Look, write what was found into the run's folder and its record, and print it."""
    from accelerator.analysis.page import render
    from accelerator.cli.resume import recorded
    from accelerator.cli.task import run_task
    from accelerator.runtime.checkpoint.operation import write_bytes
    from accelerator.tracking.masking import mask_arguments

    as_json = values["analysis"]["json"]
    # Where this is recorded is no part of what is analyzed.
    typed = [text for text in mask_arguments(recorded(composed.overrides)) if not text.startswith("tracking.")]
    reports: list[Report] = []

    def work(task: Task) -> None:
        from accelerator.utilities.files import short

        report = look(task.run_dir)
        report.sort()
        reports.append(report)
        try_it = _command("train", [*(each for each in typed if not each.startswith("analysis.")), *report.suggestion])
        page = render(report, _command(command, typed), try_it if report.suggestion else "")
        for name, text in (
            ("analysis.json", json.dumps(report.json(), indent=1, ensure_ascii=False)),
            ("analysis.html", page),
        ):
            write_bytes(task.run_dir / name, text.encode())
            task.artifact(task.run_dir / name)
        for picture in report.pictures:
            task.artifact(picture.path, PICTURES)
        task.metrics.update(report.metrics)
        task.rows.append(("page", f"{short(task.run_dir / 'analysis.html')}: open it in any browser"))
        if report.suggestion:
            task.rows.append(("start with", try_it))
        if not as_json:
            from accelerator.cli.analyze.printing import show

            show(report)

    # What is for programs goes to them alone: everything else is said beside it.
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        result = run_task(command, composed, work)
    if as_json:
        print(json.dumps(reports[0].json(), indent=1, ensure_ascii=False))
    return result


def _command(name: str, overrides: list[str]) -> str:
    import shlex

    return shlex.join(["accelerator", name, *overrides])


_FLAGS = """
flags
  --explain            print every value with the file that set it and what it builds, and stop
  --debug              show the traceback of a mistake
  --overrides TEXT     more overrides in one argument, quoted as in a shell
  -m, --multirun       run every combination"""

_DATA_HELP = f"""usage: accelerator analyze-data [key=value | group=option ...] [flags]

Read a run's data once, as it is before any transform, and say what is in it and what is wrong with it: ranges, means,
gaps, outliers, copies, samples in two splits, near copies, classes. Writes analysis.html and analysis.json into the
run's folder, and prints the command line to start a training with. What does not fit in memory is read in pieces.

data=…                         the same as for accelerator train
analysis.samples=10000         look at so many of each split, spread over it; default: all
analysis.near_duplicates=0     do not compare samples with one another; default: 10,000 of them
analysis.tolerance=0.02        samples are nearly the same below this share of a usual distance
analysis.outlier=12            values are outliers so many robust standard deviations from the median; 0: none is
analysis.json=true             print JSON instead of tables

examples
  accelerator analyze-data data=digits
  accelerator analyze-data data=arrays data.path=table.csv data.inputs=[a,b] data.targets=y
  accelerator analyze-data data=arrays data.path=large.npy data.inputs=:-1 data.targets=-1
{_FLAGS}"""

_MODEL_HELP = f"""usage: accelerator analyze-model [key=value | group=option ...] [flags]

Look at a run's network with its data, loss and optimizer, and train nothing: layers, parameters, FLOPs, memory, time of
each layer, what multilevel training and pruning can do with it, what gets no gradient, what it sees of an image. Writes
analysis.html and analysis.json into the run's folder.

model=… data=…                 the same as for accelerator train
load=last                      a trained network: of a run's folder, its MLflow id, or a checkpoint file
analysis.batches=16            look for dead units and missing gradients in so many batches; default: 4
analysis.rounds=0              do not take the layers' times; default: in 9 rounds
analysis.json=true             print JSON instead of tables

examples
  accelerator analyze-model model=cnn data=digits
  accelerator analyze-model experiment=poisson_fno loader.batch_size=64
{_FLAGS}"""

ANALYZE_DATA = ComposedCommand("analyze-data", _analyze_data, lambda: _DATA_HELP)
ANALYZE_MODEL = ComposedCommand("analyze-model", _analyze_model, lambda: _MODEL_HELP)
