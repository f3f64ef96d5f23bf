"""``load=``: the trained network that a run begins with, and the config it was trained with.

What is loaded are weights and the transforms' statistics; counters, optimizer and schedule are fresh. The overrides
that the network's own run was composed with come first, so that only what is to differ has to be typed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import OmegaConf

from accelerator.cli.run_files import COMPOSITION, overrides_in
from accelerator.cli.which_run import find, run_id
from accelerator.errors import ConfigError, RunDirectoryError

# What a run's overrides say of that run alone, and not of the network it leaves.
_ITS_OWN = ("load", "resume", "evaluate", "acceleration", "tracking.parent", "tracking.run_name")


def with_source(arguments: Sequence[str], wanted: str) -> list[str]:
    """The arguments with ``load=`` the checkpoint file that is meant, after the overrides of the run it is from.

    Raises:
        CheckpointError: there is no such run or file.
    """
    from accelerator.cli.checkpoint.look import checkpoint_file

    file = checkpoint_file(str(find(wanted, f"load={wanted}"))).absolute()
    before = overrides_in(file.parent.parent)
    others = [each for each in arguments if not each.startswith("load=")]
    return [*inherited(before, others), *others, f"load={QuotedString(str(file), Quote.single).with_quotes()}"]


def inherited(overrides: Sequence[str], typed: Sequence[str]) -> list[str]:
    """Those of a run's overrides that say what its network is, and are not typed anew: who loads it has them too."""
    keys = {_key(each) for each in typed}
    return [each for each in overrides if not _is_its_own(each) and _key(each) not in keys]


def lineage(config: Mapping[str, Any]) -> dict[str, str]:
    """For the record of a run: the MLflow run whose network it begins with, if it has one."""
    found = run_id(Path(config["load"]).parent.parent) if config["load"] else None
    return {} if found is None else {"load.run_id": found}


def check_loaded(config: Mapping[str, Any], command: str) -> None:
    """Refuse to work on nothing.

    Raises:
        ConfigError: no trained network is named.
    """
    if not config["load"]:
        raise ConfigError(
            f"accelerator {command} works on a trained network: name it with load=last, load=<run folder>, "
            "load=<MLflow run id> or load=<checkpoint file>"
        )


def check_folder(run_dir: Path, command: str) -> None:
    """Refuse the folder of a run of another command: its config and record would be written over.

    Raises:
        RunDirectoryError: it is one.
    """
    path = run_dir / COMPOSITION
    kept: Any = OmegaConf.load(path) if path.is_file() else {}
    if (other := kept.get("command", command)) != command:
        raise RunDirectoryError(
            f"{run_dir} holds a run of accelerator {other}: set hydra.run.dir to another folder, or leave it out"
        )


def check_not_accelerated(config: Mapping[str, Any], command: str) -> None:
    """Refuse what would be passed over.

    Raises:
        ConfigError: a method of acceleration is asked for.
    """
    if method := config["acceleration"].get("name") or config["acceleration"].get("_target_"):
        raise ConfigError(
            f"acceleration={method} is for accelerator accelerate, which leaves a network for "
            f"accelerator {command} load=…; leave it out here"
        )


def _key(override: str) -> str:
    return override.lstrip("+~").split("=", 1)[0]


def _is_its_own(override: str) -> bool:
    key = _key(override)
    return any(key == own or key.startswith((f"{own}.", f"{own}@")) for own in _ITS_OWN)
