import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from run_outcomes import points

from accelerator.errors import ConfigError
from accelerator.runtime.callbacks import resources
from accelerator.runtime.callbacks.base import Callback
from accelerator.runtime.callbacks.resources import MIB, Memory
from accelerator.runtime.run import execute


@pytest.mark.parametrize(("every", "steps"), [(None, [3, 6]), (2, [2, 4, 6]), (4, [4])])
def test_memory_is_looked_at_each_pass_or_every_so_many_steps(tiny_config, tmp_path, every, steps):
    execute(tiny_config(callbacks={"memory": {"name": "memory", "every": every}}), tmp_path)
    for key in ("memory/process_peak", "memory/cpu_percent"):
        assert [step for step, _ in points(tmp_path, key)] == steps, key


def test_what_is_resident_is_counted_in_mib(tiny_config, tmp_path):
    held = []

    class Holds(Callback):
        def run_start(self, context):
            held.append(torch.ones(200 * MIB // 4))

    execute(tiny_config(callbacks={"memory": {"name": "memory"}}), tmp_path, callbacks={"holds": Holds()})
    peak = points(tmp_path, "memory/process_peak")[-1][1]
    with open("/proc/self/status") as status:
        known = next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))
    assert 200 < peak <= known * 1.01
    held.clear()


def test_a_busy_process_uses_its_core(monkeypatch):
    now = [0.0, 0.0]
    monkeypatch.setattr(resources.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(resources.time, "process_time", lambda: now[1])
    memory = Memory()
    memory.run_start(None)
    now[:] = [10.0, 25.0]
    assert memory._measure(torch.device("cpu"))["memory/cpu_percent"] == 250
    now[:] = [20.0, 26.0]
    assert memory._measure(torch.device("cpu"))["memory/cpu_percent"] == 10


def test_psutil_says_what_is_resident_now(monkeypatch):
    psutil = ModuleType("psutil")
    psutil.Process = lambda: SimpleNamespace(memory_info=lambda: SimpleNamespace(rss=3 * MIB))
    monkeypatch.setitem(sys.modules, "psutil", psutil)
    monkeypatch.setattr(resources, "find_spec", lambda name: name == "psutil" or None)
    memory = Memory()
    memory.run_start(None)
    assert memory._measure(torch.device("cpu"))["memory/process"] == 3


@pytest.mark.gpu
def test_memory_of_a_gpu_is_that_of_its_tensors():
    memory = Memory()
    memory.run_start(None)
    before = memory._measure(torch.device("cuda"))
    held = torch.zeros(100 * MIB, dtype=torch.uint8, device="cuda")
    after = memory._measure(torch.device("cuda"))
    assert after["memory/gpu_allocated"] - before["memory/gpu_allocated"] == pytest.approx(100)
    assert after["memory/gpu_peak"] >= after["memory/gpu_allocated"]
    assert after["memory/gpu_reserved"] >= after["memory/gpu_allocated"]
    del held


def test_an_interval_below_one_is_told():
    with pytest.raises(ConfigError, match="every=0: expected at least 1"):
        Memory(every=0)


class Clock(Callback):
    """Step n takes n seconds, a validation a thousand; a batch is waited for half a second."""

    priority = 60

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(resources.time, "perf_counter", lambda: self.now)

    def run_start(self, context):
        feed = context.data.train
        epoch = feed.epoch

        def slow(*args):
            for batch in epoch(*args):
                self.now += 0.5
                yield batch

        feed.epoch = slow

    def after_backward(self, context):
        self.now += context.state.step + 1

    def validation_start(self, context):
        self.now += 1000

    def stage_end(self, context):
        self.now += 1000


def test_steps_are_timed_from_one_to_the_next_without_validation(tiny_config, tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    clock.priority = 30  # its feed is the one that is timed
    config = tiny_config(trainer={"test": False}, callbacks={"step_time": {"name": "step_time"}, "throughput": None})
    execute(config, tmp_path, callbacks={"clock": clock})
    for key, expected in {
        "median": [(3, 2.5), (6, 5.5)],
        "p95": [(3, 2.5 + 0.9), (6, 5.5 + 0.9)],
        "longest": [(3, 3.5), (6, 6.5)],
        "data_wait": [(3, 0.5), (6, 0.5)],
    }.items():
        found = points(tmp_path, f"step_time/{key}")
        assert found == [(step, pytest.approx(value)) for step, value in expected], key
