"""A pipeline that is killed goes on: no finished step again, no unfinished one passed over."""

import os
import random
import signal
import time
from functools import partial

import psutil
import pytest
from command_runs import OVERRIDES, whole_run
from fault_parts import FAULTS
from forked_ranks import exit_code
from forked_runs import differences, outcome
from pipeline_steps import CHAIN, execution, started, statuses, wait_until_gone

from accelerator.cli.app import main
from accelerator.cli.pipeline import run as pipeline_run
from accelerator.pipeline.process import forked

LONGEST = 0.04  # seconds that a step takes


def kill(pid, chance):
    """Kill a pipeline; half of the time its steps at the same moment, as when the machine stops."""
    pipeline = psutil.Process(pid)
    pipeline.suspend()
    steps = pipeline.children(recursive=True)
    if chance.random() < 0.5:
        for step in steps:
            step.kill()
    pipeline.kill()
    os.waitpid(pid, 0)
    assert wait_until_gone(steps)


def sleep(seconds, folder):
    time.sleep(seconds)


def results(path):
    files = {name: path / name / "result.json" for name in CHAIN}
    return {name: file.read_bytes() for name, file in files.items() if file.exists()}


@pytest.mark.parametrize("kills", [3, pytest.param(30, marks=pytest.mark.faults)])
def test_a9_no_finished_step_is_redone_and_no_unfinished_one_skipped(kills, tmp_path, record_property):
    chance, finished, begin = random.Random(9), [], time.monotonic()
    for number in range(kills):
        path = tmp_path / str(number)
        acts = {name: partial(sleep, chance.uniform(0, LONGEST)) for name in CHAIN}
        pid = forked(lambda path=path, acts=acts: execution(path, CHAIN, acts).run() or 0, tmp_path / "said")
        time.sleep(chance.uniform(0, 6 * LONGEST))
        if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:  # it was too quick: nothing was killed
            assert exit_code(pid) == 0, (tmp_path / "said").read_text()
        else:
            kill(pid, chance)
        before = results(path)
        started(path)
        again = execution(path, CHAIN, acts)
        again.run()
        assert started(path) == [name for name in CHAIN if name not in before], f"kill {number}"
        assert statuses(again) == {name: "unchanged" if name in before else "done" for name in CHAIN}
        after = results(path)
        assert {name: after[name] for name in before} == before
        finished.append(len(before))
    if kills >= 30:
        assert set(finished) == {0, 1, 2, 3}, "the kills did not come at all moments"
        record_property("measured", f"0 steps redone, 0 skipped; {time.monotonic() - begin:.0f} s")


PIPELINE = """
# @package _global_
overrides:
{overrides}
steps:
  first: {{run: train}}
  second: {{run: train, load_from: first, overrides: [optimizer.lr=0.01]}}
"""


@pytest.mark.faults
def test_a9_a_training_that_was_killed_goes_on_from_its_checkpoint(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pipeline_run, "may_fork", lambda known: True)  # the faults are in this process's memory
    (tmp_path / "configs" / "pipeline").mkdir(parents=True)
    lines = "\n".join(f"  - '{override}'" for override in OVERRIDES)
    (tmp_path / "configs" / "pipeline" / "two.yaml").write_text(PIPELINE.format(overrides=lines).lstrip())
    folder = tmp_path / "pipelines" / "two"

    def run():
        code = main(["pipeline", "two", "tracking=none"])
        return code, capfd.readouterr().out

    # The 5th of 6 steps is a process's last: the first training is killed, and then has fewer than 5 left.
    monkeypatch.setitem(FAULTS, "step_end", (5, lambda: os.kill(os.getpid(), signal.SIGKILL)))
    assert run()[0] == 137
    assert not (folder / "first" / "result.json").exists()
    code, printed = run()
    assert code == 137
    assert "[1/2] first · train · goes on from its last checkpoint" in printed
    monkeypatch.delitem(FAULTS, "step_end")
    code, printed = run()
    assert code == 0
    assert "[1/2] first · done before, and nothing changed" in printed
    assert "[2/2] second · train · goes on from its last checkpoint" in printed
    assert differences(outcome(folder / "first"), whole_run(tmp_path / "whole")) == []
    tuned = whole_run(tmp_path / "tuned", f"load={folder / 'first'}", "optimizer.lr=0.01")
    assert differences(outcome(folder / "second"), tuned) == []
