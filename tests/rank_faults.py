"""Callbacks that harm one of several ranks; named in configs by their dotted path."""

import os
import signal
from pathlib import Path

from accelerator.runtime.callbacks.base import Callback


class Kill(Callback):
    """Rank 1 dies after step 5, once."""

    priority = 5

    def step_end(self, context):
        if context.state.step == 5 and os.environ["RANK"] == "1" and not Path("killed").exists():
            Path("killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)


class Raise(Callback):
    """Rank 1 raises after step 5."""

    def step_end(self, context):
        if context.state.step == 5 and os.environ["RANK"] == "1":
            raise ZeroDivisionError("a bug of the user's")
