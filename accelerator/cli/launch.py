"""One run on several ranks: composed here once, trained there.

The ranks are started by torch's elastic agent, which watches them, stops all when one dies, and starts them anew
(``engine.restarts``). The config travels in memory: resolved, it may hold secrets that no file should.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerator import errors
from accelerator.errors import AcceleratorError, CheckpointError, ConfigError, RankError, Terminated
from accelerator.runtime.run_directory import CHECKPOINTS

if TYPE_CHECKING:
    from accelerator.runtime.run import Result

Job = Callable[[bool], "Result"]

log = logging.getLogger(__name__)

# What a rank says when another one has gone: gloo, NCCL, the store.
_LOST = ("connection closed by peer", "connection reset", "timed out", "gloo", "nccl", "socket", "broken pipe")
STOPPED = "stopped"  # the file in which a rank leaves the name of the signal
SAVE_SECONDS = 60  # that ranks have to save themselves once they are told to stop


def on_ranks(job: Job, ranks: int, *, run_dir: Path, restarts: int = 0, timeout: float = 120.0) -> Result:
    """Train on so many ranks of this machine.

    Args:
        job: called on each rank, with whether it goes on after a restart; it and its result travel by pickle.
        ranks: how many.
        run_dir: of the run.
        restarts: how often they are started again when one has died.
        timeout: seconds that they wait for one another.

    Returns:
        The result of rank 0.

    Raises:
        Terminated: a signal stopped the run.
        AcceleratorError: what a rank raised; `RankError` for what is none of ours.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in list(logging.root.manager.loggerDict):
        if name.startswith(("torch.distributed", "torch.multiprocessing")):  # each has a level of its own
            logging.getLogger(name).setLevel(logging.CRITICAL)
    # A store shared with the agent outlives its ranks' sockets: restarts then hang, 5 times in 8.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    # Ranks that end at once leave semaphores to be cleared, which is done, and told.
    os.environ.setdefault("PYTHONWARNINGS", "ignore::UserWarning:multiprocessing.resource_tracker")
    with tempfile.TemporaryDirectory() as folder:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=ranks,
            run_id=str(os.getpid()),
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=restarts,
            shutdown_timeout=SAVE_SECONDS,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        try:
            return elastic_launch(config, _rank)(job, folder, run_dir)[0]
        except ChildFailedError as error:
            stopped = Path(folder, STOPPED)
            if stopped.exists():
                raise _terminated(stopped.read_text(), run_dir) from None
            raise _cause(Path(folder), ranks, error, timeout) from None
        except SignalException as error:
            raise _terminated(signal.Signals(error.sigval).name, run_dir) from None


def _rank(job: Job, folder: str, run_dir: Path) -> Any:
    """What each rank does; what it fails of is left in a file, for who started it."""
    from accelerator.cli.command import notices_in_a_line
    from accelerator.utilities import distributed

    rank, again = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"]) > 0
    try:
        if Path(folder, STOPPED).exists():  # asked to stop, the run is not started again
            raise Terminated(Path(folder, STOPPED).read_text())
        with notices_in_a_line() if rank == 0 else _quiet():
            if again:
                log.warning("a rank died, and all were started again")
            result = job(again and any((run_dir / CHECKPOINTS).glob("*.safetensors")))
            sys.stdout.flush()
        distributed.stop()
        return result
    except BaseException as error:
        if isinstance(error, Terminated):
            Path(folder, STOPPED).write_text(error.signal_name)
        lost = isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _LOST)
        told = {
            "type": type(error).__name__ if isinstance(error, AcceleratorError) else None,
            "problems": error.problems if isinstance(error, ConfigError) else [str(error)],
            "traceback": "".join(traceback.format_exception(error)),
            "lost": lost,
        }
        (Path(folder) / f"{rank}.json").write_text(json.dumps(told))
        sys.stdout.flush()
        # Not through Python's exit: threads of a broken process group can hang it.
        os._exit(error.exit_code if isinstance(error, AcceleratorError) else 1)


def _cause(folder: Path, ranks: int, failed: Any, timeout: float) -> AcceleratorError:
    """The error of the rank that failed by itself, not of one of those that lost it."""
    told = {rank: json.loads(path.read_text()) for rank in range(ranks) if (path := folder / f"{rank}.json").exists()}
    for rank, error in sorted(told.items()):
        if error["type"] is not None:
            kind = getattr(errors, error["type"])
            return kind(error["problems"] if kind is ConfigError else error["problems"][0])
        if not error["lost"]:
            return RankError(f"rank {rank} of {ranks} failed, and the others were stopped\n{error['traceback']}")
    for rank, failure in failed.failures.items():
        if rank not in told and failure.exitcode < 0:
            return RankError(f"rank {rank} of {ranks} was killed by {failure.signal_name()}; the others were stopped")
    silent = [str(rank) for rank in range(ranks) if rank not in told]
    waited = any("tim" in error["problems"][0].lower() for error in told.values())
    if silent:
        what = f"gave no answer for {timeout:g} s (engine.timeout)" if waited else "was killed or lost"
        return RankError(f"rank {', '.join(silent)} of {ranks} {what}; the others were stopped")
    return RankError(f"the ranks lost one another:\n{next(iter(told.values()))['traceback']}")


def _terminated(name: str, run_dir: Path) -> Terminated:
    from accelerator.runtime.checkpoint.checkpoint_handler import CheckpointHandler

    error = Terminated(name)
    try:
        step = CheckpointHandler(run_dir / CHECKPOINTS).load_last()[1].step
    except CheckpointError:
        return error
    error.args = (f"{error}; saved up to step {step:,}; go on with: accelerator train resume={run_dir}",)
    return error


@contextmanager
def _quiet() -> Iterator[None]:
    """Rank 0 says it all."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("accelerator", "domain"):
            logging.getLogger(name).setLevel(logging.ERROR)
        yield
