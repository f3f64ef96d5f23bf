"""Rows E1 to E5: what a run of several ranks survives, and how it ends when it cannot. Real processes over gloo."""

import os
import signal
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path

import pytest
import torch
from forked_ranks import exit_code, on_ranks, start_ranks
from run_outcomes import At, last_state, points, saved_steps

from accelerator.cli.compose.compose import composer, plain
from accelerator.errors import Terminated
from accelerator.runtime.callbacks.base import Callback
from accelerator.runtime.run import execute

TESTS = Path(__file__).parent.parent
RUN = ["experiment=digits", "model=mlp", "model.hidden=[16]"]
LONG = pytest.mark.faults


def ranks_config(make, **sections):
    engine = {"name": "vanilla_torch", "device": "cpu", "threads": 1, **sections.pop("engine", {})}
    return make(engine=engine, optimizer={"name": "Adam", "lr": 0.01}, **sections)


def on_rank(rank, hook, action, *, number):
    """A callback that acts on one rank only; on the others it counts and does nothing."""

    def act(context):
        if int(os.environ["RANK"]) == rank:
            action(context)

    return {"at": At(hook, act, number=number)}


def kill_self(number):
    return lambda context: os.kill(os.getpid(), number)


@pytest.mark.parametrize("rounds", [2, pytest.param(20, marks=LONG)])
def test_e1_when_a_rank_is_killed_the_others_end_within_5_s(tmp_path, tiny_config, rounds):
    for number in range(rounds):
        folder = tmp_path / str(number)
        folder.mkdir()
        victim = number % 2
        kill = on_rank(victim, "step_end", kill_self(signal.SIGKILL), number=1 + number % 5)
        pids = start_ranks(
            2, lambda rank, f=folder, k=kill: execute(ranks_config(tiny_config), f, callbacks=k), folder / "r"
        )
        assert exit_code(pids[victim]) == -signal.SIGKILL
        begin = time.monotonic()
        assert exit_code(pids[1 - victim]) == 1
        assert time.monotonic() - begin < 5


@LONG
def test_e1_the_rank_that_was_killed_is_named(tmp_path):
    """The whole command: exit code 1, one sentence, nothing left running, and a checkpoint to go on from."""
    done = launched(tmp_path, "rank_faults.Kill", "checkpoint.every_steps=2")
    assert done.returncode == 1, done.stderr
    assert "error: rank 1 of 2 was killed" in done.stderr
    assert "Traceback" not in done.stderr
    (run,) = tmp_path.glob("outputs/*/*")
    assert saved_steps(run)[-1] in (2, 4)


@pytest.mark.parametrize("timeout", [3])
def test_e2_a_frozen_rank_is_given_up_after_the_timeout(tmp_path, tiny_config, timeout):
    freeze = on_rank(1, "step_end", kill_self(signal.SIGSTOP), number=2)
    config = ranks_config(tiny_config, engine={"timeout": timeout})
    pids = start_ranks(2, lambda rank: execute(config, tmp_path, callbacks=freeze), tmp_path / "ranks")
    begin = time.monotonic()
    try:
        assert exit_code(pids[0]) == 1
        assert timeout - 1 < time.monotonic() - begin < timeout + 20  # start-up included
    finally:
        os.kill(pids[1], signal.SIGKILL)
        exit_code(pids[1])
    assert "imed out" in (tmp_path / "ranks" / "rank0.error").read_text()


@LONG
def test_e3_killed_ranks_start_again_and_lose_nothing(tmp_path):
    again = launched(tmp_path, "rank_faults.Kill", "checkpoint.every_steps=2", "engine.restarts=1")
    assert again.returncode == 0, again.stderr
    (run,) = tmp_path.glob("outputs/*/*")
    with composer() as compose:
        config = plain(compose([*RUN, "trainer.max_steps=8", "tracking=none", "engine.device=cpu", "engine.threads=1"]))
    whole = tmp_path / "whole"
    whole.mkdir()
    on_ranks(2, lambda rank: execute(config, whole).steps, whole / "ranks")
    assert points(run, "train/loss") == points(whole, "train/loss")


@LONG
@pytest.mark.timeout(1800)
def test_e3_twenty_restarts(tmp_path):
    for number in range(20):
        again = launched(tmp_path / str(number), "rank_faults.Kill", "checkpoint.every_steps=2", "engine.restarts=1")
        assert again.returncode == 0, again.stderr


