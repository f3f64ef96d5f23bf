"""The command ``accelerator``: which command was asked for; everything else is imported by that command."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from importlib import import_module
from typing import Any, NamedTuple, NoReturn

from accelerator import __version__
from accelerator.errors import UserError, did_you_mean


class Command(NamedTuple):
    """A command: what it is for, and the ``"module:function"`` that is given what was typed after its name."""

    summary: str
    act: str
    actions: str | None = None  # "module:mapping", where it has actions


COMMANDS = {
    "train": Command(
        "compose a run from YAML, train it, and keep its record",
        "accelerator.cli.experiment:train_command",
    ),
    "tune": Command(
        "train many times with other values, and keep the best",
        "accelerator.cli.tune.command:tune_command",
    ),
    "evaluate": Command(
        "measure a trained network on a split of its data, or on other data",
        "accelerator.cli.evaluate:evaluate_command",
    ),
    "accelerate": Command(
        "make a trained network smaller or faster: prune it, quantize it",
        "accelerator.cli.accelerate_command:accelerate_command",
    ),
    "pipeline": Command(
        "run the steps of a pipeline that are not done: train, test, export, …",
        "accelerator.cli.pipeline.command:pipeline_command",
    ),
    "analyze-data": Command(
        "look for what is wrong with a run's data, and where to start",
        "accelerator.cli.analyze.command:analyze_data_command",
    ),
    "analyze-model": Command(
        "what a network costs, layer by layer, and what can be done with it",
        "accelerator.cli.analyze.command:analyze_model_command",
    ),
    "run": Command(
        "call a train function of your own, with its folder and record",
        "accelerator.cli.run_command:run_command",
    ),
    "init": Command(
        "begin a project: configs, a package of its own, a test",
        "accelerator.cli.project.init:init_command",
    ),
    "add": Command(
        "write the YAML of a component into ./configs, or begin a new component",
        "accelerator.cli.project.add:add_command",
    ),
    "list": Command(
        "what can be named in a config, what it takes, where it lives",
        "accelerator.cli.project.list_command:list_command",
    ),
    "configure": Command(
        "copy packaged configs into ./configs, to edit them",
        "accelerator.cli.project.configure:configure_command",
    ),
    "status": Command(
        "what ./configs overrides, and what in it is broken or unused",
        "accelerator.cli.project.status:status_command",
    ),
    "clean": Command(
        "remove what was generated: outputs, caches, unedited configs",
        "accelerator.cli.project.clean:clean_command",
    ),
    "checkpoint": Command(
        "list, check, convert, average and export what runs have saved",
        "accelerator.cli.checkpoint.command:checkpoint_command",
        "accelerator.cli.checkpoint.command:ACTIONS",
    ),
    "runs": Command(
        "list, show, compare, search and delete the runs on record",
        "accelerator.cli.runs.command:runs_command",
        "accelerator.cli.runs.command:ACTIONS",
    ),
    "model": Command(
        "name trained models in versions, and say which is in use",
        "accelerator.cli.model.command:model_command",
        "accelerator.cli.model.command:ACTIONS",
    ),
    "report": Command(
        "write a page on runs: curves, tables, what differs",
        "accelerator.cli.report:report_command",
    ),
    "tracking": Command(
        "see whether the record of runs has arrived in MLflow, and send the rest",
        "accelerator.cli.tracking.command:tracking_command",
        "accelerator.cli.tracking.command:ACTIONS",
    ),
    "mlflow-ui": Command(
        "MLflow's pages of what was recorded: start, look, stop",
        "accelerator.cli.mlflow_ui:mlflow_ui_command",
        "accelerator.cli.mlflow_ui:ACTIONS",
    ),
    "verify": Command(
        "try what a run needs, and say what works here",
        "accelerator.cli.machine.verify:verify_command",
    ),
    "doctor": Command(
        "see whether the machine and ./configs are in order",
        "accelerator.cli.machine.doctor:doctor_command",
    ),
    "completion": Command(
        "let a shell complete words by Tab",
        "accelerator.cli.completion.scripts:completion_command",
    ),
    "gpu-info": Command(
        "show the machine's GPUs",
        "accelerator.cli.machine.gpus:gpu_info_command",
    ),
    "memory": Command(
        "show how much of a GPU's memory a run may take",
        "accelerator.cli.machine.gpus:memory_command",
    ),
}

# The help has them in this order: first what a newcomer comes for.
SECTIONS = {
    "train": ("train", "tune", "pipeline", "run"),
    "use what was trained": ("evaluate", "accelerate", "checkpoint", "model"),
    "look at data and networks": ("analyze-data", "analyze-model"),
    "look at what is on record": ("runs", "report", "mlflow-ui", "tracking"),
    "make a project of your own": ("init", "list", "add", "configure", "status", "clean"),
    "this machine": ("doctor", "verify", "gpu-info", "memory", "completion"),
}

_FLAGS = ("-h", "--help", "--version")

_EXAMPLES = """examples:
  accelerator train                                   the default run: a cascade of networks on a Poisson problem
  accelerator train model=mlp optimizer.lr=0.01       another model, another learning rate
  accelerator train --explain                         every value, and the file it comes from
  accelerator train -m optimizer.lr=0.1,0.01          a sweep
  accelerator list model                              every model, and what it takes
  accelerator checkpoint list                         what the newest run has saved

"accelerator COMMAND --help" tells more, with examples."""


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code: 0 done, 1 a fault, 3 a mistake in config or data, 130 or 143 stopped by a signal.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog="accelerator",
        usage="accelerator COMMAND ...",
        description="Compose a PyTorch run from YAML, train it on any engine, keep its record.",
        epilog=_commands() + _EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"accelerator {__version__}")
    parser.add_argument("command", nargs="?", help=argparse.SUPPRESS)
    # What follows the command is its own business: Hydra's flags and overrides look like nothing argparse knows.
    if argv and argv[0] in ("-sc", "--shell-completion"):
        return _complete(argv)
    if argv and argv[0] not in (*COMMANDS, *_FLAGS):
        what, known = ("flag", _FLAGS) if argv[0].startswith("-") else ("command", COMMANDS)
        near = did_you_mean(argv[0], known, show=0) or "; accelerator --help lists what there is"
        print(f"error: there is no {what} '{argv[0]}'{near}", file=sys.stderr)
        return UserError.exit_code
    chosen, rest = parser.parse_args(argv[:1]), argv[1:]
    if chosen.command is None:
        parser.print_help()
        return 0
    # torch's CPU threads spin while they wait for one another: with another process on the machine (our uploader is
    # one) steps took 3 times as long; waiting passively costs nothing measurable. Read once, when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return _found(COMMANDS[chosen.command].act)(rest)


def _commands() -> str:
    """The commands by what they are for."""
    width = max(map(len, COMMANDS))
    lines = []
    for title, names in SECTIONS.items():
        lines += [title, *(f"  {name:<{width}}  {COMMANDS[name].summary}" for name in names), ""]
    return "\n".join([*lines, ""])


def _found(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def _complete(argv: list[str]) -> int:
    """Answer a shell, or do with Hydra's flag what Hydra does."""
    from accelerator.cli.completion.command import complete_command

    return complete_command(argv)


def entry() -> NoReturn:
    """The command as a process of its own."""
    leave(main())


def leave(code: int) -> NoReturn:
    """End the process."""
    if code == 128 + signal.SIGINT:
        # Python's own way out takes seconds with torch loaded; whoever pressed Ctrl-C waits for the prompt.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    entry()
