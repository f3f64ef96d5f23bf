"""A run that has only so much time."""

from __future__ import annotations

import logging
import re
import time as clock
from typing import TYPE_CHECKING

from accelerator.errors import ConfigError
from accelerator.runtime.callbacks.base import Callback

if TYPE_CHECKING:
    from accelerator.runtime.context.context import Context

log = logging.getLogger(__name__)


class MaxTime(Callback):
    """Ends the run after so much time, at the end of a step, with everything saved.

    The time is that of this process, from its first step on: a resumed run has all of it again, so a job on a cluster
    is given the same limit each time. What comes after the last step (saving, at the most a validation and the test)
    is not counted: leave some room for it. The ranks of a run agree on the step; the first whose time is up decides.

    Args:
        time: ``HH:MM:SS``; in YAML in quotes.
        hours: added to it.
        minutes: added to it.
    """

    def __init__(self, time: str | None = None, hours: float = 0.0, minutes: float = 0.0) -> None:
        match = re.fullmatch(r"(\d+):([0-5]\d):([0-5]\d)", time or "0:00:00")
        if match is None:
            raise ConfigError(f"time={time}: expected HH:MM:SS, such as 01:30:00")
        for name, value in (("hours", hours), ("minutes", minutes)):
            if value < 0:
                raise ConfigError(f"{name}={value}: expected at least 0")
        whole = [int(part) for part in match.groups()]
        self.seconds = (whole[0] + hours) * 3600 + (whole[1] + minutes) * 60 + whole[2]
        if self.seconds <= 0:
            raise ConfigError("max_time has no time: set time=HH:MM:SS, hours or minutes")

    def run_start(self, context: Context) -> None:
        """Start the clock."""
        self._end = clock.monotonic() + self.seconds

    def step_end(self, context: Context) -> None:
        """Ask for the end, once."""
        if clock.monotonic() >= self._end:
            self._end = float("inf")
            log.info("the time is up (%.5g s) after step %d", self.seconds, context.state.step)
            context.ask_to_stop("max_time")
