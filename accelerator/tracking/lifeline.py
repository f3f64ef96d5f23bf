"""How the uploader knows whether the training process lives, and that it does not outlive it for long."""

from __future__ import annotations

import os
import select
import signal
import time

OUTLIVES = 60  # seconds the uploader may go on after the training process has ended


class Lifeline:
    """Tells whether the training process lives.

    It is our parent and holds the other end of stdin: the pipe wakes us at once, the parent's id holds even where a
    process it forked has kept the pipe open.

    Args:
        parent: its process id; None means that there is nothing to wait for.
    """

    def __init__(self, parent: int | None) -> None:
        self.parent = parent
        self.cut = parent is None
        if parent is not None:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)

    def ended(self, wait: float = 0.0) -> bool:
        """Whether it is gone; looks for at most ``wait`` seconds."""
        if self.cut:
            time.sleep(wait)
            return True
        readable, _, _ = select.select([0], [], [], wait)
        if (readable and not os.read(0, 1)) or os.getppid() != self.parent:
            self._let_go()
        return self.cut

    def _let_go(self) -> None:
        self.cut = True
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)
        signal.alarm(OUTLIVES)  # ends us wherever we hang: what has not arrived is in the journal
