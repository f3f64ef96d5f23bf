"""Values of the config that change while a run trains: each change is looked at, and goes on record.

There is one: ``trainer.accumulate``, which a schedule or the engine changes (memory ran out), or a callback of the
user's own. What is *meant* to move is a metric and no config: the learning rate (callbacks.lr_monitor), the level.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from accelerator.errors import ConfigError

if TYPE_CHECKING:
    from accelerator.runtime.context.context import Context


def _pieces(value: Any) -> str | None:
    return None if isinstance(value, int) and value >= 1 else "expected a whole number of at least 1"


# By key: how it is read, and what is wrong with a value (None: nothing).
WATCHED: dict[str, tuple[Callable[[Context], Any], Callable[[Any], str | None]]] = {
    "trainer.accumulate": (lambda context: context.engine.accumulate, _pieces),
}


@dataclass
class Monitor:
    """Remembers the values; made when a run starts.

    Args:
        context: of the run.
    """

    context: Context
    values: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.values = {key: read(self.context) for key, (read, _) in WATCHED.items()}

    def look(self) -> None:
        """Take down what has changed since the last look.

        Raises:
            ConfigError: a value that no run can go on with.
        """
        for key, (read, wrong) in WATCHED.items():
            if (now := read(self.context)) == self.values[key]:
                continue
            step = self.context.state.step
            if (problem := wrong(now)) is not None:
                raise ConfigError(f"{key} became {now!r} in step {step}: {problem}; a callback has set it")
            if self.context.journal is not None:
                self.context.journal.event("change", name=key, was=self.values[key], now=now, step=step)
            self.values[key] = now
