"""When a checkpoint is saved."""

from __future__ import annotations

from typing import TYPE_CHECKING

from accelerator.errors import CheckpointError, Terminated
from accelerator.runtime.callbacks.base import Callback
from accelerator.runtime.checkpoint.meta_handler import versions

if TYPE_CHECKING:
    from accelerator.runtime.context.context import Context


class CheckpointCallback(Callback):
    """Saves what the section ``checkpoint`` of the config asks for.

    That is every ``every_epochs`` passes and every ``every_steps`` steps; besides, whenever the monitored metric is
    better than ever, at the end of each stage, and when a signal stops the run. Files are written in the background;
    a write that fails ends the run at its next step. A run does not end before everything is on the disk.
    """

    priority = 0  # first in, last out: what is saved includes what all other callbacks did

    def run_start(self, context: Context) -> None:
        """Read the section ``checkpoint``, and what a run that goes on in its own folder has saved."""
        section = context.config["checkpoint"]
        self._epochs, self._steps = section["every_epochs"], section["every_steps"]
        # Every rank reads the folder now, while none can have written to it.
        own = context.checkpoints is not None and context.checkpoints.look()
        self._saved = _place(context) if own else (-1, -1)

    def step_end(self, context: Context) -> None:
        """Save inside a pass, if asked to; and always before a signal ends the run."""
        if context.checkpoints is not None and context.checkpoints.error is not None:
            context.checkpoints.wait()
        # A pass that just ended is saved by epoch_end, after its validation.
        inside = context.state.batch < context.data.train.batches
        if context.stop is not None or (self._steps is not None and inside and context.state.step % self._steps == 0):
            self._save(context)

    def epoch_end(self, context: Context) -> None:
        """Save a pass."""
        checkpoints, state = context.checkpoints, context.state
        measured = state.metrics if state.validated == state.step else {}
        due = state.epoch % self._epochs == 0
        if due or (checkpoints is not None and checkpoints.improves(measured, context.level)):
            self._save(context)

    def stage_end(self, context: Context) -> None:
        """Save a stage, unless a cycle goes on."""
        if context.at_boundary and self._saved != _place(context):
            self._save(context)

    def failed(self, context: Context) -> None:
        """Save the steps since the last save, if it was a signal: it can come while a pass is validated."""
        if isinstance(context.error, Terminated):
            if self._saved != _place(context):
                self._save(context)
            if context.checkpoints is not None:
                context.checkpoints.wait()

    def run_end(self, context: Context) -> None:
        """Wait for the last write; that it failed is told beside what else ended the run."""
        if context.checkpoints is None:
            return
        try:
            context.checkpoints.wait()
        except CheckpointError as error:
            if context.error is None:
                raise
            context.error.add_note(str(error))

    def _save(self, context: Context) -> None:
        if context.checkpoints is None:
            return
        state = context.state
        context.callbacks("save_start", context)
        context.checkpoints.save(
            context.state_dict(),
            step=state.step,
            epoch=state.epoch,
            level=context.level,
            work=state.work,
            metrics=dict(state.metrics) if state.validated == state.step else {},
            fingerprint=context.fingerprint,
            commit=context.commit,
            versions=versions(),
        )
        self._saved = _place(context)


def _place(context: Context) -> tuple[int, int]:
    """A stage without steps of its own may still have changed the network, by a correction."""
    return context.state.step, context.state.stage