@pytest.mark.parametrize(("hook", "number"), [("step_end", 1), ("step_end", 4), ("validation_start", 1)])
def test_e4_sigterm_to_one_rank_saves_the_same_step_on_all(tmp_path, tiny_config, hook, number):
    term = on_rank(1, hook, kill_self(signal.SIGTERM), number=number)
    config = ranks_config(tiny_config, trainer={"max_epochs": 6})

    def rank_main(rank):
        with pytest.raises(Terminated) as stopped:
            execute(config, tmp_path, callbacks=term)
        return stopped.value.exit_code, stopped.value.args[0]

    (code, text), other = on_ranks(2, rank_main, tmp_path / "ranks")
    assert (code, text) == other
    assert code == 143
    step = last_state(tmp_path)["state"]["step"]
    assert f"saved up to step {step}" in text
    assert step <= number + 8 or hook == "validation_start"
    # Nothing is lost: what goes on from there is the run that was never stopped.
    on_ranks(2, lambda rank: execute(config, tmp_path, resume=tmp_path / "checkpoints").steps, tmp_path / "again")
    (tmp_path / "whole").mkdir()
    on_ranks(2, lambda rank: execute(config, tmp_path / "whole").steps, tmp_path / "whole" / "ranks")
    assert points(tmp_path, "train/loss") == points(tmp_path / "whole", "train/loss")


class Rows(Callback):
    """Which samples this rank was given up to a step: the data tell them apart."""

    priority = 60

    def __init__(self, last=100):
        self.seen, self.last = [], last

    def step_end(self, context):
        if context.state.step <= self.last and getattr(context.batch, "weight", 1) > 0:
            self.seen += context.batch[1].flatten().tolist()


class Stop(Exception):  # noqa: N818
    pass


def stop(context):
    raise Stop


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 3), (2, 2)])
def test_e5_another_number_of_ranks_sees_every_sample_exactly_once(tmp_path, tiny_config, before, after):
    config = ranks_config(
        tiny_config,
        model={"name": "mlp", "hidden": [8], "dropout": 0.1},
        data={"name": None, "_target_": "toy_problem.plane", "samples": 37},
        loader={"batch_size": 5},
        trainer={"max_epochs": 1},
        checkpoint={"every_steps": 3},
    )

    def part(rank):
        rows = Rows(last=3)  # saved after this one
        with pytest.raises(Stop):
            execute(config, tmp_path, callbacks={"rows": rows, "stop": At("step_end", stop, number=4)})
        return rows.seen

    def rest(rank):
        rows = Rows()
        execute(config, tmp_path, resume=tmp_path / "checkpoints", callbacks={"rows": rows})
        return rows.seen

    seen = list(chain(*on_ranks(before, part, tmp_path / "before")))
    assert len(seen) == 15
    seen += chain(*on_ranks(after, rest, tmp_path / "after"))
    assert len(seen) == len(set(seen)) == 37


def test_e5_the_same_number_of_ranks_goes_on_to_the_last_bit(tmp_path, tiny_config):
    """Also what is random on each rank by itself: dropout."""
    config = ranks_config(
        tiny_config,
        model={"name": "mlp", "hidden": [8], "dropout": 0.3},
        trainer={"max_epochs": 3},
        checkpoint={"every_steps": 2},
    )
    (tmp_path / "whole").mkdir()
    (tmp_path / "part").mkdir()
    on_ranks(2, lambda rank: execute(config, tmp_path / "whole").steps, tmp_path / "whole" / "ranks")

    def part(rank):
        with pytest.raises(Stop):
            execute(config, tmp_path / "part", callbacks={"stop": At("step_end", stop, number=5)})

    on_ranks(2, part, tmp_path / "part" / "ranks")
    resume = tmp_path / "part" / "checkpoints"
    on_ranks(2, lambda rank: execute(config, tmp_path / "part", resume=resume).steps, tmp_path / "part" / "again")
    assert points(tmp_path / "part") == points(tmp_path / "whole")
    ours, theirs = last_state(tmp_path / "part"), last_state(tmp_path / "whole")
    assert len(ours["rng"]) == 2
    for name, weights in theirs["model"].items():
        assert torch.equal(ours["model"][name], weights)


def launched(folder, fault, *overrides):
    """`accelerator train` with two ranks in a folder of its own."""
    folder.mkdir(exist_ok=True)
    callback = [] if fault is None else ["imports=[rank_faults]", f"callbacks.fault._target_={fault}"]
    arguments = ["engine.devices=2", "engine.device=cpu", "trainer.max_steps=8", "tracking=none", *callback, *overrides]
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "accelerator", "train", *RUN, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
