"""``accelerator pipeline NAME``: bring a pipeline up to date, step by step, and keep its record.

What is composed and checked is in `accelerator.cli.pipeline.config`, how it is run in `accelerator.cli.pipeline.run`,
what is printed in `accelerator.cli.pipeline.show`; what a pipeline is, in `accelerator.pipeline`.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerator.cli.actions import Parser
from accelerator.cli.command import exit_code_of, working_directory_importable
from accelerator.errors import ConfigError

if TYPE_CHECKING:
    from accelerator.pipeline.state import PipelineResult

_HEAD = """usage: accelerator pipeline NAME [key=value | STEP:key=value ...] [flags]

Run the steps of a pipeline that are not done, each a run of its own, and keep the record of all.

pipelines"""

_TAIL = """
flags
  --plan, --dry-run    show the order, what is done, what would run and why, and stop
  --parallel N         run up to N steps side by side, where none needs the other
  --force [STEP ...]   run these again though they are done, and what needs them; all, if none is named
  --until STEP         run no step after this one
  --json               print the plan or the result for programs; what steps say goes to stderr
  --debug              show the traceback of a mistake
  --overrides TEXT     more overrides in one argument, quoted as in a shell

examples:
  accelerator pipeline digits                              run what is not done; again after a kill: go on
  accelerator pipeline digits --plan                       what would run, and why
  accelerator pipeline digits vars.epochs=5                a value of the pipeline's own
  accelerator pipeline digits train:optimizer.lr=0.01      an override of one step; all:seed=1 of every step
  accelerator pipeline digits --force train                make it anew, and all that needs it
  accelerator pipeline digits hydra.run.dir=pipelines/b    in another folder, beside the first

A pipeline is a file in configs/pipeline/, packaged or of your own. Its folder is pipelines/NAME: a step that is done
there, and would be made from the same config and the same results, is not run again. docs/pipelines.md tells more."""


def pipeline_command(arguments: list[str]) -> int:
    """The command line's entry; see `accelerator.cli.app.main` for the exit codes."""
    return exit_code_of(lambda: _act(arguments), debug="--debug" in arguments)


def run_pipeline(name: str, overrides: Sequence[str] = (), **options: Any) -> PipelineResult:
    """Run from Python what ``accelerator pipeline <name> <overrides>`` runs.

    >>> result = run_pipeline("digits", ["vars.epochs=5"], until="train")  # doctest: +SKIP
    >>> result.metrics["train/test/loss"]  # doctest: +SKIP

    Args:
        name: of the pipeline.
        overrides: of its config or, as ``step:key=value``, of a step's.
        options: those of `accelerator.cli.pipeline.run.Options`.

    Raises:
        StepError: a step failed.
        AcceleratorError: as the command line would report.
    """
    from accelerator.cli.pipeline.config import prepare
    from accelerator.cli.pipeline.run import Options, run_prepared

    if isinstance(overrides, str):
        raise ConfigError(f"run_pipeline({name!r}, {overrides!r}): expected a list of overrides: {overrides.split()!r}")
    with working_directory_importable():
        return run_prepared(prepare(name, overrides), Options(**options), overrides)


def _act(arguments: list[str]) -> int:
    unpacked = _unpacked(arguments)
    if any("=" in word for word in unpacked):
        from accelerator.cli.compose.mistakes import split_by_spaces

        if problems := split_by_spaces(unpacked)[1]:
            raise ConfigError(problems)
    options = _parser().parse_intermixed_args(unpacked)
    named = [word.partition("=")[2] for word in options.words if word.startswith("pipeline=")]
    typed = [word for word in options.words if _is_override(word) and not word.startswith("pipeline=")]
    bare = [word for word in options.words if not _is_override(word)]
    if options.help or not (named or bare):
        print(_help())
        return 0
    name, *steps = [*named, *bare]
    if steps and not options.force:
        raise ConfigError(
            f"'{steps[0]}': one pipeline at a time, and '{name}' is named; to redo a step of it: --force {steps[0]}"
        )
    from accelerator.cli.pipeline.config import prepare
    from accelerator.cli.pipeline.run import Options, run_prepared, show_plan

    asked = Options(options.parallel, steps if options.force else None, options.until, options.json)
    prepared = prepare(name, typed)
    if options.plan:
        show_plan(prepared, asked)
    else:
        run_prepared(prepared, asked, typed)
    return 0


def _parser() -> Parser:
    parser = Parser(prog="accelerator pipeline", add_help=False, allow_abbrev=False)
    parser.add_argument("words", nargs="*")
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--plan", "--dry-run", dest="plan", action="store_true")
    parser.add_argument("--parallel", type=int)
    parser.add_argument("--force", action="store_true")
    parser.add_argument("--until")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--debug", action="store_true")
    return parser


def _help() -> str:
    """The help text, with every pipeline of the packaged configs and of ``./configs``."""
    from accelerator.cli.paths import packaged_configs

    found: dict[str, str] = {}
    for root in (Path.cwd() / "configs", packaged_configs()):
        for path in (root / "pipeline").glob("*.yaml"):
            found.setdefault(path.stem, _summary(path))
    width = max(map(len, found), default=0)
    return "\n".join([_HEAD, *(f"  {name:<{width}}  {found[name]}".rstrip() for name in sorted(found)), _TAIL])


def _summary(path: Path) -> str:
    """The first line of a pipeline's file that says what it is for."""
    comments = (line.removeprefix("# ") for line in path.read_text().splitlines() if line.startswith("# "))
    return next((line for line in comments if not line.startswith("@package")), "")


def _is_override(word: str) -> bool:
    return "=" in word or word.startswith("~") or ":~" in word


def _unpacked(arguments: list[str]) -> list[str]:
    """The arguments, with what stands in ``--overrides`` as arguments of their own."""
    parser = Parser(prog="accelerator pipeline", add_help=False, allow_abbrev=False)
    parser.add_argument("--overrides", default="")
    options, rest = parser.parse_known_args(arguments)
    try:
        return [*rest, *shlex.split(options.overrides)]
    except ValueError as error:
        raise ConfigError(f"--overrides {options.overrides!r} cannot be split as a shell would: {error}") from error
