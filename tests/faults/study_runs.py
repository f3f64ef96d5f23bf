"""Studies of `accelerator tune` on a small problem with fragile parts, and what they leave."""

import json

import optuna
from command_runs import OVERRIDES

from accelerator.cli.app import main
from accelerator.tuning.storage import open_storage

STUDY = ["tune.name=study", "tune.sampler.name=random", "tune.pruner.name=none"]
# 2 passes of 3 batches; what is tried changes nothing that takes time.
SPACE = "tune.space.optimizer.lr={log_uniform:[0.001,0.1]}"


def tune(folder, *more):
    fixed = [override for override in OVERRIDES if not override.startswith("optimizer.lr")]
    return main(["tune", *fixed, *STUDY, SPACE, f"hydra.run.dir={folder}", *more])


def trials_in(folder, storage="journal"):
    """Every trial as Optuna's own storage holds it."""
    study = optuna.load_study(study_name="study", storage=open_storage(storage, folder))
    return study.get_trials(deepcopy=False)


def told_in(folder):
    return json.loads((folder / "study.json").read_text())


def seconds_since(moment, trial):
    return trial.datetime_complete.timestamp() - moment
