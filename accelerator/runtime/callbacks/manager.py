"""Calls the callbacks: the lists are made once, so a hook nobody overrides costs nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from accelerator.runtime.callbacks.base import HOOKS, Callback

if TYPE_CHECKING:
    from accelerator.runtime.context.context import Context

Hook = Callable[["Context"], None]


class CallbackManager:
    """The callbacks of a run, by name.

    Attributes:
        hooks: for each moment of `HOOKS`, the bound methods to call, in order. The training loop walks these
            tuples itself at each step.
    """

    def __init__(self, callbacks: Mapping[str, Callback]) -> None:
        self.callbacks = dict(callbacks)
        inwards = sorted(self.callbacks.values(), key=lambda callback: callback.priority)
        self.hooks: dict[str, tuple[Hook, ...]] = {
            hook: tuple(
                getattr(callback, hook)
                for callback in (inwards if hook.endswith("_start") else reversed(inwards))
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
        states = {name: callback.state_dict() for name, callback in self.callbacks.items()}
        return {name: state for name, state in states.items() if state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Give each callback its state back; a callback that was added since starts afresh."""
        for name, callback in self.callbacks.items():
            if name in state:
                callback.load_state_dict(state[name])
