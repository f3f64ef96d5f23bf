"""What lets a checkpoint be written while training goes on: a copy of the state, and a thread that gives way."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import torch

from accelerator.runtime.checkpoint.operation import fill, lay_out

NICE = 10  # at 19 a busy machine leaves it out for seconds, and then somebody waits for it
PAUSE = 0.002  # seconds between two pieces: the training loop has the memory to itself


class Snapshot:
    """A copy of a state in one buffer on the CPU, which is used again for the next one.

    Memory that is touched for the first time costs several times the copy itself. Where tensors come from a GPU the
    buffer is pinned: all copies are queued, and waited for once.
    """

    def __init__(self) -> None:
        self._buffer = torch.empty(0, dtype=torch.uint8)

    def take(self, tree: Any) -> list[bytes | memoryview]:
        """Copy a nest of plain values and tensors; what was taken before is overwritten.

        Returns:
            The bytes of its file, part by part; complete, whatever becomes of the nest.

        Raises:
            TypeError: something else is in the nest.
        """
        layout = lay_out(tree)
        devices = {tensor.device for tensor, _ in layout.tensors if tensor.is_cuda}
        if self._buffer.numel() < layout.size:
            self._buffer = torch.empty(0, dtype=torch.uint8)  # never two of them
            self._buffer = torch.empty(layout.size, dtype=torch.uint8, pin_memory=bool(devices))
        fill(self._buffer, layout)
        for device in devices:
            torch.cuda.synchronize(device)
        return [layout.header, self._buffer.numpy().data[: layout.size]]


class Background:
    """One job at a time in a thread of its own, which leaves processors and memory to whatever else wants them.

    A job is an iterator: each of its steps is a piece of the work. Whoever waits for it does what is left himself, so
    that on a busy machine nobody waits for a thread that comes last.

    Attributes:
        error: what the last job failed of in the background, until `wait` raises it.
    """

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self._job: Iterator[None] = iter(())
        self._thread: threading.Thread | None = None
        self._awaited = False

    @property
    def running(self) -> bool:
        """Whether the thread is at work."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, job: Iterator[None]) -> None:
        """Begin a job; the one before must have been waited for."""
        assert self._thread is None
        self._job, self._awaited = job, False
        # Not a daemon: Python does not exit before the job is done.
        self._thread = threading.Thread(target=self._run, name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Return when the job is done; raise what it failed of, once."""
        if self._thread is not None:
            self._awaited = True
            self._thread.join()
            self._thread = None
            for _ in self._job:  # nothing is left of one that was done, or failed
                pass
        if self.error is not None:
            error, self.error = self.error, None
            raise error

    def _run(self) -> None:
        if sys.platform == "linux":  # where a thread has a priority of its own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        try:
            for _ in self._job:
                if self._awaited:
                    return
                time.sleep(PAUSE)
        except BaseException as error:
            self.error = error
