import doctest
import subprocess
import sys

import pytest
import torch

import accelerator.multilevel
import accelerator.multilevel.schedule


@pytest.mark.parametrize("module", [accelerator.multilevel, accelerator.multilevel.schedule])
def test_the_examples_in_the_documentation_run(module):
    torch.manual_seed(0)
    results = doctest.testmod(module)
    assert results.attempted >= 3
    assert results.failed == 0


def test_it_is_usable_without_the_platform():
    code = "import sys, accelerator.multilevel; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    platform = ("mlflow", "hydra", "omegaconf", "rich", "domain")
    ours = tuple(f"accelerator.{name}" for name in ("runtime", "tracking", "cli"))
    assert "accelerator.multilevel" in loaded
    assert [name for name in loaded if name.split(".")[0] in platform or name.startswith(ours)] == []
