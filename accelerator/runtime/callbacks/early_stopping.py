"""Stop when a metric no longer gets better."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

from accelerator.errors import ConfigError
from accelerator.runtime.callbacks.base import Callback

if TYPE_CHECKING:
    from accelerator.runtime.context.context import Context


log = logging.getLogger(__name__)


class EarlyStopping(Callback):
    """Ends the training when the full network no longer gets better, is good enough, or is lost.

    The training ends after the validation at hand, well: saved and tested.

    Args:
        monitor: the metric watched.
        patience: validations without improvement before the end.
        min_delta: an improvement smaller than this is none.
        mode: ``min`` or ``max``.
        threshold: a value that is good enough; null: none is.
        stop_on_nan: whether a value that is NaN or infinite ends the training at once; otherwise it is no improvement.
    """

    priority = 20

    def __init__(
        self,
        monitor: str = "val/loss",
        patience: int = 10,
        min_delta: float = 0.0,
        mode: str = "min",
        threshold: float | None = None,
        stop_on_nan: bool = True,
    ) -> None:
        if mode not in ("min", "max"):
            raise ConfigError(f"mode={mode}: expected min or max")
        if patience < 1:
            raise ConfigError(f"patience={patience}: expected at least 1")
        if min_delta < 0:
            raise ConfigError(f"min_delta={min_delta}: expected at least 0")
        self.monitor, self.patience, self.min_delta, self.mode = monitor, patience, min_delta, mode
        self.threshold, self.stop_on_nan = threshold, stop_on_nan
        self.best, self.waited, self.stopped = math.inf, 0, False

    def run_start(self, context: Context) -> None:
        """A run that had stopped early does not go on when it is resumed."""
        context.finish_early |= self.stopped

    def validation_end(self, context: Context) -> None:
        """Compare with the best so far, and with what is good enough."""
        if context.level != 0:
            return
        measured = context.state.metrics[self.monitor]
        sign = 1 if self.mode == "min" else -1
        value = sign * measured
        if value < self.best - self.min_delta:
            self.best, self.waited = value, 0
        else:
            self.waited += 1
        why = None
        if self.stop_on_nan and not math.isfinite(measured):
            why = f"{self.monitor} is {measured}"
        elif self.threshold is not None and value <= sign * self.threshold:
            why = f"{self.monitor}={measured:.5g} has reached {self.threshold:.5g}"
        elif self.waited >= self.patience:
            why = f"{self.monitor} was no better in {self.waited} validations than {sign * self.best:.5g}"
        if why is not None:
            self.stopped = context.finish_early = True
            log.info("stopping early after step %d: %s", context.state.step, why)

    def state_dict(self) -> dict[str, Any]:
        """Best value, validations waited, and whether that was enough."""
        return {"best": self.best, "waited": self.waited, "stopped": self.stopped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on waiting."""
        self.best, self.waited = state["best"], state["waited"]
        self.stopped = state.get("stopped", self.waited >= self.patience)
