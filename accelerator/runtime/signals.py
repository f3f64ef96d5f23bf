"""Ctrl-C and SIGTERM: finish the step, save, and leave; a second Ctrl-C leaves at once."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from accelerator.utilities import distributed

ECHO = 1.0  # seconds


class Stoppable(Protocol):
    """What can be asked to stop: a training's context.

    Attributes:
        asked: why it was asked to; None if it was not.
    """

    asked: str | None

    def ask_to_stop(self, reason: str) -> None:
        """Stop soon; called inside a signal handler."""
        ...


@contextmanager
def stop_on_signals(context: Stoppable) -> Iterator[None]:
    """While inside, the first SIGTERM or SIGINT asks the run to stop; the second ends the process's Python at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    first = 0.0

    def ask(number: int, frame: Any) -> None:
        nonlocal first
        now, asked = time.monotonic(), context.asked in signal.Signals.__members__
        # A rank hears of one Ctrl-C twice: from the terminal, and from the process that started it.
        if asked and not (distributed.size() > 1 and now - first < ECHO):
            raise KeyboardInterrupt
        if not asked:
            first = now
            context.ask_to_stop(signal.Signals(number).name)

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
