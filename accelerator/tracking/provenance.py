"""Where a run comes from: the commit, the machine, the versions. What cannot be told is left out, never guessed."""

from __future__ import annotations

import getpass
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import accelerator
from accelerator.tracking.masking import mask_text

GIT_TIMEOUT = 5.0  # seconds; a repository on a slow network disk must not hold a run up
DIFF_LENGTH = 1_000_000  # characters


def git_tags(folder: Path | None = None) -> dict[str, str]:
    """Commit, branch and dirty flag of the repository around ``folder`` (the current one); empty without one.

    Dirty means that a tracked file differs from the commit; untracked files do not count.
    """
    status = _git(["status", "--porcelain=v2", "--branch", "--untracked-files=no"], folder)
    if status is None:
        return {}
    header = dict(
        line[2:].split(" ", 1) for line in status.splitlines() if line.startswith("# branch.") and " " in line[2:]
    )
    changed = any(not line.startswith("#") for line in status.splitlines())
    commit, branch = header.get("branch.oid", ""), header.get("branch.head", "")
    if not commit or commit.startswith("("):  # "(initial)": nothing has been committed yet
        return {}
    tags = {"git.commit": commit, "git.dirty": str(changed).lower(), "mlflow.source.git.commit": commit}
    if not branch.startswith("("):  # "(detached)"
        tags |= {"git.branch": branch, "mlflow.source.git.branch": branch}
    return tags


def git_diff(folder: Path | None = None) -> str:
    """What tracked files differ in from the last commit, secrets masked and cut at 1 MB; empty when nothing does."""
    patch = _git(["diff", "HEAD", "--no-color", "--no-ext-diff"], folder) or ""
    shown = mask_text(patch[:DIFF_LENGTH])
    return shown if len(patch) <= DIFF_LENGTH else f"{shown}\n… cut: {len(patch)} characters\n"


def machine_tags() -> dict[str, str]:
    """Host, user and versions; torch's is read from its metadata, without importing it."""
    tags = {"host": socket.gethostname(), "python": platform.python_version(), "accelerator": accelerator.__version__}
    with suppress(PackageNotFoundError):
        tags["torch"] = version("torch")
    with suppress(KeyError, OSError):  # a container's user without a name
        tags["mlflow.user"] = getpass.getuser()
    return tags


def environment() -> dict[str, Any]:
    """What a run runs on and with: machine, Python, and every installed package; costs a millisecond.

    GPUs are the run's own to tell (see `gpus`): asking for them starts CUDA.
    """
    memory = None
    with suppress(ValueError, OSError, AttributeError):  # not on Windows
        memory = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    return {
        "host": socket.gethostname(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": memory,
        "python": platform.python_version(),
        "executable": sys.executable,
        "packages": packages(),
    }


def packages() -> dict[str, str]:
    """Every installed distribution and its version, read off the names of their folders."""
    found: dict[str, str] = {}
    for folder in sys.path:
        with suppress(OSError):
            for name in os.listdir(folder or "."):
                if name.endswith(".dist-info"):
                    distribution, _, number = name.removesuffix(".dist-info").partition("-")
                    found.setdefault(distribution.replace("_", "-").lower(), number)  # the first is what is imported
    return dict(sorted(found.items()))


def gpus() -> dict[str, Any]:
    """CUDA and the devices torch sees; empty in a process that has not started CUDA."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return {}
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {"cuda": torch.version.cuda, "gpus": names}


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git(arguments: Sequence[str], folder: Path | None) -> str | None:
    # Optional locks off: recording a run must not make the user's own `git commit` fail.
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    try:
        done = subprocess.run(  # noqa: S603 - the arguments are ours
            ["git", *arguments],  # noqa: S607 - the user's git, wherever it is
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=GIT_TIMEOUT,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace")
