"""What a run left in its folder, and whether two runs left the same."""

import os
import signal

import torch

from accelerator.runtime.callbacks.base import HOOKS, Callback
from accelerator.runtime.checkpoint.checkpoint_handler import CheckpointHandler
from accelerator.runtime.journal import read


class At(Callback):
    """Does ``action(context)`` at one hook, the n-th time it comes."""

    priority = 5

    def __init__(self, hook, action, *, number=1):
        self.number, self.seen, self.action = number, 0, action
        assert hook in HOOKS
        # The manager looks at the class: one of its own for each.
        self.__class__ = type("At", (At,), {hook: At._count})

    def _count(self, context):
        self.seen += 1
        if self.seen == self.number:
            self.action(context)


def send(number=signal.SIGTERM):
    return lambda context: os.kill(os.getpid(), number)


def points(folder, key=None):
    """(key, step, value) of every metric in the journal but the measured speed; (step, value) for one key."""
    lines = [line for line, _ in read(folder / "journal.jsonl")]
    found = [(line["key"], line["step"], line["value"]) for line in lines if "key" in line]
    if key is not None:
        return [(step, value) for name, step, value in found if name == key]
    return [point for point in found if not point[0].startswith("speed/")]


def last_state(folder):
    """The newest checkpoint's state, but for the length of the journal: measured speeds have more or fewer digits."""
    state, _, _ = CheckpointHandler(folder / "checkpoints").load_last()
    del state["journal"]
    return state


def saved_steps(folder):
    return [int(path.stem.removeprefix("step-")) for path in CheckpointHandler(folder / "checkpoints").paths()]


def equal(ours, theirs):
    if isinstance(ours, torch.Tensor):
        return torch.equal(ours, theirs)
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(equal(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list):
        return len(ours) == len(theirs) and all(map(equal, ours, theirs))
    return ours == theirs
