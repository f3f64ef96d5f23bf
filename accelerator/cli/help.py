"""``accelerator train --help``: what can be typed, read off the config folders."""

from __future__ import annotations

from pathlib import Path

from accelerator.cli.paths import packaged_configs
from accelerator.utilities.base_registry import registry

_HEAD = """usage: accelerator train [key=value | group=option ...] [flags]

Compose a run from YAML, check it, train it, test its best checkpoint, and keep its record.

choose           model=mlp data=digits loss=cross_entropy     an option of a group (listed below)
set              optimizer.lr=0.01 trainer.max_epochs=5       a value; any argument of the component may be set
remove           ~callbacks.progress
add              callbacks.stop.name=early_stopping     (a name of your choice)
continue         resume=last | best | <run directory> | <MLflow run id> | <checkpoint file>
begin with       load=…, the same words: a trained network, with the config of its run

flags
  --explain            print every value with the file that set it and what it builds, then what is wrong, and stop
  --dry-run            build everything, take one step, write nothing (with -m: of the first job)
  --debug              show the traceback of a mistake
  --overrides TEXT     more overrides in one argument, quoted as in a shell
  -m, --multirun       run every combination: optimizer.lr=0.1,0.01 seed=0,1
  -c, --cfg job        print the composed config (--resolve: with interpolations filled in)
  -i, --info defaults  print what was composed, in order (also: config, defaults-tree, searchpath, plugins)
  -cd DIR              a further folder of configs; ./configs is used by itself
  --hydra-help         Hydra's own help

examples:
  accelerator train                                          the default: a cascade of networks on a Poisson problem
  accelerator train experiment=digits trainer.max_epochs=5   a choice of options, and a value of your own
  accelerator train -m optimizer.lr=0.1,0.01 seed=0,1        four runs, and a table of them
  accelerator train resume=last                              go on where the newest run here stopped

accelerator list KIND tells what each option takes; accelerator completion lets the shell complete all of this by Tab.

groups"""


def train_help() -> str:
    """The help text, with every group of the packaged configs and of ``./configs``."""
    options: dict[str, set[str]] = {}
    for root in (packaged_configs(), Path.cwd() / "configs"):
        for path in root.rglob("*.yaml"):
            group = path.parent.relative_to(root).as_posix()
            if group not in (".", "pipeline"):
                options.setdefault(group.removeprefix("training_components/"), set()).add(path.stem)
    # Components that are named inside a section rather than chosen as a group.
    for kind in ("metric", "callback"):
        options[f"{kind} names"] = set(registry(kind).names())
    width = max(map(len, options))
    rows = [f"  {group:<{width}}  {', '.join(sorted(options[group]))}" for group in sorted(options)]
    return "\n".join([_HEAD, *rows])
