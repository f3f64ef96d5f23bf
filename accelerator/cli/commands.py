"""Every command: what it is for, and where it is; a command is imported when it is asked for."""

from __future__ import annotations

from typing import NamedTuple


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
