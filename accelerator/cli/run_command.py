"""``accelerator run`` and ``accelerator tune --train-fn``: a training loop of the user's own, run once or searched."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerator.cli.actions import run_alone
from accelerator.errors import AcceleratorError, ConfigError

if TYPE_CHECKING:
    from accelerator.experiment import Experiment, Outcome

_SECTIONS = """CONFIG is a YAML file of at most four sections:

  experiment: {name: digits, seed: 0, device: auto}         framework, memory_limit_gb
  hyperparameters: {lr: 0.01, layers: 2}                    what the function reads as ctx.hyperparameters
  tuning: {n_trials: 50, space: {lr: {log_uniform: [1e-4, 1e-1]}}}
  mlflow: {uri: null, group: first}                         as the section tracking of accelerator train

The function takes one argument and returns a TrainingResult:

  from accelerator.experiment import TrainingContext, TrainingResult

  def train_model(ctx: TrainingContext) -> TrainingResult:
      for epoch in range(10):
          loss = ...                                        # with ctx.hyperparameters["lr"], on ctx.device
          ctx.tracker.log_metric("val_loss", loss, epoch)
          ctx.report(loss, epoch)
          if ctx.should_stop:                               # a study says so, or Ctrl-C
              break
      return TrainingResult(primary_metric=loss, primary_metric_name="val_loss")
"""

_RUN = f"""examples:
  accelerator run config.yaml --train-fn my_module:train_model
  accelerator run config.yaml --train-fn train.py:train_model hyperparameters.lr=0.1 experiment.seed=3
  accelerator run --train-fn my_module:train_model hyperparameters.lr=0.1

{_SECTIONS}"""

_TUNE = f"""examples:
  accelerator tune config.yaml --train-fn my_module:train_model --n-trials 50
  accelerator tune config.yaml --train-fn my_module:train_model tuning.pruner=asha tuning.workers=2
  accelerator tune config.yaml --train-fn my_module:train_model --backend ray

{_SECTIONS}"""


def run_command(arguments: list[str]) -> int:
    """The command line's entry; see `accelerator.cli.app.main` for the exit codes."""

    def run(options: Namespace) -> None:
        experiment = _experiment(options, "run")
        outcome = experiment.run(overrides=tuple(arguments))
        if options.json:
            from accelerator.experiment.runner import as_plain

            print(json.dumps(as_plain(outcome), indent=1))
        else:
            _print(outcome, experiment)

    description = "Call a train function once, with its folder, its record, seeds and signals."
    return run_alone("run", description, _RUN, _arguments, run, arguments, runs_project=True)


def tune_function_command(arguments: list[str]) -> int:
    """``accelerator tune`` with ``--train-fn``; see `accelerator.cli.app.main` for the exit codes."""

    def tune(options: Namespace) -> None:
        flags = {"n_trials": options.n_trials, "backend": options.backend, "workers": options.workers}
        options.overrides += [f"tuning.{key}={value}" for key, value in flags.items() if value is not None]
        from accelerator.cli.tune.report import print_study
        from accelerator.experiment.study import FunctionStudy, as_plain
        from accelerator.utilities.files import short

        study = FunctionStudy(_experiment(options, "tune"), tuple(arguments))
        silent = options.json
        try:
            result = study.run(lambda outcome: None if silent else _print_trial(outcome, study.plan.objectives))
        except AcceleratorError:
            if study.outcomes and not silent:
                print_study(study.outcomes, study.plan, {})
            raise
        if options.json:
            print(json.dumps(as_plain(result), indent=1, default=str))
            return
        print_study(result.outcomes, study.plan, {result.metric: result.importances} if result.importances else {})
        again = f"accelerator run {short(result.folder / 'best.yaml')} --train-fn {options.train_fn}"
        for label, text in [("study", short(result.folder)), ("train it again", again), *result.where]:
            print(f"{label:<17}{text}")

    description = "Search the hyperparameters of a train function."
    return run_alone("tune", description, _TUNE, _tune_arguments, tune, arguments, runs_project=True)


def _print_trial(outcome: Any, objectives: Any) -> None:
    from accelerator.cli.tune.report import line_of

    print(line_of(outcome, objectives), flush=True)


def _experiment(options: Namespace, command: str) -> Experiment:
    from accelerator.cli.function_config import sections
    from accelerator.experiment import Experiment, find_train_function
    from accelerator.experiment.config import read_config

    file, overrides = options.config, list(options.overrides)
    if file is not None and not Path(file).exists() and ("=" in file or file.startswith("~")):
        file, overrides = None, [file, *overrides]
    config, problems = read_config(*sections(None if file is None else Path(file), overrides))
    function: Any = None
    try:
        function = find_train_function(options.train_fn)
    except ConfigError as error:
        problems += error.problems
    if config is not None and command == "tune":
        from accelerator.experiment.study_checks import search_problems

        problems += search_problems(config, config.name or "study")
    if problems or config is None:
        raise ConfigError(problems)
    return Experiment(function, config, command)


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("config", nargs="?", metavar="CONFIG", help="the experiment's YAML file")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="in place of what CONFIG says")
    parser.add_argument(
        "--train-fn", required=True, metavar="MODULE:FUNCTION", help="the train function; FILE.py:FUNCTION too"
    )
    parser.add_argument("--json", action="store_true", help="print the result for programs")
    parser.add_argument("--debug", action="store_true", help="show the traceback of a mistake")


def _tune_arguments(parser: ArgumentParser) -> None:
    _arguments(parser)
    parser.add_argument("--n-trials", type=int, metavar="N", help="points to measure; as tuning.n_trials=N")
    parser.add_argument("--backend", choices=("optuna", "ray"), help="as tuning.backend=…")
    parser.add_argument("--workers", type=int, metavar="N", help="processes that measure; as tuning.workers=N")


def _print(outcome: Outcome, experiment: Experiment) -> None:
    from rich.console import Console
    from rich.table import Table

    from accelerator.utilities.files import short

    result = outcome.result
    console = Console(highlight=False, soft_wrap=True)
    table = Table("metric", "value", title="Result", title_justify="left")
    table.add_row(
        f"{result.primary_metric_name} ({'less' if result.minimize else 'more'} is better)",
        f"{result.primary_metric:.5g}",
    )
    for name, value in sorted(result.metrics.items()):
        if name != result.primary_metric_name:
            table.add_row(name, f"{value:.5g}")
    table.add_row("epochs", f"{result.epochs_completed:,}")
    table.add_row("seconds", f"{outcome.seconds:.1f}")
    console.print(table)
    rows = [("run directory", short(outcome.run_dir))]
    if result.best_model_path is not None:
        rows.append(("best model", short(Path(result.best_model_path))))
    for label, text in [*rows, *experiment.record.where]:
        console.print(f"{label:<17}{text}")
    sys.stdout.flush()
