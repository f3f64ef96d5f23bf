"""``accelerator tracking``: what runs have left to send to MLflow, and sending it."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

from accelerator.cli.actions import Action, run_action

_EPILOG = """examples:
  accelerator tracking status                                  runs here whose record is not whole
  accelerator tracking sync                                    send what they have left
  accelerator tracking sync outputs/2026-11-20 --uri http://server:5000

A run whose store did not answer keeps its record in its own folder. The next run here sends it too, if it can."""


def tracking_command(arguments: list[str]) -> int:
    """The command line's entry.

    Returns:
        The exit code; see `accelerator.cli.app.main`.
    """
    return run_action(
        "tracking",
        "See whether the record of runs has arrived in MLflow, and send the rest.",
        _EPILOG,
        ACTIONS,
        arguments,
    )


def _folders(parser: ArgumentParser) -> None:
    parser.add_argument(
        "folders",
        nargs="*",
        metavar="RUN_DIR|FOLDER",
        type=Path,
        help="a run's folder, or one that stands for all runs below it; by default outputs/, multirun/, pipelines/ and "
        "studies/ here",
    )
    parser.add_argument("--json", action="store_true", help="print it for programs")


def _sync(parser: ArgumentParser) -> None:
    _folders(parser)
    parser.add_argument("--uri", metavar="URI", help="another store than the one each run was started with")


ACTIONS = {
    "status": Action(
        "the runs whose record has not arrived, or whose process died",
        "accelerator.cli.tracking.acts:status",
        _folders,
        """examples:
  accelerator tracking status
  accelerator tracking status multirun/2026-11-20 --json

running   the run, or its uploader, is at work
waiting   the run has ended, and something has not arrived
orphan    training and uploader were killed; MLflow shows the run as running until it is sent or another run starts
refused   the store answers, and does not take the record""",
    ),
    "sync": Action(
        "send what runs have left",
        "accelerator.cli.tracking.acts:sync_all",
        _sync,
        """examples:
  accelerator tracking sync                                    every run here that has something left
  accelerator tracking sync outputs/2026-11-20/14-03-21.123456-99
  accelerator tracking sync outputs --uri sqlite:///copy.db    all runs below, whole, to another store as well

A copy in another store is one more: commands go on finding the run in its own.
It may be repeated and interrupted: what has arrived is not sent twice. Orphans are marked as KILLED.
Exit code 0: everything arrived; 1: something waits; 3: a store refuses a record.""",
    ),
}
