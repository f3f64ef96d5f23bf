"""Kills processes with SIGKILL while they save one checkpoint after the other, and looks at what they leave.

Run as a script: torch is imported once, and every process is a fork of this one, so a kill is a real one and yet costs
no start-up. Each goes on in the folder the one before left, and tells through a pipe which saves are finished. Prints
one JSON line: the number of kills, how many came while a file was half-way, and every promise that was broken.
"""

import json
import os
import random
import signal
import struct
import sys
import time
import warnings
from pathlib import Path

import torch

from accelerator.errors import CheckpointError
from accelerator.runtime.checkpoint.checkpoint_handler import CheckpointHandler
from accelerator.runtime.checkpoint.meta_handler import sidecar
from accelerator.runtime.checkpoint.operation import remove_temporary

NUMBERS, KEEP, TOP_K = 1_000_000, 2, 2
REPORT = struct.Struct("qd")


def new_handler(folder):
    return CheckpointHandler(folder, keep=KEEP, top_k=TOP_K)


def save_for_ever(folder, pipe, chance):
    remove_temporary(folder)
    handler = new_handler(folder)
    step = handler.load_last()[1].step if handler.look() else 0
    while True:
        step, loss = step + 1, chance.random()
        facts = {"step": step, "epoch": 0, "level": 0, "work": 0.0, "metrics": {"val/loss": loss}}
        handler.save({"w": torch.full((NUMBERS,), float(step))}, fingerprint="", versions={}, **facts)
        handler.wait()
        os.write(pipe, REPORT.pack(step, loss))


def killed(folder, number, chance):
    """Fork a process, kill it; the saves it had finished."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            save_for_ever(folder, theirs, random.Random(number))
        finally:
            os._exit(1)
    os.close(theirs)
    with open(ours, "rb") as reports:
        first = reports.read(REPORT.size)  # from here on it is in one save or the next
        time.sleep(chance.uniform(0.0, 0.1))
        os.kill(pid, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert code == -signal.SIGKILL, f"the saving process ended by itself: {code}"
        return list(REPORT.iter_unpack(first + reports.read()))


def broken(folder, finished):
    """The promises that what stands in the folder breaks, given all saves that were finished."""
    handler, newest = new_handler(folder), finished[-1][0]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # falling back from a damaged newer one is a warning
            state, meta, path = handler.load_last()
        found = [] if meta.step in (newest, newest + 1) else [f"last is {path.name}, {newest} was finished"]
        found += [] if bool((state["w"] == meta.step).all()) else [f"{path.name} holds another state"]
        whole = [handler.load(path)[1] for path in handler.paths()]
    except (CheckpointError, RuntimeWarning) as error:
        return [str(error)]
    kept = {meta.step: meta.metrics["val/loss"] for meta in whole}
    # One more may be finished than was told of, and may have taken the place of another.
    last = {newest, newest - 1} if newest + 1 not in kept else {newest, newest + 1}
    if missing := {step for step in last if step > 0} - kept.keys():
        found.append(f"of the newest {missing} are gone")
    seen = dict(finished) | kept
    if missing := set(sorted(seen, key=lambda step: seen[step])[:TOP_K]) - kept.keys():
        found.append(f"of the best {missing} are gone")
    return found


def main(folder, kills):
    folder.mkdir()
    torch.set_num_threads(1)
    chance = random.Random(0)
    finished, halfway, problems = [], 0, []
    for number in range(kills):
        finished += killed(folder, number, chance)
        files = [path for path in folder.iterdir() if path.suffix != ".json"]
        halfway += any(path.suffix == ".tmp" or not sidecar(path).exists() for path in files)
        problems += [f"kill {number}: {problem}" for problem in broken(folder, finished)]
    print(json.dumps({"killed": kills, "halfway": halfway, "broken": problems}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
