"""``accelerator evaluate``: loss and metrics of a trained network, on a split of its data or on other data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from accelerator.cli.compose.composed import Composed, removed_if_unused
from accelerator.cli.composed_command import ComposedCommand

if TYPE_CHECKING:
    from accelerator.cli.task import Task
    from accelerator.runtime.run import Result


def evaluate_command(arguments: list[str]) -> int:
    """The command line's entry; see `accelerator.cli.app.main` for the exit codes."""
    return EVALUATE.main(arguments)


def _evaluate(composed: Composed) -> Result:
    """Build the run around its trained network, and measure it."""
    from accelerator.cli.compose.compose import plain
    from accelerator.cli.load import check_folder, check_loaded, check_not_accelerated, lineage
    from accelerator.cli.task import run_task
    from accelerator.runtime.loaded import loaded_context, measure
    from accelerator.runtime.run import check_config
    from accelerator.runtime.start import start_of
    from accelerator.utilities.files import short

    with removed_if_unused(composed.run_dir):
        values = plain(composed.config)
        check_folder(composed.run_dir, "evaluate")
        check_loaded(values, "evaluate")
        check_not_accelerated(values, "evaluate")
        check_config(values)
        start = start_of(Path(values["load"]))
        context = loaded_context(values, start)

        def work(task: Task) -> None:
            task.tags.update(lineage(values))
            task.metrics.update(measure(context, values["evaluate"]["split"]))
            assert start.path is not None
            task.rows.append(("network", f"{short(start.path)}, after {start.step:,} steps"))

        return run_task("evaluate", composed, work)


_HELP = """usage: accelerator evaluate load=RUN [key=value | group=option ...] [flags]

Measure a trained network: its loss and metrics, in the data's own units, with a record of their own.

load=RUN              last (the newest run here), best, a run's folder, its MLflow id, or a checkpoint file; of a run,
                      the best checkpoint, with averaged weights if it kept them
evaluate.split=val    another split than test: val, or train (whole, in order, not augmented)
metrics=regression    other metrics
data=… data.path=…    other data, seen through the transforms that were fitted in training
engine.device=cpu     another device, precision, …

The config is that of the network's run; everything else can be set as for accelerator train.

examples
  accelerator evaluate load=last
  accelerator evaluate load=3f9c21 evaluate.split=val
  accelerator evaluate load=last data.path=new_measurements.csv

flags
  --explain            print every value with the file that set it and what it builds, and stop
  --debug              show the traceback of a mistake
  --overrides TEXT     more overrides in one argument, quoted as in a shell
  -m, --multirun       run every combination: data.seed=1,2,3"""


EVALUATE = ComposedCommand("evaluate", _evaluate, lambda: _HELP)
