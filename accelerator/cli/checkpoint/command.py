"""``accelerator checkpoint``: look at what runs have saved, check it, and make other files of it.

What only looks is in `accelerator.cli.checkpoint.look`, what writes in `accelerator.cli.checkpoint.make`.
"""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

from accelerator.cli.actions import Action, run_action

_RUN = "RUN is a run's folder, its MLflow id (6 digits will do), or last: the newest run here."

_EPILOG = """examples:
  accelerator checkpoint list                                  of the newest run here
  accelerator checkpoint show best                             of its best checkpoint
  accelerator checkpoint verify outputs                        of every run below
  accelerator checkpoint export last -o model.onnx --format onnx"""


def checkpoint_command(arguments: list[str]) -> int:
    """The command line's entry.

    Returns:
        The exit code; see `accelerator.cli.app.main`.
    """
    description = f"Look at what runs have saved, check it, and make other files of it.\n\n{_RUN}"
    return run_action("checkpoint", description, _EPILOG, ACTIONS, arguments)


def _runs(parser: ArgumentParser, metavar: str) -> None:
    text = f"{_RUN} A folder of runs stands for all below it. Without any: last."
    parser.add_argument("sources", nargs="*", metavar=metavar, help=text)


def _source(parser: ArgumentParser) -> None:
    parser.add_argument("source", metavar="FILE|RUN", help=f"{_RUN} Of a run, the best checkpoint is taken.")


def _json(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print it for programs")


def _out(parser: ArgumentParser) -> None:
    parser.add_argument("-o", "--out", required=True, metavar="OUT", type=Path, help="the file to write")


def _force(parser: ArgumentParser) -> None:
    parser.add_argument("--force", action="store_true", help="replace OUT if it is there")


def _list(parser: ArgumentParser) -> None:
    _runs(parser, "RUN|FOLDER")
    _json(parser)


def _show(parser: ArgumentParser) -> None:
    _source(parser)
    _json(parser)
    parser.add_argument("--tensors", action="store_true", help="every tensor, not their number for each part")


def _verify(parser: ArgumentParser) -> None:
    _runs(parser, "RUN|FOLDER|FILE")


def _convert(parser: ArgumentParser) -> None:
    _source(parser)
    parser.add_argument("out", metavar="OUT", type=Path, help="the file to write")
    form = parser.add_mutually_exclusive_group()
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
    _force(parser)


def _average(parser: ArgumentParser) -> None:
    parser.add_argument("sources", nargs="+", metavar="FILE", type=Path, help="two checkpoints or more")
    parser.add_argument("--weights", metavar="W,W,…", help="one number for each file; equal by default")
    _out(parser)
    _force(parser)


def _export(parser: ArgumentParser) -> None:
    _source(parser)
    parser.add_argument(
        "--format",
        choices=("safetensors", "onnx", "torch"),
        help="default: as the file is named: .safetensors, .onnx, .pt2",
    )
    parser.add_argument(
        "--import",
        dest="imports",
        nargs="+",
        default=[],
        metavar="MODULE",
        help="modules of yours that a file outside a run's folder is built with",
    )
    _out(parser)
    _force(parser)


ACTIONS = {
    "list": Action(
        "the checkpoints of a run",
        "accelerator.cli.checkpoint.look:list_runs",
        _list,
        """examples:
  accelerator checkpoint list
  accelerator checkpoint list outputs multirun                 every run below
  accelerator checkpoint list 3f9c21 --json                    by MLflow run id

A file without a sidecar is unfinished: the run was killed while it wrote, and it never counts.""",
    ),
    "show": Action(
        "what a checkpoint holds",
        "accelerator.cli.checkpoint.look:show",
        _show,
        """examples:
  accelerator checkpoint show last                             the best checkpoint of the newest run
  accelerator checkpoint show FILE.safetensors --tensors""",
    ),
    "verify": Action(
        "compare checkpoints with their checksums",
        "accelerator.cli.checkpoint.look:verify_all",
        _verify,
        """examples:
  accelerator checkpoint verify
  accelerator checkpoint verify outputs                        every run below

Exit code 3 if one is damaged; every bad one is named.""",
    ),
    "convert": Action(
        "write a checkpoint in the present format, or its weights alone",
        "accelerator.cli.checkpoint.make:convert",
        _convert,
        """examples:
  accelerator checkpoint convert OLD.safetensors NEW.safetensors       the present format, with its sidecar
  accelerator checkpoint convert best weights.safetensors --weights    a state dict for safetensors
  accelerator checkpoint convert best weights.pt --to torch            for torch.load(..., weights_only=True)""",
    ),
    "average": Action(
        "average the networks of several checkpoints",
        "accelerator.cli.checkpoint.make:average_files",
        _average,
        """examples:
  accelerator checkpoint average A.safetensors B.safetensors -o soup.safetensors
  accelerator checkpoint average A.safetensors B.safetensors --weights 3,1 -o soup.safetensors

Transforms are those of the first, counters those of the last; optimizer states are left out. load_model reads the
result; resume=OUT starts a new run from it with a fresh optimizer, and with the config of RUN if it was written to
RUN/made/NAME.safetensors.""",
    ),
    "export": Action(
        "write a trained model, transforms included, for other programs",
        "accelerator.cli.checkpoint.make:export",
        _export,
        """examples:
  accelerator checkpoint export best -o model.safetensors              for accelerator.load_model, one file
  accelerator checkpoint export best -o model.pt2 --format torch       for torch.export.load
  accelerator checkpoint export best -o model.onnx --format onnx       for ONNX Runtime and others

The model takes inputs as the data gives them, any number at a time, and predicts in the data's own units. It is run on
samples of the run's test split and compared with the original before it is written.""",
    ),
}
