"""What the user sees while a run trains: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from accelerator.runtime.callbacks.base import Callback
from accelerator.utilities import distributed

if TYPE_CHECKING:
    from accelerator.runtime.context.context import Context


class Progress(Callback):
    """Shows stage, pass, losses, steps a second and the time left.

    Args:
        refresh: seconds between two redraws of the live line; a redraw costs about a millisecond.
        lines: least seconds between two lines for finished passes.
    """

    priority = 10
    critical = False  # a terminal that was closed is no reason to stop
    main_only = True

    def __init__(self, refresh: float = 0.1, lines: float = 0.5) -> None:
        self.refresh, self.lines = refresh, lines
        self.console = Console(highlight=False, soft_wrap=True)
        self._next = 0.0
        self._bars: Bars | None = None

    def run_start(self, context: Context) -> None:
        """Say what is about to be trained."""
        parameters = sum(p.numel() for p in context.levels[0].parameters())
        name = context.config["model"].get("name") or type(context.levels[0]).__name__
        self.console.print(
            f"{name}: {parameters:,} parameters on {self._machine(context)} · "
            f"{context.data.train.samples:,} training samples in {context.data.train.batches} batches"
        )
        if context.state.step:
            self.console.print(
                f"resumed after step {context.state.step:,}, {self._where(context)}, in {context.run_dir}"
            )
        elif context.config.get("load"):
            self.console.print(f"begins with the weights of {context.config['load']}")
        if len(context.levels) > 1:
            plan = ", ".join(
                f"{stage.steps} steps on level {stage.level} ({context.costs[stage.level]:.2f} WU each)"
                for stage in context.stages
            )
            self.console.print(f"schedule: {plan}")
        if self.console.is_terminal:
            self._bars = Bars(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[values]}"),
                TimeRemainingColumn(compact=True),
                console=self.console,
                auto_refresh=False,
                transient=True,
            )
            total = sum(stage.steps for stage in context.stages)
            self._task = self._bars.add_task("", total=total, completed=context.state.step, values="")
            self._bars.start()
        self._line_at = 0.0
        self._speed = 0.0
        self._clock, self._step = time.monotonic(), context.state.step

    def epoch_start(self, context: Context) -> None:
        """Speed is that of training: what was validated and saved in between does not count."""
        self._clock, self._step = time.monotonic(), context.state.step

    def step_end(self, context: Context) -> None:
        """Redraw, if it is time."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self.refresh
        self._measure(context, now)
        if self._bars is not None:
            assert context.loss is not None
            self._draw(context, f"loss {context.loss.item():.4g}")

    def epoch_end(self, context: Context) -> None:
        """One line for the pass, unless passes are so short that lines would flood."""
        now = time.monotonic()
        last = context.state.stage_step >= context.stages[context.state.stage].steps
        if now < self._line_at and not last:
            return
        self._line_at = now + self.lines
        self.console.print(self._line(context))

    def validation_start(self, context: Context) -> None:
        """Name what the wait is for."""
        self._measure(context, time.monotonic())
        if self._bars is not None:
            self._draw(context, "validating")

    def test_start(self, context: Context) -> None:
        """Name what the wait is for."""
        if self._bars is not None:
            self._draw(context, "testing")

    def run_end(self, context: Context) -> None:
        """Leave the terminal as it was."""
        if self._bars is not None:
            self._bars.stop()

    def _draw(self, context: Context, values: str) -> None:
        assert self._bars is not None
        self._bars.update(
            self._task,
            completed=context.state.step,
            description=self._where(context),
            values=f"{values} · {self._speed:,.0f} steps/s",
        )
        self._bars.refresh()

    def _measure(self, context: Context, now: float) -> None:
        if (steps := context.state.step - self._step) and now > self._clock:
            self._speed = steps / (now - self._clock)

    def _line(self, context: Context) -> str:
        metrics = context.state.metrics
        shown = {"train": metrics.get("train/epoch_loss")}
        if context.state.validated == context.state.step:
            shown |= {key: value for key, value in metrics.items() if key.startswith("val/")}
        values = "  ".join(f"{name} {value:.4g}" for name, value in shown.items() if value is not None)
        return f"{self._where(context)}  step {context.state.step:,}  {values}  {self._speed:,.0f} steps/s"

    @staticmethod
    def _machine(context: Context) -> str:
        engine, ranks = context.config["engine"], distributed.size()
        precision = str(engine.get("precision") or 32)
        parts = [
            str(context.engine.device),
            f"{ranks} ranks ({engine.get('strategy') or 'ddp'})" if ranks > 1 else "",
            precision if precision == "bf16" else f"fp{precision}" if precision != "32" else "",
        ]
        return ", ".join(filter(None, parts))

    @staticmethod
    def _where(context: Context) -> str:
        state, stages = context.state, context.stages
        stage = f"stage {state.stage + 1}/{len(stages)} level {context.level} · " if len(stages) > 1 else ""
        return f"{stage}epoch {state.epoch + (state.batch > 0)}"
