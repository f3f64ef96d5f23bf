"""``accelerator checkpoint``: look at what runs have saved, check it, and make other files of it.

Only argparse is imported here, so that help answers at once. What only looks is in `accelerator.cli.checkpoint_look`,
what writes in `accelerator.cli.checkpoint_make`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn

from accelerator.cli.command import exit_code_of
from accelerator.errors import ConfigError, did_you_mean

_HELP = {
    "list": "the checkpoints of a run",
    "show": "what a checkpoint holds",
    "verify": "compare checkpoints with their checksums",
    "convert": "write a checkpoint in the present format, or its weights alone",
    "average": "average the networks of several checkpoints",
    "export": "write a trained model, transforms included, for other programs",
}
ACTIONS = tuple(_HELP)

_RUN = "RUN is a run's folder, its MLflow id (6 digits will do), or last: the newest run here."

_EPILOG = {
    "": """examples:
  accelerator checkpoint list                                  of the newest run here
  accelerator checkpoint show best                             of its best checkpoint
  accelerator checkpoint verify outputs                        of every run below
  accelerator checkpoint export last -o model.onnx --format onnx

"accelerator checkpoint ACTION --help" tells more.""",
    "list": """examples:
  accelerator checkpoint list
  accelerator checkpoint list outputs multirun                 every run below
  accelerator checkpoint list 3f9c21 --json                    by MLflow run id

A file without a sidecar is unfinished: the run was killed while it wrote, and it never counts.""",
    "show": """examples:
  accelerator checkpoint show last                             the best checkpoint of the newest run
  accelerator checkpoint show FILE.safetensors --tensors""",
    "verify": """examples:
  accelerator checkpoint verify
  accelerator checkpoint verify outputs                        every run below

Exit code 3 if one is damaged; every bad one is named.""",
    "convert": """examples:
  accelerator checkpoint convert OLD.safetensors NEW.safetensors       the present format, with its sidecar
  accelerator checkpoint convert best weights.safetensors --weights    a state dict for safetensors
  accelerator checkpoint convert best weights.pt --to torch            for torch.load(..., weights_only=True)""",
    "average": """examples:
  accelerator checkpoint average A.safetensors B.safetensors -o soup.safetensors
  accelerator checkpoint average A.safetensors B.safetensors --weights 3,1 -o soup.safetensors

Transforms are those of the first, counters those of the last; optimizer states are left out. load_model reads the
result; resume=OUT starts a new run from it with a fresh optimizer, and with the config of RUN if it was written to
RUN/made/NAME.safetensors.""",
    "export": """examples:
  accelerator checkpoint export best -o model.safetensors              for accelerator.load_model, one file
  accelerator checkpoint export best -o model.pt2 --format torch       for torch.export.load
  accelerator checkpoint export best -o model.onnx --format onnx       for ONNX Runtime and others

The model takes inputs as the data gives them, any number at a time, and predicts in the data's own units. It is run on
samples of the run's test split and compared with the original before it is written.""",
}


def checkpoint_command(arguments: list[str]) -> int:
    """The command line's entry.

    Returns:
        The exit code; see `accelerator.cli.app.main`.
    """
    debug = "--debug" in arguments

    def act() -> int:
        options = _parsed([argument for argument in arguments if argument != "--debug"])
        return 0 if options is None else _act(options)

    return exit_code_of(act, debug=debug)


def _act(options: argparse.Namespace) -> int:
    if options.action in ("list", "show", "verify"):
        from accelerator.cli import checkpoint_look as look

        return {"list": look.list_runs, "show": look.show, "verify": look.verify_all}[options.action](options)
    from accelerator.cli import checkpoint_make as make

    {"convert": make.convert, "average": make.average_files, "export": make.export}[options.action](options)
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")


def _parsed(arguments: list[str]) -> argparse.Namespace | None:
    """The options; None after help was printed."""
    parser, actions = _parser()
    if not arguments:
        parser.print_help()
        return None
    first = arguments[0]
    if not first.startswith("-") and first not in ACTIONS:
        raise ConfigError(f"there is no action '{first}'{did_you_mean(first, ACTIONS)}; see {parser.prog} --help")
    wanted = {"-h", "--help"}.intersection(arguments)
    if wanted:
        actions.get(first, parser).print_help()
        return None
    return parser.parse_args(arguments)


def _parser() -> tuple[_Parser, dict[str, _Parser]]:
    style = argparse.RawDescriptionHelpFormatter
    parser = _Parser(
        prog="accelerator checkpoint",
        description=f"Look at what runs have saved, check it, and make other files of it.\n\n{_RUN}",
        epilog=_EPILOG[""],
        formatter_class=style,
    )
    commands = parser.add_subparsers(dest="action", metavar="ACTION", title="actions", required=True)
    actions: dict[str, _Parser] = {
        name: commands.add_parser(
            name, help=summary, description=f"{summary.capitalize()}.", epilog=_EPILOG[name], formatter_class=style
        )
        for name, summary in _HELP.items()
    }
    of_runs = f"{_RUN} A folder of runs stands for all below it. Without any: last."
    for name, metavar in (("list", "RUN|FOLDER"), ("verify", "RUN|FOLDER|FILE")):
        actions[name].add_argument("sources", nargs="*", metavar=metavar, help=of_runs)
    for name in ("show", "convert", "export"):
        actions[name].add_argument("source", metavar="FILE|RUN", help=f"{_RUN} Of a run, the best checkpoint is taken.")
    for name in ("list", "show"):
        actions[name].add_argument("--json", action="store_true", help="print it for programs")
    actions["show"].add_argument("--tensors", action="store_true", help="every tensor, not their number for each part")
    actions["convert"].add_argument("out", metavar="OUT", type=Path, help="the file to write")
    form = actions["convert"].add_mutually_exclusive_group()
    form.add_argument(
        "--weights",
        dest="to",
        action="store_const",
        const="weights",
        default="checkpoint",  # both flags say it: argparse takes the default of the first
        help="the same as --to weights",
    )
    form.add_argument(
        "--to",
        choices=("checkpoint", "weights", "torch"),
        default="checkpoint",
        help="a checkpoint in the present format (the default); or the finest network's state dict alone, for "
        "safetensors (weights) or torch.load (torch)",
    )
    actions["average"].add_argument("sources", nargs="+", metavar="FILE", type=Path, help="two checkpoints or more")
    actions["average"].add_argument("--weights", metavar="W,W,…", help="one number for each file; equal by default")
    actions["export"].add_argument(
        "--format",
        choices=("safetensors", "onnx", "torch"),
        help="default: as the file is named: .safetensors, .onnx, .pt2",
    )
    actions["export"].add_argument(
        "--import",
        dest="imports",
        nargs="+",
        default=[],
        metavar="MODULE",
        help="modules of yours that a file outside a run's folder is built with",
    )
    for name in ("average", "export"):
        actions[name].add_argument("-o", "--out", required=True, metavar="OUT", type=Path, help="the file to write")
    for name in ("convert", "average", "export"):
        actions[name].add_argument("--force", action="store_true", help="replace OUT if it is there")
    return parser, actions
