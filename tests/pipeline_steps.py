"""Pipelines of steps that do next to nothing, each in a process of its own."""

import json
import os
import time
from contextlib import suppress

import psutil

from accelerator.pipeline.plan import read
from accelerator.pipeline.process import forked
from accelerator.pipeline.run import Execution
from accelerator.pipeline.state import Folder
from accelerator.runtime.checkpoint.operation import write_bytes

CHAIN = {"a": {"run": "train"}, "b": {"run": "train", "needs": ["a"]}, "c": {"run": "train", "needs": ["b"]}}


class Quiet:
    def __init__(self):
        self.told = []

    def begins(self, step, verdict):
        self.told.append(("begins", step.name, verdict.reason))

    def says(self, step, line):
        self.told.append(("says", step.name, line))

    def ends(self, step, outcome):
        self.told.append(("ends", step.name, outcome.status))

    def waits(self, step):
        self.told.append(("waits", step.name))


def finish(folder, **metrics):
    """What every step does last."""
    write_bytes(folder / "result.json", json.dumps({"metrics": metrics, "at": time.time_ns()}).encode())


def execution(path, steps, acts=None, *, configs=None, listener=None, **options):
    """An execution whose steps call ``acts[name](folder)`` and then finish, unless that returned an exit code."""
    acts, configs = acts or {}, configs or {}
    more = {key: options.pop(key) for key in ("on_error", "parallel") if key in options}
    folder = Folder(path)

    def start(step, log, begun):
        def act():
            with open(path / "log", "a") as file:
                print("go on" if begun else "start", step.name, file=file)
            code = acts.get(step.name, lambda _: None)(log.parent)
            if code is None:
                finish(log.parent)
            return code or 0

        return forked(act, log)

    def own(step):
        return {"command": step.run, "config": configs.get(step.name, "")}

    path.mkdir(parents=True, exist_ok=True)
    return Execution(read("test", {"steps": steps, **more}), folder, own, start, listener or Quiet(), **options)


def statuses(execution):
    return {name: outcome.status for name, outcome in execution.outcomes.items()}


def started(path):
    """The steps that were started, in order, since the last call."""
    file = path / "log"
    lines = file.read_text().splitlines() if file.exists() else []
    file.unlink(missing_ok=True)
    return [line.removeprefix("start ") for line in lines]


def wait_until_gone(processes, seconds=30):
    """Whether all have ended; whoever adopted them may not have taken notice."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        living = []
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                living += [process] if process.status() != psutil.STATUS_ZOMBIE else []
        if not living:
            return True
        time.sleep(0.005)
    return False


def exit_with(code):
    return lambda folder: code


def kill_self(number):
    def act(folder):
        os.kill(os.getpid(), number)
        time.sleep(60)

    return act
