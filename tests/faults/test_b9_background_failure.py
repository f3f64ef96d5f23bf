"""Row B9: a checkpoint that cannot be written in the background is told by the next step, at the latest at the end."""

import threading

import pytest
import torch
from run_outcomes import At, saved_steps, send

from accelerator.errors import CheckpointError
from accelerator.runtime.callbacks.base import Callback
from accelerator.runtime.checkpoint import checkpoint_handler
from accelerator.runtime.checkpoint.checkpoint_handler import CheckpointHandler
from accelerator.runtime.run import execute

FACTS = {"epoch": 0, "level": 0, "work": 0.0, "metrics": {}, "fingerprint": "f", "versions": {}, "commit": None}


@pytest.fixture
def full_from(monkeypatch):
    """A function: from the checkpoint of this step on, the disk is full."""
    write = checkpoint_handler.write_steps

    def make(step):
        def full(path, parts):
            if int(path.stem.removeprefix("step-")) >= step:
                raise CheckpointError(f"could not write {path}: No space left on device")
            return write(path, parts)

        monkeypatch.setattr(checkpoint_handler, "write_steps", full)

    return make


class Steps(Callback):
    """Counts the steps, and gives a write in the background the time to fail before each ends."""

    priority = 5

    def __init__(self):
        self.done = 0

    def step_end(self, context):
        self.done = context.state.step
        for thread in threading.enumerate():
            if thread.name == "checkpoint":
                thread.join()


def save(handler, step):
    return handler.save({"w": torch.ones(3)}, step=step, **FACTS)


@pytest.mark.parametrize(("failing", "last"), [(3, 4), (5, 6)])
def test_b9_the_run_ends_at_the_next_step(tiny_config, tmp_path, full_from, failing, last):
    full_from(failing)
    config = tiny_config(trainer={"max_epochs": 4}, checkpoint={"every_steps": 5})
    steps = Steps()
    with pytest.raises(CheckpointError, match=f"could not write .*step-{failing:08d}.*No space left"):
        execute(config, tmp_path, callbacks={"steps": steps})
    assert steps.done == last
    assert saved_steps(tmp_path) == [3][: failing - 3]


@pytest.mark.parametrize("tested", [True, False])
def test_b9_a_last_write_that_fails_fails_the_run(tiny_config, tmp_path, full_from, tested):
    full_from(6)
    config = tiny_config(trainer={"max_epochs": 2, "test": tested})
    with pytest.raises(CheckpointError, match="could not write .*step-00000006"):
        execute(config, tmp_path)
    assert saved_steps(tmp_path) == [3]


def test_b9_a_stopped_run_that_could_not_be_saved_does_not_say_it_was(tiny_config, tmp_path, full_from):
    full_from(5)
    with pytest.raises(CheckpointError, match="could not write .*step-00000005"):
        execute(tiny_config(), tmp_path, callbacks={"signal": At("after_backward", send(), number=5)})
    assert saved_steps(tmp_path) == [3]


def test_b9_beside_another_error_it_is_a_note(tiny_config, tmp_path, full_from):
    full_from(3)

    def broken(context):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        execute(tiny_config(), tmp_path, callbacks={"broken": At("epoch_start", broken, number=2)})
    assert ["could not write" in note for note in caught.value.__notes__] == [True]


@pytest.mark.parametrize(
    "act",
    [
        lambda handler: handler.wait(),
        lambda handler: save(handler, 3),
        lambda handler: handler.load_last(),
        lambda handler: handler.best(),
        lambda handler: handler.paths(),
    ],
    ids=["wait", "save", "load_last", "best", "paths"],
)
def test_b9_whatever_comes_next_tells_it_once(tmp_path, full_from, act):
    full_from(2)
    handler = CheckpointHandler(tmp_path)
    save(handler, 1)
    save(handler, 2)
    with pytest.raises(CheckpointError, match="step-00000002"):
        act(handler)
    assert handler.error is None
    assert [path.stem for path in handler.paths()] == ["step-00000001"]
