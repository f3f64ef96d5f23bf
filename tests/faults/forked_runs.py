"""Kills training runs with SIGKILL at random moments, resumes them, and compares with an uninterrupted one.

Run as a script: torch is imported once, and every run is a fork of that process, so a kill is a real one and yet
costs no start-up. Prints one JSON line: how many runs were killed, and how some of them differed (an empty list if
none did).
"""

import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

import torch

from accelerator.cli.compose import composer, plain
from accelerator.runtime.callbacks.base import Callback
from accelerator.runtime.checkpoint.checkpoint_handler import CheckpointHandler
from accelerator.runtime.run import check_config, dry_run, execute

ERROR = Path(sys.argv[1]) / "error.txt"  # of the last fork that failed


class KillAt(Callback):
    priority = 5  # on the way out: after the progress, before the checkpoint

    def __init__(self, step):
        self.step = step

    def step_end(self, context):
        if context.state.step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def forked(action):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            with Path(os.devnull).open("w") as sys.stdout:
                action()
            code = 0
        except BaseException:
            ERROR.write_text(traceback.format_exc())
        finally:
            os._exit(code)
    return pid


def finished(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run(config, folder, **callbacks):
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints = folder / "checkpoints"
    resume = checkpoints if CheckpointHandler(checkpoints).paths() else None
    execute(config, folder, resume=resume, callbacks=callbacks)


def outcome(folder):
    """Everything a run computed: the whole last state, and every point of its journal."""
    state, _, _ = CheckpointHandler(folder / "checkpoints").load_last()
    lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    points = [(p["key"], p["step"], p["value"]) for p in lines if "key" in p and not p["key"].startswith("speed/")]
    state.pop("journal")
    return state, sorted(points)


def differences(ours, theirs, path=""):
    if isinstance(ours, torch.Tensor):
        return [] if torch.equal(ours, theirs) else [path]
    if isinstance(ours, dict):
        if ours.keys() != theirs.keys():
            return [f"{path}: keys"]
        return [d for key in ours for d in differences(ours[key], theirs[key], f"{path}/{key}")]
    if isinstance(ours, list):
        if len(ours) != len(theirs):
            return [f"{path}: {len(ours)} and {len(theirs)} entries"]
        return [d for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) for d in differences(a, b, f"{path}/{i}")]
    return [] if ours == theirs else [f"{path}: {ours} != {theirs}"]


def main(folder, kills, overrides):
    with composer() as compose:
        config = plain(compose([*overrides, "tracking=none", "engine.threads=1"]))
    chance = random.Random(0)
    # Everything that is imported late is imported before the forks; one thread leaves no pool to break by forking.
    torch.set_num_threads(1)
    check_config(config)
    dry_run(config)
    begin = time.monotonic()
    assert finished(forked(lambda: run(config, folder / "whole"))) == 0, ERROR.read_text()
    seconds = time.monotonic() - begin
    expected_state, expected_points = outcome(folder / "whole")
    steps = expected_state["state"]["step"]
    different = []
    for number in range(kills):
        part = folder / f"killed-{number}"
        if number % 2:
            step = chance.randint(1, steps - 1)
            code = finished(forked(lambda part=part, step=step: run(config, part, kill=KillAt(step))))
        else:  # at any moment: in a step, a validation, or a save
            code, patience = 0, seconds
            while code == 0:  # a run that ended before its kill does not count
                shutil.rmtree(part, ignore_errors=True)
                pid = forked(lambda part=part: run(config, part))
                time.sleep(chance.uniform(0.2, 0.95) * patience)
                os.kill(pid, signal.SIGKILL)
                code, patience = finished(pid), patience * 0.8
        assert code == -signal.SIGKILL, ERROR.read_text()
        assert finished(forked(lambda part=part: run(config, part))) == 0, ERROR.read_text()
        state, points = outcome(part)
        if found := differences(state, expected_state) + ([] if points == expected_points else ["journal"]):
            different.append({"run": number, "differences": found[:5]})
    print(json.dumps({"killed": kills, "different": different}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
