"""The moments of a run a callback can act at.

    run_start
    for each stage of the schedule:                      one level of the network, a number of steps
        stage_start
        for each pass over the training split, or what the stage leaves of it:
            epoch_start
            for each batch:
                loss = engine.forward_backward(batch)
                after_backward                           gradients are whole, nothing is clipped yet
                engine.optimizer_step()
                step_end
            if the pass is complete and it is time:
                validation_start
                for each validation batch: …
                validation_end                           context.state.metrics holds the new values
            epoch_end                                    only after a complete pass
        stage_end
    save_start                                           before each checkpoint, wherever it is made
    test_start, test_end                                 if there is a test split and trainer.test
    failed                                               only when an exception ends the run
    run_end                                              always

Callbacks run in order of ``priority``, smallest first, at every ``…_start``; in the reverse order everywhere
else. So the smallest priority comes in first and goes out last: the checkpoint is saved after all others acted.

On several ranks every rank calls its own callbacks. What decides (stop now, save now) must come out the same on all of
them: from metrics and counters, never from a clock or a disk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accelerator.runtime.context.context import Context

HOOKS = (
    "run_start",
    "stage_start",
    "epoch_start",
    "after_backward",
    "step_end",
    "validation_start",
    "validation_end",
    "epoch_end",
    "stage_end",
    "save_start",
    "test_start",
    "test_end",
    "failed",
    "run_end",
)


class Callback:
    """Base of all callbacks: every moment does nothing until it is overridden, and then costs nothing.

    Each hook gets the run's `Context`. What a callback must remember across a kill goes through
    ``state_dict`` and ``load_state_dict``: plain values and tensors only.

    Attributes:
        priority: smaller comes in earlier and goes out later.
        critical: its exceptions end the run; False for one the run can do without: it is reported and skipped.
        main_only: it acts on rank 0 alone, because it writes or prints; it must not wait for other ranks then.
    """

    priority: int = 50
    critical: bool = True
    main_only: bool = False

    def run_start(self, context: Context) -> None:
        """Before the first step, after resuming."""

    def stage_start(self, context: Context) -> None:
        """The network of the stage's level is in place (also after resuming inside the stage)."""

    def epoch_start(self, context: Context) -> None:
        """Before the first batch of a pass, or of what is left of it."""

    def after_backward(self, context: Context) -> None:
        """Gradients are whole; ``context.loss`` is the batch's loss."""

    def step_end(self, context: Context) -> None:
        """The counters include this step; ``context.batch`` and ``context.loss`` are its own."""

    def validation_start(self, context: Context) -> None:
        """Before the first validation batch."""

    def validation_end(self, context: Context) -> None:
        """``context.state.metrics`` holds the new values."""

    def epoch_end(self, context: Context) -> None:
        """After a complete pass and its validation."""

    def stage_end(self, context: Context) -> None:
        """The stage's last step is done."""

    def save_start(self, context: Context) -> None:
        """A checkpoint is about to be made: write down what was held back."""

    def test_start(self, context: Context) -> None:
        """The network to be tested is in place."""

    def test_end(self, context: Context) -> None:
        """``context.state.metrics`` holds the test's values."""

    def failed(self, context: Context) -> None:
        """An exception ends the run: ``context.error``."""

    def run_end(self, context: Context) -> None:
        """The run is over, well or not."""

    def state_dict(self) -> dict[str, Any]:
        """What to save; plain values and tensors."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
