import pytest
import torch

from accelerator.errors import ConfigError
from accelerator.utilities.memory import limit_gpu_memory, memory_limit


def test_what_is_given_comes_before_the_environment_and_that_before_24(monkeypatch):
    monkeypatch.delenv("ACCELERATOR_GPU_MEMORY_GB", raising=False)
    assert memory_limit() == 24
    monkeypatch.setenv("ACCELERATOR_GPU_MEMORY_GB", "8.5")
    assert memory_limit() == 8.5
    assert memory_limit(3) == 3
    assert memory_limit(0) == 0


@pytest.mark.parametrize(
    ("given", "variable", "message"),
    [
        (-1, None, "memory.limit_gb=-1: expected gigabytes, 0 for all"),
        (None, "lots", "ACCELERATOR_GPU_MEMORY_GB=lots: expected gigabytes"),
        (None, "nan", "ACCELERATOR_GPU_MEMORY_GB=nan"),
    ],
)
def test_what_is_no_size_is_told_with_where_it_stands(monkeypatch, given, variable, message):
    if variable is not None:
        monkeypatch.setenv("ACCELERATOR_GPU_MEMORY_GB", variable)
    with pytest.raises(ConfigError, match=message):
        memory_limit(given)


def test_the_limit_is_a_fraction_of_what_the_gpu_has(monkeypatch):
    class Properties:
        total_memory = 48e9

    told = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, device: told.append(share))
    assert limit_gpu_memory(12) == 12
    assert limit_gpu_memory(96) is None
    assert limit_gpu_memory(0) is None
    assert told == [0.25, 1.0]
