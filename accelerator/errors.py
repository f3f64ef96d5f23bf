"""The errors the platform raises, and the exit code each one means.

Exit codes: 0 done · 1 a fault of ours or of the user's code · 3 the user's config or data is wrong ·
143 terminated by a signal, after saving.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable
from difflib import get_close_matches


class AcceleratorError(Exception):
    """Base of every error raised on purpose by this package."""

    exit_code = 1


class UserError(AcceleratorError):
    """Something the user can mend: the message names the value, where it stands, and the remedy."""

    exit_code = 3


class ConfigError(UserError):
    """One or more mistakes in the configuration, reported together.

    Args:
        problems: one sentence (possibly of several lines) for each mistake.
    """

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class ConfigFileError(ConfigError):
    """A config file cannot be used as it stands; each mistake begins with the file and the line."""


class DataError(UserError):
    """The data cannot be used: missing, empty, not finite, or of shapes that do not fit."""


class CheckpointError(UserError):
    """A checkpoint is missing, damaged, or belongs to another configuration."""


class RunDirectoryError(UserError):
    """The run directory cannot be used: not writable, or another run owns it."""


class ServerError(AcceleratorError):
    """MLflow's server did not start, or gives no answer."""


class NonFiniteLossError(AcceleratorError):
    """The training loss became NaN or infinite."""


class DeviceMemoryError(AcceleratorError):
    """A step does not fit in the device's memory, however small its pieces."""


class RankError(AcceleratorError):
    """One of several ranks failed, was killed, or gave no answer."""


class StepError(AcceleratorError):
    """A step of a pipeline failed; the pipeline ends with the step's exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Terminated(AcceleratorError):  # noqa: N818 - not an error of anybody's
    """A signal asked the run to stop."""

    def __init__(self, signal_name: str) -> None:
        super().__init__(f"stopped by {signal_name}")
        self.signal_name = signal_name
        self.exit_code = 128 + signal.Signals[signal_name]


def gathered(*checks: Callable[[], object]) -> list[str]:
    """Every mistake that several checks raise as a `ConfigError`, so that they can be told together."""
    problems: list[str] = []
    for check in checks:
        try:
            check()
        except ConfigError as error:
            problems += error.problems
    return problems


def did_you_mean(word: str, known: Iterable[str], *, most: int = 3, show: int = 12) -> str:
    """The clause that ends an "unknown name" message: the nearest names, or all when few.

    Args:
        word: what was typed.
        known: what would have been right.
        most: how many near names to give.
        show: how many names to list when none is near; 0 lists none.

    Returns:
        ``" — did you mean 'mlp'?"``, else ``" — choose from: a, b, …"``, else ``""``.
    """
    known = sorted(set(known))
    folded = {name.lower(): name for name in known}
    if near := get_close_matches(word.lower(), folded, n=most, cutoff=0.6):
        return " — did you mean " + " or ".join(repr(folded[name]) for name in near) + "?"
    if not known or not show:
        return ""
    more = f", … ({len(known)} in all)" if len(known) > show else ""
    return " — choose from: " + ", ".join(known[:show]) + more
