"""A step as a process: in a group of its own, its output in a file, and it does not outlive the pipeline for long.

The output goes to the file itself, not through a pipe: a step whose pipeline was killed can still save itself, and
say so.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)
STOPPING = (signal.SIGTERM, signal.SIGINT)

_libc = ctypes.CDLL(None)


def forked(act: Callable[[], int], log: Path) -> int:
    """Act in a fork of this process, which has imported everything already: it saves seconds.

    Returns:
        The process id.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads: `threads` is how to know that they do no harm
        pid = os.fork()
    if pid == 0:
        _act_and_leave(act, log, parent)
    return pid


def spawned(command: Sequence[str], log: Path) -> int:
    """Start a command; the same, for a process that must not be forked.

    Returns:
        The process id.
    """
    parent = os.getpid()
    with log.open("ab") as file:
        process = subprocess.Popen(  # noqa: S603 - this very interpreter
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            process_group=0,
            preexec_fn=lambda: _begin(parent),  # system calls only
        )
    process.returncode = 0  # whoever asked waits for it by its id
    return process.pid


def threads() -> int:
    """How many threads this process has, those of libraries included; a fork has none of them."""
    return len(os.listdir("/proc/self/task"))


def may_fork(known: int) -> bool:
    """Whether a fork of this process would work as the process itself.

    OpenMP, once it has computed anything on several threads, hangs in a fork; so does CUDA.

    Args:
        known: threads that are known to do no harm: those that libraries start when they are imported.
    """
    torch = sys.modules.get("torch")
    return (
        threading.active_count() == 1 and threads() <= known and not (torch is not None and torch.cuda.is_initialized())
    )


def _act_and_leave(act: Callable[[], int], log: Path, parent: int) -> NoReturn:
    code = 1
    try:
        os.setpgid(0, 0)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _say_into(log)
        _begin(parent)
        code = act()
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # Not Python's own way out: what waits to be done at exit is the pipeline's.
        os._exit(code)


def _say_into(log: Path) -> None:
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for old, new in ((0, nothing), (1, file), (2, file)):
        os.dup2(new, old)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False, encoding="utf-8", errors="replace")
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False, encoding="utf-8", errors="replace")


def _begin(parent: int) -> None:
    """Have the kernel send SIGTERM when the parent dies, however it does; and listen to signals from now on."""
    _libc.prctl(_SET_DEATH_SIGNAL, int(signal.SIGTERM))
    if os.getppid() != parent:
        os._exit(128 + signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)


class Log:
    """Whole lines of a file that grows.

    Args:
        path: the file; what stands in it already is left out.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._at = path.stat().st_size if path.exists() else 0

    def lines(self, *, over: bool = False) -> list[str]:
        """What was added since the last call.

        Args:
            over: nothing will follow: a last line without an end counts too.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(self._at)
                text = file.read()
        except FileNotFoundError:
            return []
        if not over:
            text = text[: text.rfind(b"\n") + 1]
        self._at += len(text)
        return text.decode(errors="replace").splitlines()


def warm_up() -> int:
    """Import what starts threads when it is imported: of a fork, they are missed by nobody.

    Returns:
        How many threads there are: a process that has more has computed something.
    """
    for name in ("scipy.linalg", "sklearn.utils", "accelerator.runtime.run"):
        importlib.import_module(name)
    return threads()
