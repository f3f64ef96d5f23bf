"""``accelerator add``: a component gets its YAML, and is begun where there is none yet.

Signatures are read from source; only ``--trust`` imports, and an experiment, which is checked as a run is. Nothing is
overwritten without ``--force``.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from importlib import import_module
from typing import NamedTuple

from accelerator.cli.actions import run_alone
from accelerator.cli.project.kinds import KINDS, Kind, kind_of
from accelerator.errors import ConfigError

_EPILOG = f"""kinds
  {", ".join(KINDS)}
  experiment: a choice of options and values under a name · domain: an installable package of components

examples
  accelerator add loss huber                               configs/training_components/loss/huber.yaml, to edit
  accelerator add optimizer AdamW                          any class of torch.optim or torch.optim.lr_scheduler
  accelerator add loss smooth --target torch.nn.SmoothL1Loss
  accelerator add model net --target my_models.py:Net      a class of your own, of a file here
  accelerator add loss cubic --new                         code, YAML and a test, to begin with
  accelerator add experiment mine model=mlp loss=huber optimizer.lr=0.003
  accelerator add domain chemistry                         a package of components, for others to install
  accelerator add --sync --dry-run                         what the config tree lacks, what in it is stale or different
  accelerator add --sync loss cubic                        the same of one component; add --sync loss: of a kind

A YAML in ./configs takes the place of the packaged one of that name. Defaults are values, what must be given is ???,
and what the run fills in (input_shape, params, …) is left out."""


class _Form(NamedTuple):
    """One form of the command, and the module that does it."""

    function: str
    allowed: tuple[str, ...]


_FORMS = {
    "component": _Form("accelerator.cli.project.add_component:add_component", ("target", "trust", "force", "place")),
    "new": _Form("accelerator.cli.project.add_new:add_new", ("new", "place")),
    "domain": _Form("accelerator.cli.project.add_new:add_domain", ("new",)),
    "experiment": _Form("accelerator.cli.project.add_experiment:add_experiment", ("new", "force")),
    "sync": _Form("accelerator.cli.project.add_sync:sync", ("sync",)),
    "index": _Form("accelerator.cli.project.component_index:write_index", ("index",)),
}


def add_command(arguments: list[str]) -> int:
    """The command line's entry; see `accelerator.cli.app.main` for the exit codes."""
    description = "Write the YAML of a component into ./configs, from its signature; or begin a new component."
    return run_alone("add", description, _EPILOG, _arguments, _add, arguments or ["--help"])


def _arguments(parser: ArgumentParser) -> None:
    parser.usage = (
        "accelerator add KIND NAME [--target PATH | --new] [--dry-run] [--force] [--trust]\n"
        "       accelerator add --sync [KIND [NAME]] [--dry-run]"
    )
    parser.add_argument("kind", nargs="?", metavar="KIND", help="of component; see below")
    parser.add_argument("name", nargs="?", metavar="NAME", help="of the component, and of its option")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of an experiment: what it chooses and sets")
    parser.add_argument("--target", metavar="PATH", help="package.module.Name, or file.py:Name")
    parser.add_argument("--new", action="store_true", help="begin one: code, YAML and a test that runs")
    parser.add_argument(
        "--place", metavar="PLACE", help="of a transform: input, target, loss, or several: input,target"
    )
    parser.add_argument("--force", action="store_true", help="replace a file that is there")
    parser.add_argument("--trust", action="store_true", help="import the module, where its source does not tell enough")
    parser.add_argument("--sync", action="store_true", help="bring the project's own components into the config tree")
    parser.add_argument("--index", action="store_true", help="write the index of the packaged configs anew")
    parser.add_argument("--dry-run", action="store_true", help="show what would be written, and write nothing")


def _add(options: Namespace) -> None:
    form = _form(options)
    allowed = _FORMS[form].allowed
    for flag in ("target", "trust", "force", "place", "new", "sync", "index"):
        if getattr(options, flag) and flag not in allowed:
            raise ConfigError(f"--{flag} does not go with the rest; see accelerator add --help")
    module, _, function = _FORMS[form].function.partition(":")
    getattr(import_module(module), function)(options)


def _form(options: Namespace) -> str:
    """Which form is meant; settles ``options.kind`` for components.

    Raises:
        ConfigError: something is missing, or there is too much.
    """
    if options.index:
        if options.kind is not None:
            raise ConfigError(f"--index is about all kinds: leave out '{options.kind}'")
        return "index"
    if options.sync:
        if options.overrides:
            raise ConfigError(f"'{options.overrides[0]}' is one argument too many: accelerator add --sync KIND NAME")
        options.kind = None if options.kind is None else kind_of(options.kind)
        return "sync"
    if options.kind is None:
        raise ConfigError("which kind of component? accelerator add KIND NAME; see accelerator add --help")
    if options.kind not in ("domain", "experiment"):
        options.kind = kind_of(options.kind)
    label = options.kind.name if isinstance(options.kind, Kind) else options.kind
    if options.name is None:
        raise ConfigError(f"which {label}? accelerator add {label} NAME")
    if options.kind != "experiment" and options.overrides:
        raise ConfigError(f"'{options.overrides[0]}' is one argument too many: accelerator add {label} {options.name}")
    if not isinstance(options.kind, Kind):
        return options.kind
    if options.new and options.target:
        raise ConfigError("--new begins a component, --target names one that is there: give one of the two")
    return "new" if options.new else "component"
