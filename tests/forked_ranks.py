"""Ranks of one run as forks of the test's own process: real processes over gloo, without the seconds of a start-up."""

import faulthandler
import importlib
import os
import pickle
import signal
import socket
import sys
import time
import traceback
import warnings
from contextlib import suppress
from pathlib import Path

# What a run imports on its way; here once, and not in every fork.
LATE = ("accelerator.runtime.run", "torch._dynamo", "torch.distributed.fsdp", "torch.distributed.checkpoint.state_dict")


class RanksFailedError(AssertionError):
    pass


def start_ranks(count, action, folder):
    """Fork `count` ranks, each calling ``action(rank)``; their process ids."""
    for name in LATE:
        importlib.import_module(name)
    Path(folder).mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": str(count), "GLOO_SOCKET_IFNAME": "lo"}
    return [_fork(rank, action, folder, place) for rank in range(count)]


def results(pids, folder, timeout=120):
    """What each rank returned, once all have ended well."""
    codes = [exit_code(pid, timeout) for pid in pids]
    told = [Path(folder, f"rank{rank}") for rank in range(len(pids))]
    if any(codes):
        errors = [path.with_suffix(".error").read_text() for path in told if path.with_suffix(".error").exists()]
        raise RanksFailedError(f"exit codes {codes}\n" + "\n".join(errors))
    return [pickle.loads(path.read_bytes()) for path in told]


def on_ranks(count, action, folder):
    return results(start_ranks(count, action, folder), folder)


def exit_code(pid, timeout=120):
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGUSR1)  # where it stands, on the test's stderr
        time.sleep(1)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise RanksFailedError(f"process {pid} had not ended after {timeout} s")


def _fork(rank, action, folder, place):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forks of a process with threads: none of them is torch's
        pid = os.fork()
    if pid:
        return pid
    code, told = 1, Path(folder, f"rank{rank}")
    with suppress(BaseException):
        try:
            faulthandler.register(signal.SIGUSR1)
            os.environ.update(place, RANK=str(rank), LOCAL_RANK=str(rank))
            with Path(os.devnull).open("w") as sys.stdout:
                told.write_bytes(pickle.dumps(action(rank)))
            code = 0
        except BaseException:
            told.with_suffix(".error").write_text(traceback.format_exc())
    os._exit(code)
