"""``accelerator accelerate``: a trained network made smaller (pruning) or faster (quantization).

Not to be confused with Hugging Face's Accelerate, one of the engines (``engine=accelerate``).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from accelerator.cli.compose.composed import Composed, removed_if_unused
from accelerator.cli.composed_command import ComposedCommand

if TYPE_CHECKING:
    from accelerator.cli.task import Task
    from accelerator.runtime.run import Result


def accelerate_command(arguments: list[str]) -> int:
    """The command line's entry; see `accelerator.cli.app.main` for the exit codes."""
    return ACCELERATE.main(arguments)


def _accelerate(composed: Composed) -> Result:
    """Do to the network what can fail, and only then begin the run that measures, writes and records."""
    from accelerator.cli.compose.compose import plain
    from accelerator.cli.load import check_folder, check_loaded, lineage
    from accelerator.cli.task import run_task
    from accelerator.runtime.accelerated import plan
    from accelerator.runtime.run import check_config
    from accelerator.runtime.run_directory import CHECKPOINTS
    from accelerator.utilities.files import short

    with removed_if_unused(composed.run_dir):
        values = plain(composed.config)
        check_folder(composed.run_dir, "accelerate")
        check_loaded(values, "accelerate")
        check_config(values)
        planned = plan(values)

        def work(task: Task) -> None:
            outcome = planned.carry_out(task.run_dir)
            task.tags.update(lineage(values))
            task.metrics.update(outcome.metrics)
            task.best = outcome.best
            task.rows += [("network", short(Path(values["load"]))), *outcome.rows]
            for file in outcome.files:
                task.artifact(file)
                task.rows.append(("wrote", f"{short(file)}, {file.stat().st_size:,} bytes"))
            if outcome.best is not None:
                for file in (outcome.best, outcome.best.with_suffix(".json")):
                    task.artifact(file, CHECKPOINTS)
                task.rows += [
                    ("checkpoint", short(outcome.best)),
                    ("go on with it", f"accelerator train load={short(task.run_dir)}"),
                ]

        return run_task("accelerate", composed, work)


_HELP = """usage: accelerator accelerate load=RUN acceleration=METHOD [key=value ...] [flags]

Make a trained network smaller or faster, measure it before and after, and keep a record of both.

load=RUN                    last (the newest run here), best, a run's folder, its MLflow id, or a checkpoint file
acceleration=prune          remove the units that matter least: a smaller network of the same classes, saved as a
                            training saves its own, for accelerator train load=… (fine-tuning), evaluate, export
  acceleration.amount=0.5        share of the units that goes
  acceleration.per_layer=false   of all together instead of every layer
  acceleration.importance=l2     l2, l1, or random: the control
  acceleration.round_to=8        keep multiples of 8 channels
  acceleration.leave_out=[head]  modules that keep their size
acceleration=quantize       post-training static quantization to 8-bit integers: model.int8.onnx beside model.fp32.onnx
  acceleration.samples=256       of the training split, to calibrate with
  acceleration.per_channel=true  a scale for each output channel
  acceleration.leave_out=[head]  modules that stay in floating point

The config is that of the network's run; everything else can be set as for accelerator train.

examples
  accelerator accelerate load=last acceleration=prune acceleration.amount=0.7
  accelerator train load=last trainer.max_epochs=5 optimizer.lr=1e-4
  accelerator accelerate load=last acceleration=quantize

flags
  --explain            print every value with the file that set it and what it builds, and stop
  --debug              show the traceback of a mistake
  --overrides TEXT     more overrides in one argument, quoted as in a shell
  -m, --multirun       run every combination: acceleration.amount=0.3,0.5,0.7"""


ACCELERATE = ComposedCommand("accelerate", _accelerate, lambda: _HELP)
