"""Runs as forks of the test's own process: a kill is a real one, and yet costs no start-up."""

import faulthandler
import os
import random
import shutil
import signal
import sys
import time
import traceback
import warnings

import torch
from forked_ranks import RanksFailedError, exit_code
from run_outcomes import At, last_state, points, send

from accelerator.cli.compose.compose import composer, plain
from accelerator.runtime.checkpoint.checkpoint_handler import CheckpointHandler
from accelerator.runtime.run import check_config, dry_run, execute

_warm = set()


def composed(overrides):
    """The plain config of a run."""
    with composer() as compose:
        return plain(compose([*overrides, "tracking=none", "engine.threads=1"]))


def warm_up(config):
    """Import here, once, what a run imports late: each fork would spend seconds on it."""
    key = repr({name: section for name, section in config.items() if name not in ("callbacks", "checkpoint")})
    if key not in _warm:
        check_config(config)
        dry_run({**config, "loader": {**config["loader"], "workers": 0}})
        _warm.add(key)


def start(action, said):
    """Fork a process that does ``action()`` and exits with the code it returns; what it says goes to a file."""
    said.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forks of a process with threads: none of them is torch's
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            sys.stdout = sys.stderr = said.open("w", buffering=1)
            os.dup2(sys.stdout.fileno(), 1)
            os.dup2(sys.stdout.fileno(), 2)
            faulthandler.register(signal.SIGUSR1)
            code = action() or 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid


def trained(config, folder, **callbacks):
    """Train in a folder, from its newest checkpoint if it has one; in a fork, to the end of it or of the fork."""

    def run():
        checkpoints = folder / "checkpoints"
        resume = checkpoints if CheckpointHandler(checkpoints).paths() else None
        execute(config, folder, resume=resume, callbacks=callbacks)

    warm_up(config)
    folder.mkdir(parents=True, exist_ok=True)
    return start(run, said_in(folder))


def said_in(folder):
    return folder.with_name(f"{folder.name}.said")


def ended_well(pid, folder):
    try:
        code = exit_code(pid)
    except RanksFailedError as error:
        raise RanksFailedError(f"{error}\n{said_in(folder).read_text()}") from error
    assert code == 0, said_in(folder).read_text()


def outcome(folder):
    """Everything a run computed: its whole last state, and every point of its journal."""
    return {"state": last_state(folder), "journal": [list(point) for point in sorted(points(folder))]}


def differences(ours, theirs, path=""):
    """Where two outcomes differ: paths in them, none if they are equal to the last bit."""
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


def differing(config, folder, kills):
    """Kill runs with SIGKILL at random moments, resume them, and compare with an uninterrupted one.

    Half of the kills come right after a step, the others at any moment: in a step, a validation, or a save.
    """
    warm_up(config)
    begin = time.monotonic()
    ended_well(trained(config, folder / "whole"), folder / "whole")
    seconds = time.monotonic() - begin
    expected = outcome(folder / "whole")
    chance, found = random.Random(0), {}
    for number in range(kills):
        part = folder / f"killed-{number}"
        if number % 2:
            step = chance.randint(1, expected["state"]["state"]["step"] - 1)
            code = exit_code(trained(config, part, kill=At("step_end", send(signal.SIGKILL), number=step)))
        else:
            code, patience = 0, seconds
            while code == 0:  # a run that ended before its kill does not count
                shutil.rmtree(part, ignore_errors=True)
                pid = trained(config, part)
                time.sleep(chance.uniform(0.2, 0.95) * patience)
                os.kill(pid, signal.SIGKILL)
                code, patience = exit_code(pid), patience * 0.8
        assert code == -signal.SIGKILL, said_in(part).read_text()
        ended_well(trained(config, part), part)
        if different := differences(outcome(part), expected):
            found[number] = different[:5]
    return found
