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
    """Ends the training after ``patience`` validations of the full network without improvement.

    Args:
        monitor: the metric watched.
        patience: validations without improvement before the end.
        min_delta: an improvement smaller than this is none.
        mode: ``min`` or ``max``.
    """

    priority = 20

    def __init__(
        self, monitor: str = "val/loss", patience: int = 10, min_delta: float = 0.0, mode: str = "min"
    ) -> None:
        if mode not in ("min", "max"):
            raise ConfigError(f"mode={mode}: expected min or max")
        if patience < 1:
            raise ConfigError(f"patience={patience}: expected at least 1")
        self.monitor, self.patience, self.min_delta, self.mode = monitor, patience, min_delta, mode
        self.best, self.waited = math.inf, 0

    def run_start(self, context: Context) -> None:
        """A run that had stopped early does not go on when it is resumed."""
        if self.waited >= self.patience:
            context.finish_early = True

    def validation_end(self, context: Context) -> None:
        """Compare with the best so far; NaN counts as no improvement."""
        if context.level != 0:
            return
        value = context.state.metrics[self.monitor]
        value = value if self.mode == "min" else -value
        if value < self.best - self.min_delta:
            self.best, self.waited = value, 0
        else:
            self.waited += 1
            if self.waited >= self.patience:
                context.finish_early = True
                log.info(
                    "stopping early after step %d: %s was no better in %d validations than %.5g",
                    context.state.step,
                    self.monitor,
                    self.waited,
                    self.best if self.mode == "min" else -self.best,
                )

    def state_dict(self) -> dict[str, Any]:
        """Best value and validations waited."""
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on waiting."""
        self.best, self.waited = state["best"], state["waited"]
