"""Calls the callbacks: the lists are made once, so a hook nobody overrides costs nothing."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from accelerator.errors import AcceleratorError
from accelerator.runtime.callbacks.base import HOOKS, Callback

if TYPE_CHECKING:
    from accelerator.runtime.context.context import Context

Hook = Callable[["Context"], None]

log = logging.getLogger(__name__)


class CallbackManager:
    """The callbacks of a run, by name.

    An exception of a critical callback ends the run. One of another callback is reported once, as a warning, and that
    callback is skipped from then on; this package's own errors, which a user's mistake or a signal raises, end the run
    all the same.

    Args:
        callbacks: by the user's names for them.
        main: whether this is rank 0; on the others, callbacks that are ``main_only`` are left out.

    Attributes:
        callbacks: those of this rank.
        hooks: for each moment of `HOOKS`, what to call, in order: the bound methods of critical callbacks, and those of
            others behind a guard. The training loop walks these tuples itself at each step.
        skipped: names of the callbacks that failed.
    """

    def __init__(self, callbacks: Mapping[str, Callback], main: bool = True) -> None:
        self.callbacks = {name: callback for name, callback in callbacks.items() if main or not callback.main_only}
        self.skipped: set[str] = set()
        # What was saved of callbacks that this rank leaves out goes on through its own checkpoints.
        self._left_out = callbacks.keys() - self.callbacks.keys()
        self._kept: dict[str, Any] = {}
        inwards = sorted(self.callbacks.items(), key=lambda item: item[1].priority)
        self.hooks: dict[str, tuple[Hook, ...]] = {
            hook: tuple(
                getattr(callback, hook) if callback.critical else self._guarded(name, hook, callback)
                for name, callback in (inwards if hook.endswith("_start") else reversed(inwards))
                if getattr(type(callback), hook) is not getattr(Callback, hook)
            )
            for hook in HOOKS
        }

    def __call__(self, hook: str, context: Context) -> None:
        """Call one hook on every callback that has it."""
        for call in self.hooks[hook]:
            call(context)

    def state_dict(self) -> dict[str, Any]:
        """The states of all callbacks that have one, by name."""
        states = {name: callback.state_dict() for name, callback in self.callbacks.items() if name not in self.skipped}
        return {**self._kept, **{name: state for name, state in states.items() if state}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Give each callback its state back; a callback that was added since starts afresh."""
        self._kept = {name: state[name] for name in self._left_out if name in state}
        for name, callback in self.callbacks.items():
            if name in state:
                callback.load_state_dict(state[name])

    def _guarded(self, name: str, hook: str, callback: Callback) -> Hook:
        call: Hook = getattr(callback, hook)

        def guarded(context: Context) -> None:
            if name in self.skipped:
                return
            try:
                call(context)
            except AcceleratorError:
                raise
            except Exception as error:
                self.skipped.add(name)
                last = traceback.extract_tb(error.__traceback__)[-1]
                log.warning(
                    "callback %s failed in %s after step %d and is skipped from now on: %s: %s (%s, line %s)",
                    name,
                    hook,
                    context.state.step,
                    type(error).__name__,
                    error,
                    last.filename,
                    last.lineno,
                )

        return guarded
