"""Ctrl-C and SIGTERM: finish the step, save, and leave; a second Ctrl-C leaves at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accelerator.runtime.context.context import Context


@contextmanager
def stop_on_signals(context: Context) -> Iterator[None]:
    """While inside, the first SIGTERM or SIGINT sets ``context.stop``; the second ends the process's Python at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, frame: Any) -> None:
        if context.stop is not None:
            raise KeyboardInterrupt
        context.stop = signal.Signals(number).name

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
