"""The command `accelerator train` on a small problem with fragile parts, as a fork that a fault awaits."""

import os
import sqlite3
import time
from contextlib import closing
from typing import NamedTuple

import fault_parts
from forked_ranks import exit_code
from forked_runs import differences, outcome, start
from run_outcomes import saved_steps

from accelerator.cli.app import main

# 2 passes of 3 batches.
OVERRIDES = [
    *("imports=[fault_parts]", "data=custom", "data._target_=fault_parts.fragile", "model=custom"),
    *("model._target_=fault_parts.Fragile", "optimizer=sgd", "optimizer.lr=0.05", "scheduler=constant"),
    *("transform=none", "metrics=none", "tracking=none", "engine.threads=1", "engine.device=cpu"),
    *("callbacks.progress=null", "callbacks.pictures=null", "+callbacks.probe._target_=fault_parts.Probe"),
    *("loader.batch_size=8", "trainer.max_epochs=2", "checkpoint.every_steps=1"),
]
TRACKED = ["tracking.enabled=true", "tracking.experiment=faults"]


class Ended(NamedTuple):
    code: int
    said: str
    seconds: float


def command(folder, *more):
    return main(["train", *OVERRIDES, f"hydra.run.dir={folder}", *more])


def start_with(faults, folder, *more, before=lambda: None):
    """A fork, in a group of its own as a terminal or a batch system would start it."""

    def run():
        os.setsid()
        fault_parts.FAULTS.update(faults)
        before()
        return command(folder, *more)

    return start(run, said_in(folder))


def said_in(folder):
    return folder.with_name(f"{folder.name}.said")


def run_with(faults, folder, *more, before=lambda: None):
    begin = time.monotonic()
    code = exit_code(start_with(faults, folder, *more, before=before))
    return Ended(code, said_in(folder).read_text(), time.monotonic() - begin)


def whole_run(folder, *more):
    """What a run that nothing happens to computes."""
    assert command(folder, *more) == 0
    return outcome(folder)


def assert_goes_on_to(folder, expected):
    """Resumed without a fault, the run is the one that nothing happened to."""
    assert main(["train", f"resume={folder}"]) == 0
    assert differences(outcome(folder), expected) == []


def newest_step(folder):
    steps = saved_steps(folder)
    assert steps, said_in(folder).read_text()
    return steps[-1]


def status_in(database):
    """What the record says of its only run; MLflow's own client takes seconds to import."""
    with closing(sqlite3.connect(database)) as connection:
        ((status,),) = connection.execute("SELECT status FROM runs").fetchall()
    return status


def wait_for(path, seconds=60):
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not come"
        time.sleep(0.005)
