"""``accelerator tune``: many trainings, each with other values, so that the best ones are found.

A study is a run: its folder is ``studies/<name>``, its trials are runs nested in it, each in the folder of its number.
The same command again goes on with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerator.cli.command import report
from accelerator.cli.compose.composed import Composed, removed_if_unused
from accelerator.cli.composed_command import ComposedCommand
from accelerator.errors import AcceleratorError, ConfigError, RunDirectoryError, did_you_mean, gathered
from accelerator.utilities.files import FOLDER_NAME

if TYPE_CHECKING:
    from accelerator.runtime.run import Result

PLACE = "studies"
_OF_FUNCTIONS = {"--n-trials": "tune.trials", "--workers": "tune.workers"}


def tune_command(arguments: list[str]) -> int:
    """The command line's entry; see `accelerator.cli.app.main` for the exit codes."""
    if any(argument.split("=")[0] == "--train-fn" for argument in arguments):
        from accelerator.cli.run_command import tune_function_command

        return tune_function_command(arguments)
    try:
        return TUNE.main(arguments if {"-h", "--help"} & set(arguments) else prepared(arguments))
    except AcceleratorError as error:
        report(error, debug="--debug" in arguments)
        return error.exit_code


def tune(overrides: Sequence[str] = ()) -> Result:
    """From Python what ``accelerator tune <overrides>`` does.

    Raises:
        AcceleratorError: as the command line would report.
    """
    return TUNE(prepared(list(overrides)))


def prepared(arguments: list[str]) -> list[str]:
    """The arguments with what a study needs besides: its section, its folder, and those of the study it goes on with.

    Raises:
        ConfigError: there is no such study.
    """
    from omegaconf import OmegaConf

    OmegaConf.register_resolver("study_name", lambda *, _root_: _folder_name(study_name(_root_)), replace=True)
    arguments = _backend_as_key(arguments)
    if problems := [
        f"{flag} goes with --train-fn; without it: {key}={value}" for flag, key, value in _flags_of_functions(arguments)
    ]:
        raise ConfigError(problems)
    wanted = [argument.split("=", 1)[1].strip("'\"") for argument in arguments if argument.startswith("resume=")]
    arguments = [argument for argument in arguments if not argument.startswith("resume=")]
    before: list[str] = []
    if wanted:
        from hydra.core.override_parser.types import Quote, QuotedString

        from accelerator.cli.run_files import overrides_in

        folder = find_study(wanted[-1])
        before = [*overrides_in(folder), f"hydra.run.dir={QuotedString(str(folder), Quote.single).with_quotes()}"]
    elif not any(argument.startswith("hydra.run.dir=") for argument in arguments):
        before = [f"hydra.run.dir='{PLACE}/${{study_name:}}'"]
    chosen = [argument.split("=", 1)[1] for argument in [*before, *arguments] if argument.startswith("tune=")]
    if not chosen:
        before.append("tune=default")
    elif not {"-cd", "--config-dir"} & {argument.split("=")[0] for argument in arguments}:
        _check_choice(chosen[-1])
    return [*before, *arguments]


def _folder_name(name: str) -> str:
    """A study's name as that of a folder; what is wrong with a name is told before it is used."""
    return name if FOLDER_NAME.fullmatch(name) else "_"


def _backend_as_key(arguments: list[str]) -> list[str]:
    """``--backend ray``, as it is written with ``--train-fn``, is ``tune.backend=ray``."""
    if "--backend" in arguments[:-1]:
        place = arguments.index("--backend")
        return [*arguments[:place], f"tune.backend={arguments[place + 1]}", *arguments[place + 2 :]]
    return [argument.replace("--backend=", "tune.backend=", 1) for argument in arguments]


def _flags_of_functions(arguments: list[str]) -> list[tuple[str, str, str]]:
    """What is typed as with ``--train-fn``: the flag, its key in this command, and its value."""
    found = []
    for place, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag in _OF_FUNCTIONS:
            following = arguments[place + 1] if place + 1 < len(arguments) else "…"
            found.append((flag, _OF_FUNCTIONS[flag], value if equals else following))
    return found


def _check_choice(chosen: str) -> None:
    """See that there is such a file: without it every other key of the section would be a mistake too."""
    from accelerator.cli.paths import packaged_configs

    files = [file for root in (packaged_configs(), Path.cwd() / "configs") for file in (root / "tune").glob("*.yaml")]
    if chosen not in {file.stem for file in files}:
        near = did_you_mean(chosen, {file.stem for file in files})
        raise ConfigError(f"tune={chosen}: no '{chosen}' in configs/tune/{near}")


