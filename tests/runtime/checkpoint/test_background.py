import os
import sys
import threading

import pytest
import torch

from accelerator.errors import CheckpointError
from accelerator.runtime.checkpoint.background import NICE, Background, Snapshot
from accelerator.runtime.checkpoint.operation import encode


def test_a_snapshot_is_the_file_and_stays_as_it_was_taken():
    state = {"w": torch.randn(3, 4).t(), "step": torch.tensor(3), "z": torch.randn(2, dtype=torch.complex128)}
    expected = encode(state)
    parts = Snapshot().take(state)
    state["w"].zero_()
    assert b"".join(parts) == expected


def test_the_buffer_is_used_again_and_grows_when_it_must():
    snapshot = Snapshot()
    places = []
    for size in (1000, 10, 1000, 2000):
        snapshot.take({"w": torch.ones(size)})
        places.append(snapshot._buffer.data_ptr())
    assert places[0] == places[1] == places[2]
    assert snapshot._buffer.numel() == 8000


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_state_on_a_gpu_is_copied_through_pinned_memory():
    state = {"w": torch.randn(1000, 1000, device="cuda"), "b": torch.randn(3)}
    snapshot = Snapshot()
    expected = encode({name: tensor.cpu() for name, tensor in state.items()})
    parts = snapshot.take(state)
    state["w"].zero_()
    assert snapshot._buffer.is_pinned()
    assert b"".join(parts) == expected


def test_a_job_runs_beside_its_caller_and_is_waited_for():
    background, go, done = Background(), threading.Event(), []

    def job():
        yield
        done.append(go.wait(30))

    background.start(job())
    assert done == []
    assert background.running
    go.set()
    background.wait()
    assert done == [True]
    assert not background.running
    background.wait()


def test_left_alone_the_thread_does_it_all():
    background, threads = Background(), []

    def job():
        for _ in range(5):
            yield threads.append(threading.current_thread().name)

    background.start(job())
    background._thread.join(30)
    assert threads == ["checkpoint"] * 5


def test_whoever_waits_does_what_is_left():
    background, begun, threads = Background(), threading.Event(), []

    def job():
        begun.set()
        while not background._awaited:
            pass
        for _ in range(5):
            yield threads.append(threading.current_thread().name)

    background.start(job())
    begun.wait(30)
    background.wait()
    assert threads == ["checkpoint"] + [threading.current_thread().name] * 4


@pytest.mark.parametrize("left_alone", [True, False])
def test_what_a_job_fails_of_is_raised_once(left_alone):
    background = Background()

    def job():
        yield
        raise CheckpointError("the disk is full")

    background.start(job())
    if left_alone:
        background._thread.join()
        assert isinstance(background.error, CheckpointError)
    with pytest.raises(CheckpointError, match="the disk is full"):
        background.wait()
    assert background.error is None
    background.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities of their own on Linux only")
def test_the_job_gives_way_and_the_caller_does_not():
    background, seen = Background(), []

    def priority():
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    def job():
        yield seen.append(priority())

    before = priority()
    background.start(job())
    background._thread.join(30)
    assert seen == [NICE]
    assert priority() == before
