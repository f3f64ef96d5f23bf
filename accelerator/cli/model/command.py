"""``accelerator model``: trained models under a name, in versions, with aliases that say which is in use.

What only looks is in `accelerator.cli.model.look`, what changes the registry in `accelerator.cli.model.change`.
"""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError
from pathlib import Path

from accelerator.cli.actions import Action, run_action

_RUN = "RUN is an MLflow id (6 digits will do), a run's name or folder, or last: the run started last."
_MODEL = "MODEL is NAME/3, NAME@champion, or NAME: the newest version."

_EPILOG = """examples:
  accelerator model register last digits                       the newest run's model, as the next version of digits
  accelerator model promote digits                             its newest version becomes champion
  accelerator model list
  accelerator model load digits@champion -o digits.safetensors

In Python: accelerator.load_model("models:/digits@champion"). The store is mlflow.db here, unless MLFLOW_TRACKING_URI or
--uri names another."""


def model_command(arguments: list[str]) -> int:
    """The command line's entry.

    Returns:
        The exit code; see `accelerator.cli.app.main`.
    """
    description = f"Name trained models, and say which is in use.\n\n{_RUN}\n{_MODEL}"
    return run_action("model", description, _EPILOG, ACTIONS, arguments)


def _uri(parser: ArgumentParser) -> None:
    parser.add_argument("--uri", metavar="URI", help="the store: sqlite:///path/to/mlflow.db or http://host:port")


def _store(parser: ArgumentParser) -> None:
    _uri(parser)
    parser.add_argument("--json", action="store_true", help="print it for programs")


def _show(parser: ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="NAME for all its versions; NAME/3 or NAME@alias for one")
    _store(parser)


def _pair(text: str) -> tuple[str, str]:
    """A tag, as typed."""
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise ArgumentTypeError(f"expected KEY=VALUE, got '{text}'")
    return key, value


def _register(parser: ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help=_RUN)
    parser.add_argument("name", metavar="NAME", help="the model's name; it is made if absent")
    parser.add_argument("--description", default="", metavar="TEXT", help="what is to be said of this version")
    parser.add_argument("--tag", dest="tags", action="append", type=_pair, default=[], metavar="KEY=VALUE")
    parser.add_argument("--alias", metavar="ALIAS", help="as accelerator model promote does")
    _store(parser)


def _promote(parser: ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=_MODEL)
    parser.add_argument("--alias", metavar="ALIAS", help="champion by default, where no stage is given")
    parser.add_argument("--stage", metavar="STAGE", help="set the tag stage: Staging, Production, Archived or None")
    _uri(parser)


def _load(parser: ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=_MODEL)
    parser.add_argument("-o", "--out", metavar="OUT", type=Path, help="a file (.safetensors, .pt2) or a new folder")
    parser.add_argument("--force", action="store_true", help="replace OUT if it is there")
    _uri(parser)


def _delete_alias(parser: ArgumentParser) -> None:
    parser.add_argument("model", metavar="NAME@ALIAS", help="the alias to remove")
    _uri(parser)


def _delete(parser: ArgumentParser) -> None:
    parser.add_argument("model", metavar="NAME/VERSION", help="the version to remove; NAME for all of them")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    _uri(parser)


ACTIONS = {
    "list": Action(
        "the models of the store",
        "accelerator.cli.model.look:list_models",
        _store,
        """examples:
  accelerator model list                                       each model, its versions and aliases
  accelerator model list --json | jq keys""",
    ),
    "show": Action(
        "the versions of a model, or all that is known of one",
        "accelerator.cli.model.look:show",
        _show,
        """examples:
  accelerator model show digits                                its versions
  accelerator model show digits@champion                       one of them""",
    ),
    "register": Action(
        "make a run's model the next version of a name",
        "accelerator.cli.model.change:register",
        _register,
        """examples:
  accelerator model register last digits
  accelerator model register 3f9c21 digits --alias challenger --description "wider, no dropout"
  accelerator model register outputs/2026-01-31/12-00-00-000000-1 digits --tag task=ocr

A run that ended well has logged its best network as a model (tracking.model). Of a run that was stopped, the best
checkpoint in its folder is taken.""",
    ),
    "promote": Action(
        "point an alias at a version",
        "accelerator.cli.model.change:promote",
        _promote,
        """examples:
  accelerator model promote digits                             the newest version becomes champion
  accelerator model promote digits/3 --alias challenger
  accelerator model promote digits@previous                    back to the champion before
  accelerator model promote digits/1 --stage Archived          the tag alone

The champion before becomes "previous". The tag stage follows the aliases, for who speaks of stages: Production is the
champion, Staging the challenger, Archived the previous one; --stage sets another.""",
    ),
    "load": Action(
        "check a model's files, and write them where you want them",
        "accelerator.cli.model.look:load",
        _load,
        """examples:
  accelerator model load digits@champion                       compare every file with its checksum
  accelerator model load digits@champion -o digits.safetensors for accelerator.load_model, one file
  accelerator model load digits/3 -o digits.pt2                for torch.export.load
  accelerator model load digits/3 -o digits                    everything, MLmodel and requirements too""",
    ),
    "delete-alias": Action(
        "remove an alias; its version stays",
        "accelerator.cli.model.change:delete_alias",
        _delete_alias,
        """examples:
  accelerator model delete-alias digits@challenger             nothing is the challenger any more""",
    ),
    "delete": Action(
        "remove a version, or a name with all of them; runs and their models stay",
        "accelerator.cli.model.change:delete",
        _delete,
        """examples:
  accelerator model delete digits/3                            one version
  accelerator model delete digits                              the name, with all of its versions""",
    ),
}