def find_study(wanted: str) -> Path:
    """A study's folder, by its path or name; ``last`` is that which was changed last.

    Raises:
        ConfigError: there is none.
    """
    from accelerator.runtime.run_directory import JOURNAL

    def changed(folder: Path) -> float:
        journal = folder / JOURNAL
        return journal.stat().st_mtime if journal.exists() else 0.0

    def is_study(folder: Path) -> bool:
        try:
            return bool(_choices(folder))
        except RunDirectoryError:  # another one is meant
            return False

    here = sorted(filter(is_study, Path(PLACE).glob("*")), key=changed)
    if wanted == "last" and here:
        return here[-1].absolute()
    for folder in (Path(wanted), Path(PLACE) / wanted):
        if _choices(folder):
            return folder.absolute()
        if _choices(folder) is not None:
            raise ConfigError(
                f"resume={wanted}: it is the study of a train function, and goes on by the command that began it: "
                "accelerator tune CONFIG --train-fn MODULE:FUNCTION"
            )
    near = did_you_mean(wanted, [folder.name for folder in here])
    raise ConfigError(f"resume={wanted}: no study of accelerator tune{near}")


def _choices(folder: Path) -> dict[str, Any] | None:
    """The options of the groups a study is composed of, none for one of a train function; None where there is no study.

    Raises:
        RunDirectoryError: the file that tells is damaged.
    """
    from accelerator.cli.run_files import composition_in

    composition = composition_in(folder)
    return composition.get("choices", {}) if composition.get("command") == "tune" else None


def study_name(config: Any) -> str:
    """What the study is called: as its config says, or after its data, with a digest of all that decides its result."""
    from accelerator.cli.compose.compose import plain
    from accelerator.cli.resume import computing
    from accelerator.runtime.checkpoint.meta_handler import fingerprint

    values = plain(config, resolve=False)
    section = values["tune"] or {}
    if section.get("name"):
        return str(section["name"])
    decides = {**computing(values), "space": section.get("space"), "objectives": section.get("objectives")}
    data = values["data"].get("name") or str(values["data"].get("_target_")).rpartition(".")[2]
    return f"{data}-{fingerprint(decides)[:6]}"


def _tune(composed: Composed) -> Result:
    """Check everything that can be, then measure."""
    from accelerator.cli.compose.compose import plain
    from accelerator.cli.task import run_task
    from accelerator.cli.tune.study import Study, check_same, plan_of, threads_each
    from accelerator.cli.tune.trial_config import TrialConfigs, hydra_ready
    from accelerator.tuning.choosing import make_pruner, make_sampler, require_optuna

    require_optuna()
    from accelerator.tuning.ray_cluster import require_ray
    from accelerator.tuning.ray_pruning import split_pruner
    from accelerator.tuning.storage import JOURNAL, open_storage

    with removed_if_unused(composed.run_dir), hydra_ready():
        values = plain(composed.config)
        section = values["tune"]
        ray = section["backend"] == "ray"
        if ray:
            require_ray(section["ray"]["address"])
        plan, problems = plan_of(values, study_name(composed.config))
        # On record with each trial, so that the best one's config trains to the same numbers.
        engine, several = values["engine"], plan.workers > 1 and not ray
        threads = (
            [f"engine.threads={threads_each(plan.workers)}"] if several and engine.get("threads", 0) is None else []
        )
        configs = TrialConfigs([*composed.overrides, *threads], plan.space)
        problems += gathered(
            lambda: make_sampler(section["sampler"], plan.seed),
            lambda: (split_pruner if ray else make_pruner)(section["pruner"], plan.objectives),
            configs.check,
        )
        if problems:
            raise ConfigError(problems)
        check_same(composed, values, plan)
        if (storage := section["storage"]) != JOURNAL:
            open_storage(storage, composed.run_dir)
        return run_task("tune", composed, lambda task: Study(task, plan, configs)(), name=f"study {plan.name}")


_HELP = """usage: accelerator tune [tune=FILE] [tune.space.KEY=... ...] [key=value | group=option ...] [flags]

Train many times, each time with other values, and keep the best. A study is a folder studies/NAME and a run on record,
with a nested run for each trial. The same command again goes on with it: what is done is not done again.

--train-fn MODULE:FUNCTION                    a training loop of your own: accelerator tune --train-fn x --help
tune=optimizer                                a file of configs/tune/: what is tried, and how
'tune.space.optimizer.lr={log_uniform:[1e-4,1e-1]}'   the same on the command line; docs/tuning.md has it all
tune.trials=50 tune.workers=4                 how many points, measured by how many processes
tune.name=NAME                                of the study and its folder
'tune.objectives={val/loss:min,parameters:min}'   by default checkpoint.monitor; several give a Pareto front
tune.sampler.name=tpe                         or random, grid, cmaes, gp, qmc, nsgaii; with arguments of Optuna's class
tune.pruner.name=asha                         or median, hyperband, percentile, none
tune.storage=sqlite:///study.db               by default a journal file in the study's folder
--backend ray                                 Ray Tune measures, here or with tune.ray.address=auto on its cluster
resume=last | NAME | studies/NAME             go on with a study, with more trials or other workers
model=... data=... trainer.max_epochs=...     what is the same in every trial, as for accelerator train

examples
  accelerator tune experiment=digits tune=optimizer tune.trials=20 tune.workers=2
  accelerator tune resume=last tune.trials=40
  accelerator train -cd studies/NAME/configs experiment=best_NAME

flags
  --explain            print every value with the file that set it and what it builds, and stop
  --debug              show the traceback of a mistake
  --overrides TEXT     more overrides in one argument, quoted as in a shell"""


TUNE = ComposedCommand("tune", _tune, lambda: _HELP)
