"""From the command line to a composed config: Hydra, with the schema and our few additions.

Only this module, its neighbours in ``cli`` and the search-path plugin know Hydra.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from accelerator.cli.compose.schema import OPEN_SECTIONS, RunConfig, TrackingConfig
from accelerator.cli.compose.yaml_traps import guarded
from accelerator.cli.hydra_utils import resolvers
from accelerator.cli.paths import packaged_configs
from accelerator.errors import ConfigError
from accelerator.tuning.ray_settings import launcher_environment, launcher_options

CONFIG_NAME = "main"
COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException)

# What Hydra itself may build from a config: its launchers, sweepers and callbacks. Ours are built by
# `accelerator.runtime.context.component`, which has a list of its own.
HYDRA_MAY_BUILD = ["hydra._internal.core_plugins.*", "hydra_plugins.*", "accelerator.cli.sweep.SweepRecord"]

# Sections of components, and mappings whose keys are the user's own.
_OPEN_KEY = re.compile(
    rf"({'|'.join(OPEN_SECTIONS)}|vars|tracking\.tags|tune\.(space|objectives|sampler|pruner))(\.[^=]+=|=\{{)"
)


def prepare() -> None:
    """What every composition needs: the schema, resolvers, this process's number for the run directory's name."""
    os.environ["ACCELERATOR_PID"] = str(os.getpid())
    resolvers.register()
    ConfigStore.instance().store("schema", node=RunConfig, replace=True)
    ConfigStore.instance().store("tracking_schema", node=TrackingConfig, replace=True)


def opened(overrides: Sequence[str]) -> list[str]:
    """The overrides, with keys of open sections free to be new: ``optimizer.amsgrad=true`` needs no ``+``.

    Whether the component has such an argument is told by its signature, not by what its YAML lists.
    """
    return ["++" + override if _OPEN_KEY.match(override) else override for override in overrides]


def is_open(key: str) -> bool:
    """Whether a key may be new: it stands in an open section."""
    return _OPEN_KEY.match(f"{key}=") is not None


def launch(job: Callable[[DictConfig], Any], arguments: Sequence[str]) -> None:
    """Let Hydra act on the arguments: run the job, or sweep, print the config, complete, ….

    Raises:
        HydraException, OmegaConfBaseException: the config could not be composed.
        Exception: whatever the job raised.
    """
    prepare()
    # HYDRA_FULL_ERROR makes Hydra raise instead of printing a shortened traceback and exiting: we report ourselves.
    environment = patch.dict(os.environ, HYDRA_FULL_ERROR="1", **launcher_environment(arguments))
    main = hydra.main(config_path=str(packaged_configs()), config_name=CONFIG_NAME, execution_whitelist=HYDRA_MAY_BUILD)
    with environment, guarded(packaged_configs()), launcher_options(arguments) as options:
        argv = [sys.argv[0], *opened(arguments), *options]
        with patch.object(sys, "argv", argv):
            main(job)()


@contextmanager
def composer(name: str = CONFIG_NAME) -> Iterator[Callable[[Sequence[str]], DictConfig]]:
    """A function that composes a list of overrides, as often as wanted.

    Args:
        name: of the config they are applied to.
    """
    prepare()
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(packaged_configs()), job_name="train"), guarded(packaged_configs()):
        yield lambda overrides: hydra.compose(name, overrides=opened(overrides), return_hydra_config=True)


def plain(config: DictConfig, *, resolve: bool = True) -> dict[str, Any]:
    """The config without Hydra's own part, as dicts, lists and plain values; missing values stay ``???``."""
    container = OmegaConf.to_container(OmegaConf.masked_copy(config, _keys(config)), resolve=resolve)
    assert isinstance(container, dict)
    return container  # pyright: ignore[reportReturnType]


def check_present(config: DictConfig) -> None:
    """See that no value of a closed section is missing; what components need is told with their signatures.

    Raises:
        ConfigError: names each that is.
    """
    missing = OmegaConf.missing_keys(OmegaConf.masked_copy(config, _keys(config)))
    if closed := sorted(str(key) for key in missing if not is_open(str(key))):
        raise ConfigError(f"{key} is required: set {key}=…" for key in closed)


def composition(overrides: Sequence[str], name: str = CONFIG_NAME) -> list[dict[str, str]]:
    """The files a config is composed of, in order: each with its package and the file that named it.

    To be called while Hydra is set up; Hydra's own files are left out.

    Args:
        overrides: what it is composed with.
        name: of the config they are applied to.
    """
    if not GlobalHydra.instance().is_initialized():  # in a launcher's other process
        return []
    loader = GlobalHydra.instance().config_loader()
    found = loader.compute_defaults_list(name, opened(overrides), RunMode.RUN).defaults
    return [
        {"file": default.config_path, "package": default.package or "_global_", "named_by": default.parent or ""}
        for default in found
        if default.config_path is not None and not default.config_path.startswith("hydra/")
    ]


def group_options(group: str) -> list[str]:
    """The YAML files one can choose from in a config group."""
    return GlobalHydra.instance().config_loader().get_group_options(group)


def groups() -> list[str]:
    """Every config group of this package and of the project, nested ones with their path."""
    loader, found = GlobalHydra.instance().config_loader(), []

    def walk(parent: str) -> None:
        from hydra.core.object_type import ObjectType

        for name in loader.get_group_options(parent, ObjectType.GROUP):
            path = f"{parent}/{name}" if parent else name
            if path.split("/")[0] != "hydra":
                found.append(path)
                walk(path)

    walk("")
    return [group for group in found if group_options(group)]


def aliases() -> dict[str, str]:
    """The short names of groups: ``loss`` for ``training_components/loss``."""
    main = OmegaConf.load(packaged_configs() / f"{CONFIG_NAME}.yaml")
    return dict(main.hydra.aliases)


def _keys(config: DictConfig) -> list[str]:
    return [str(key) for key in config if key != "hydra"]
