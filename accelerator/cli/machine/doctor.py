"""``accelerator doctor``: what a run needs, really used, and what ./configs is like: verify and status in one."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from contextlib import redirect_stdout
from dataclasses import asdict
from io import StringIO

from accelerator.cli.actions import run_alone
from accelerator.errors import ConfigError

_EPILOG = """examples:
  accelerator doctor                 half a minute; nothing is left behind
  accelerator doctor --json          the same for programs: what to attach to a report of a fault

exit code: 0 all is well · 1 something that a run needs is broken · 3 a file of ./configs is"""


def doctor_command(arguments: list[str]) -> int:
    """The command line's entry; see `accelerator.cli.app.main` for the exit codes."""
    description = "Use what a run needs in a temporary folder, then look at ./configs; say what is broken."
    return run_alone("doctor", description, _EPILOG, _arguments, _doctor, arguments)


def _arguments(parser: ArgumentParser) -> None:
    from accelerator.cli.project.status import no_import_argument

    parser.add_argument("--json", action="store_true", help="print it for programs")
    no_import_argument(parser)


def _doctor(options: Namespace) -> int:
    from accelerator.cli.machine.verify import verified
    from accelerator.cli.project.status import status

    # What is quick and most often wrong comes first; a project file that cannot be read is a finding, not an end.
    told = StringIO()
    if not options.json:
        print("configs")
    try:
        with redirect_stdout(told):
            configs = status(options)
        text = told.getvalue()
    except ConfigError as error:
        configs = error.exit_code
        text = json.dumps({"problems": error.problems}) if options.json else "\n".join(error.problems)
    if not options.json:
        print(f"{text.rstrip()}\n\nmachine", flush=True)
    checks = verified(silent=options.json)
    if configs and not options.json:
        print("./configs: broken, as told above")
    if options.json:
        print(json.dumps({"configs": json.loads(text), "checks": [asdict(check) for check in checks]}, indent=1))
    return 1 if any(check.status == "broken" for check in checks) else configs
