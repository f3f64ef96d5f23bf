"""One learning-rate schedule over the whole budget of a run, whatever levels it is spent on."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from accelerator.errors import ConfigError
from accelerator.runtime.context.component import build, check

INTERVALS = ("epoch", "step")


class WorkScheduler:
    """A torch scheduler that is stepped by work done, not by calls.

    On the full network this is the usual stepping: once a step, or once an epoch. A step on a coarse level counts
    for the fraction of a step that it costs.

    Args:
        section: the config's ``scheduler`` section: a scheduler of torch and ``interval``.
        optimizer: whose learning rates are set.
        steps_per_epoch: full-network steps in one pass over the training split.
        total_steps: of the whole budget; offered to schedulers that ask for it.
        monitor: the metric a plateau scheduler watches.
        imports: the user's own packages, allowed in ``_target_``.

    Raises:
        ConfigError: the section does not fit the scheduler's signature.
    """

    def __init__(
        self,
        section: Mapping[str, Any],
        optimizer: Optimizer,
        *,
        steps_per_epoch: int,
        total_steps: int,
        monitor: str,
        imports: tuple[str, ...] = (),
    ) -> None:
        self._section = {key: value for key, value in section.items() if key != "interval"}
        self._imports, self._total, self.monitor = imports, total_steps, monitor
        self._unit = steps_per_epoch if interval_of(section) == "epoch" else 1
        self._ticks = 0
        self._waited = 0.0
        self._make(optimizer)
        self.next = self._due()

    def wait(self, work: float) -> None:
        """Let this much work go by without the schedule: it was done for no step."""
        self._waited += work
        self.next = self._due()

    def advance(self, work: float) -> None:
        """Step up to the work done so far (in work units); the loop calls it once ``work >= next``."""
        while work >= self.next:
            self._ticks += 1
            self.next = self._due()
            if not self._plateau:
                self.scheduler.step()

    def catch_up(self, work: float) -> None:
        """As `advance`, for work that was not done by steps of this optimizer."""
        with warnings.catch_warnings():
            # torch warns of a schedule that steps before its optimizer has.
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            self.advance(work)

    def validated(self, metrics: Mapping[str, float]) -> None:
        """Tell a plateau scheduler the new value of what it watches."""
        if self._plateau:
            if self.monitor not in metrics:
                raise ConfigError(
                    f"scheduler {self._section.get('name')} watches checkpoint.monitor={self.monitor}, which was not "
                    f"measured; measured were: {', '.join(sorted(metrics))}"
                )
            self.scheduler.step(metrics[self.monitor])  # pyright: ignore[reportCallIssue, reportArgumentType]

    def move_to(self, optimizer: Optimizer, factor: float = 1.0) -> None:
        """Go on with another level's optimizer, whose groups hold the current learning rates and momenta already.

        Args:
            optimizer: of the level.
            factor: what all learning rates, those to come too, are multiplied by.
        """
        state = self.scheduler.state_dict()
        if factor != 1:
            for group in optimizer.param_groups:
                for key in ("lr", "initial_lr", "max_lr", "min_lr"):
                    if key in group:
                        group[key] = group[key] * factor
            for key in ("base_lrs", "max_lrs", "_last_lr", "min_lrs"):
                if key in state:
                    state[key] = [rate * factor for rate in state[key]]
            if "eta_min" in state:
                state["eta_min"] *= factor
        # A new scheduler starts from the first learning rate, and some from the first momentum too.
        current = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
        self._make(optimizer)
        self.scheduler.load_state_dict(state)
        for group, values in zip(optimizer.param_groups, current, strict=True):
            group.update(values)

    def restart(self, optimizer: Optimizer, work: float) -> None:
        """Begin anew on an optimizer with fresh learning rates, and advance to the work done."""
        self._ticks, self._waited = 0, 0.0
        self.next = self._due()
        self._make(optimizer)
        self.catch_up(work)

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        state = {key: value for key, value in self.scheduler.state_dict().items() if _is_plain(value)}
        return {"ticks": self._ticks, "waited": self._waited, "scheduler": state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned; the optimizer's groups are restored by the optimizer's own state."""
        self._ticks, self._waited = state["ticks"], state.get("waited", 0.0)
        self.next = self._due()
        self.scheduler.load_state_dict(dict(state["scheduler"]))

    def _due(self) -> float:
        """The work at which the next step is due; infinite once the budget is spent."""
        if self._ticks * self._unit >= self._total:
            return math.inf
        # Fractions of a step add up with rounding: ten times 0.1 is less than 1.
        return (self._ticks + 1) * self._unit + self._waited - 1e-6

    def _make(self, optimizer: Optimizer) -> None:
        self.scheduler = build(
            "scheduler",
            self._section,
            "scheduler",
            imports=self._imports,
            optimizer=optimizer,
            total_steps=self._total // self._unit,
        )
        self._plateau = isinstance(self.scheduler, ReduceLROnPlateau)


def interval_of(section: Mapping[str, Any]) -> str:
    """``epoch`` or ``step``: the unit of work a scheduler is stepped by.

    Raises:
        ConfigError: it is neither.
    """
    interval = section.get("interval", "epoch")
    if interval not in INTERVALS:
        raise ConfigError(f"scheduler.interval={interval}: expected one of {', '.join(INTERVALS)}")
    return interval


def check_scheduler(section: Mapping[str, Any], imports: tuple[str, ...] = ()) -> list[str]:
    """Every mistake in the config's ``scheduler`` section."""
    try:
        interval_of(section)
    except ConfigError as error:
        return error.problems
    plain = {key: value for key, value in section.items() if key != "interval"}
    return check("scheduler", plain, "scheduler", offered=("optimizer",), imports=imports)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str | list | tuple | dict)
