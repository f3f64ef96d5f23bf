"""Row A6: SIGTERM at any moment: the step at hand is finished and saved, exit 143, and nothing is lost."""

import os
import random
import signal
import time

import pytest
from command_runs import (
    TRACKED,
    Ended,
    assert_goes_on_to,
    newest_step,
    run_with,
    said_in,
    start_with,
    status_in,
    wait_for,
    whole_run,
)
from forked_ranks import exit_code
from run_outcomes import points


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return whole_run(tmp_path_factory.mktemp("a6") / "whole")


def to_myself():
    os.kill(os.getpid(), signal.SIGTERM)


def while_written():
    """The signal comes when the second checkpoint is on the disk and has no name yet."""
    replace, calls = os.replace, []

    def interrupted(source, target, **options):
        if str(target).endswith(".safetensors"):
            calls.append(target)
            if len(calls) == 2:
                to_myself()
        replace(source, target, **options)

    os.replace = interrupted


# Where the signal comes, and the step that is saved then: two passes of three batches.
MOMENTS = {
    "first_batch": ({"after_backward": (1, to_myself)}, 1),
    "training": ({"after_backward": (5, to_myself)}, 5),
    "end_of_a_pass": ({"step_end": (3, to_myself)}, 3),
    "validation": ({"validation_start": (2, to_myself)}, 6),
    "before_a_save": ({"save_start": (2, to_myself)}, 2),
}


def assert_saved(ended, folder, step):
    assert ended.code == 143, ended.said
    assert "Traceback" not in ended.said
    assert f"stopped by SIGTERM; saved up to step {step}; go on with" in ended.said
    assert newest_step(folder) == points(folder, "train/loss")[-1][0] == step
    assert ended.seconds < 30


@pytest.mark.parametrize("moment", MOMENTS)
def test_a6_the_step_at_hand_is_saved_and_the_run_goes_on_from_it(tmp_path, whole, moment):
    faults, step = MOMENTS[moment]
    assert_saved(run_with(faults, tmp_path / "run"), tmp_path / "run", step)
    assert_goes_on_to(tmp_path / "run", whole)


def test_a6_while_a_checkpoint_is_written(tmp_path, whole):
    ended = run_with({}, tmp_path / "run", before=while_written)
    step = newest_step(tmp_path / "run")
    assert_saved(ended, tmp_path / "run", step)
    assert step >= 2  # training goes on while it is written
    assert_goes_on_to(tmp_path / "run", whole)


def say_so_and_wait(path, seconds=0.5):
    path.touch()
    time.sleep(seconds)


def terminate_group(faults, folder, *more, here, delay=0.0):
    """Send the signal to the run and its workers, as a batch system does, once the run has come to its fault."""
    begin = time.monotonic()
    pid = start_with(faults, folder, *more)
    wait_for(here)
    time.sleep(delay)
    os.killpg(pid, signal.SIGTERM)
    code = exit_code(pid)
    return Ended(code, said_in(folder).read_text(), time.monotonic() - begin)


# In the midst of a step, or while a worker makes a sample; it has made 12 when the run was built.
@pytest.mark.parametrize(
    ("at", "number"), [pytest.param("after_backward", 4, marks=pytest.mark.faults), ("sample", 14)]
)
def test_a6_loader_workers_get_it_too(tmp_path, whole, at, number):
    here, folder = tmp_path / "here", tmp_path / "run"
    faults = {at: (number, lambda: say_so_and_wait(here))}
    ended = terminate_group(faults, folder, "loader.workers=2", here=here)
    step = newest_step(folder)
    assert_saved(ended, folder, step)
    assert at == "sample" or step == 4
    assert_goes_on_to(folder, whole)


@pytest.mark.faults
def test_a6_the_record_says_killed(tmp_path):
    here, folder = tmp_path / "here", tmp_path / "run"
    faults = {"after_backward": (2, lambda: say_so_and_wait(here))}
    ended = terminate_group(faults, folder, *TRACKED, f"tracking.uri=sqlite:///{tmp_path}/mlflow.db", here=here)
    assert_saved(ended, folder, 2)
    assert status_in(tmp_path / "mlflow.db") == "KILLED"


@pytest.mark.faults
@pytest.mark.timeout(600)
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kills", [20])
def test_a6_at_any_moment(tmp_path, kills, workers, record_property):
    more = [f"loader.workers={workers}", "trainer.max_epochs=8"]
    whole, chance, slowest = whole_run(tmp_path / "whole", *more), random.Random(0), 0.0
    for kill in range(kills):
        here, folder = tmp_path / f"here-{kill}", tmp_path / f"run-{kill}"
        at, most = chance.choice([("after_backward", 24), ("save_start", 23), ("validation_start", 8)])
        faults = {at: (chance.randint(1, most), lambda here=here: say_so_and_wait(here, 0.2))}
        ended = terminate_group(faults, folder, *more, here=here, delay=chance.uniform(0, 0.25))
        assert_saved(ended, folder, newest_step(folder))
        assert_goes_on_to(folder, whole)
        slowest = max(slowest, ended.seconds)
    record_property("measured", f"0 steps lost, whole runs of at most {slowest:.1f} s")
