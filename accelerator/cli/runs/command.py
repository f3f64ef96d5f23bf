"""``accelerator runs``: find, look at, compare and delete the runs of a store.

What they do is in `accelerator.cli.runs.look`, `accelerator.cli.runs.tell` and `accelerator.cli.runs.delete`; which
folder is a run's is asked in `accelerator.cli.which_run`.
"""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError

from accelerator.cli.actions import Action, run_action

_RUN = "RUN is an MLflow id (6 digits will do), a run's name or folder, or last: the run started last."

_EPILOG = """examples:
  accelerator runs list                                        the newest runs
  accelerator runs list --sort test/loss                       the best ones first
  accelerator runs show last
  accelerator runs compare 3f9c21 a07b44                       what differs, and which is better
  accelerator runs search "metrics.'test/loss' < 0.1"
  accelerator runs delete 3f9c21

The store is mlflow.db here, unless MLFLOW_TRACKING_URI or --uri names another. Opening it takes a second or two, most
of it MLflow's own."""


def runs_command(arguments: list[str]) -> int:
    """The command line's entry.

    Returns:
        The exit code; see `accelerator.cli.app.main`.
    """
    return run_action("runs", f"Find, compare and delete runs.\n\n{_RUN}", _EPILOG, ACTIONS, arguments)


def count(text: str) -> int:
    """A number of runs, as typed."""
    if not text.isdecimal():
        raise ArgumentTypeError(f"expected a whole number, got '{text}'")
    return int(text)


def _store(parser: ArgumentParser) -> None:
    parser.add_argument("--uri", metavar="URI", help="the store: sqlite:///path/to/mlflow.db or http://host:port")
    parser.add_argument("--json", action="store_true", help="print it for programs")


def _which(parser: ArgumentParser) -> None:
    _store(parser)
    parser.add_argument("--experiment", metavar="NAME", help="only its runs; all experiments of the store by default")
    parser.add_argument("--group", metavar="WORD", help="only runs that were started with tracking.group=WORD")
    parser.add_argument("--sort", metavar="METRIC", help="the best first, by the best checkpoint's value")
    parser.add_argument("--limit", metavar="N", type=count, default=20, help="at most N runs (20); 0: all")


def _search(parser: ArgumentParser) -> None:
    parser.add_argument("filter", metavar="FILTER", help="in MLflow's syntax; see below")
    _which(parser)


def _show(parser: ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help=_RUN)
    _store(parser)


def _compare(parser: ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help=f"two or more. {_RUN}")
    _store(parser)


def _delete(parser: ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help=_RUN)
    parser.add_argument("--uri", metavar="URI", help="the store: sqlite:///path/to/mlflow.db or http://host:port")
    parser.add_argument("--nested", action="store_true", help="the runs that are part of them too")
    parser.add_argument("--artifacts", action="store_true", help="what they logged in the store too, for good")
    parser.add_argument("--folder", action="store_true", help="their folders here too, checkpoints and all, for good")
    parser.add_argument("--yes", action="store_true", help="do not ask")


_SYNTAX = """FILTER is conditions joined by "and": metrics.'test/loss' < 0.1, params.model.name = 'mlp',
tags.host LIKE 'gpu%', attributes.status = 'FAILED', attributes.run_name = 'first'. Names with a slash are quoted, and
so are all values of params and tags; there is no "or"."""

ACTIONS = {
    "list": Action(
        "the newest runs, or the best",
        "accelerator.cli.runs.look:list_runs",
        _which,
        """examples:
  accelerator runs list --experiment poisson --limit 50
  accelerator runs list --group width-study --sort val/loss
  accelerator runs list --json | jq -r '.[].id'

The metrics shown are the one sorted by, the one a run is rated by (checkpoint.monitor), and those of the test. Runs of
a sweep or a pipeline stand below it. "differs by" tells in what a run's config differs from that of the run before it,
and of a sweep's job what the sweep set for it. On a narrow terminal the numbers are left out first.""",
    ),
    "show": Action(
        "everything the store knows of a run",
        "accelerator.cli.runs.tell:show",
        _show,
        """examples:
  accelerator runs show last
  accelerator runs show 3f9c21 --json""",
    ),
    "compare": Action(
        "in what runs differ, and which is better",
        "accelerator.cli.runs.tell:compare",
        _compare,
        """examples:
  accelerator runs compare 3f9c21 a07b44
  accelerator runs compare baseline last

Of the params only those that differ are shown; of the metrics the last values, the best marked by a star.""",
    ),
    "search": Action(
        "runs that meet a condition",
        "accelerator.cli.runs.look:search",
        _search,
        f"""examples:
  accelerator runs search "metrics.'test/loss' < 0.1 and params.model.name = 'mlp'"
  accelerator runs search "tags.'git.branch' = 'main' and attributes.status = 'FAILED'"

{_SYNTAX}""",
    ),
    "delete": Action(
        "delete runs, after a look at them",
        "accelerator.cli.runs.delete:delete",
        _delete,
        """examples:
  accelerator runs delete 3f9c21 a07b44
  accelerator runs delete last --artifacts --folder            nothing of it is left

A deleted run is hidden, and MLflow can restore it; files that were removed are gone.""",
    ),
}
