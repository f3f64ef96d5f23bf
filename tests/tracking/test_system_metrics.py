"""How busy machine and training are, sampled beside the training."""

import os
import subprocess
import sys
import time

import pytest

from accelerator.tracking import system_metrics
from accelerator.tracking.system_metrics import SystemMetrics, Training

MACHINE = {
    "cpu_utilization_percentage",
    "system_memory_usage_megabytes",
    "system_memory_usage_percentage",
    "disk_usage_percentage",
    "disk_usage_megabytes",
    "disk_available_megabytes",
    "network_receive_megabytes",
    "network_transmit_megabytes",
}


@pytest.fixture
def clock(monkeypatch):
    """A monotonic clock the test moves; the time of day goes with it."""

    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

        def time(self):
            return 1.7e9 + self.now

    clock = Clock()
    monkeypatch.setattr(system_metrics, "time", clock)
    return clock


def of_a_run(clock, **options):
    """Of a run that began 100 s ago."""
    return SystemMetrics(**{"interval": 10.0, "started": int((clock.time() - 100) * 1000), "parent": 1} | options)


def test_samples_come_under_the_keys_that_mlflow_shows_and_their_step_is_the_age_of_the_run(clock):
    sampler = of_a_run(clock, parent=os.getpid())
    steps = []
    for _ in range(40):
        clock.now += 1
        sampler.sample_if_due()
    keys = {point["key"] for point in sampler.points}
    training = {"process_cpu_utilization_percentage", "process_memory_usage_megabytes"}
    assert keys >= {f"system/{name}" for name in MACHINE}
    assert all(key.startswith("system/") for key in keys)
    assert {f"system/{name}" for name in training} >= keys - {f"system/{name}" for name in MACHINE} - {
        key for key in keys if "gpu" in key
    }
    steps = sorted({point["step"] for point in sampler.points})
    assert steps == [105, 115, 125, 135]
    assert {point["time"] for point in sampler.points if point["step"] == 105} == {int((1.7e9 + 1005) * 1000)}


def test_a_sample_never_takes_a_step_that_an_earlier_uploader_has_used(clock):
    sampler = of_a_run(clock, last=400)  # the clock was set back while the run was away
    for _ in range(16):
        clock.now += 1
        sampler.sample_if_due()
    assert sorted({point["step"] for point in sampler.points}) == [401, 402]


def test_what_waits_for_a_store_is_bounded_and_the_newest_is_kept(clock, monkeypatch):
    monkeypatch.setattr(system_metrics, "MOST_POINTS", 50)
    sampler = of_a_run(clock)
    for _ in range(100):
        clock.now += 10
        sampler.sample_if_due()
    assert len(sampler.points) == 50
    assert sampler.points[-1]["step"] == 1100


def test_a_monitor_that_fails_is_dropped_and_told_once(clock, capsys):
    sampler = of_a_run(clock)

    class Broken:
        def collect_metrics(self):
            raise RuntimeError("the driver was unloaded")

    sampler._monitors.append(Broken())
    for _ in range(3):
        clock.now += 10
        sampler.sample_if_due()
    assert capsys.readouterr().out == "Broken measures no more: RuntimeError: the driver was unloaded\n"
    assert sorted({point["step"] for point in sampler.points}) == [110, 120, 130]


def test_the_training_is_measured_with_what_it_started_and_without_us():
    busy = "import subprocess, sys, time\nchild = subprocess.Popen([sys.executable, '-c', 'while True: pass'])\n"
    busy += "print('here', flush=True)\ntry:\n    sys.stdin.read()\nfinally:\n    child.kill()\n"
    process = subprocess.Popen([sys.executable, "-c", busy], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        process.stdout.readline()
        monitor = Training(process.pid)
        monitor.collect_metrics()
        time.sleep(0.5)
        monitor.collect_metrics()
        found = monitor.aggregate_metrics()
    finally:
        process.communicate()
    assert found["process_cpu_utilization_percentage"] > 5  # its own child's; it sleeps itself
    assert 5 < found["process_memory_usage_megabytes"] < 200  # two interpreters
    monitor.clear_metrics()
    monitor.collect_metrics()  # it is gone
    assert monitor.aggregate_metrics() == {}


def test_they_reach_the_store_beside_the_points_and_can_be_switched_off(tmp_path, monkeypatch):
    from record_helpers import fresh_store, metric_rows, prepare

    from accelerator.tracking import spool, uploader

    before = dict(os.environ)
    monkeypatch.setattr(uploader, "POLL", 0.01)
    monkeypatch.setattr(system_metrics, "FIRST", 0.0)
    store = fresh_store(tmp_path)

    class AtWork(uploader.Lifeline):
        def __init__(self):
            self.parent, self.asked = os.getpid(), 0

        def ended(self, wait=0.0):
            self.asked += 1
            return self.asked > 5

    try:
        for name, interval in (("with", 10.0), ("without", None)):
            journal = prepare(tmp_path / name, store, system_metrics=interval)
            journal.metric("loss", 1, 1)
            journal.close()
            settings = spool.load(tmp_path / name / spool.SETTINGS, spool.Settings)
            assert uploader.Uploader(tmp_path / name, settings, settings.uri, AtWork()).upload() == uploader.DONE
    finally:
        os.environ.clear()
        os.environ.update(before)
    keys = [key for key, _, _ in metric_rows(store, tmp_path / "with")]
    assert keys.count("system/cpu_utilization_percentage") == 1
    assert "loss" in keys
    assert [key for key, _, _ in metric_rows(store, tmp_path / "without")] == ["loss"]
