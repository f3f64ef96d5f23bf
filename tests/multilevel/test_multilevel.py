import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import accelerator.multilevel

WITH_EXAMPLES = ("", ".hierarchy", ".optimizer_state", ".schedule", ".trainer")


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_the_examples_in_the_documentation_run(module):
    torch.manual_seed(0)
    results = doctest.testmod(importlib.import_module(f"accelerator.multilevel{module}"))
    assert results.attempted >= 3
    assert results.failed == 0


def test_every_module_with_an_example_is_tested():
    package = Path(accelerator.multilevel.__file__).parent
    found = {
        f".{path.stem}" if path.stem != "__init__" else ""
        for path in package.glob("*.py")
        if ">>> " in path.read_text()
    }
    assert found == set(WITH_EXAMPLES)


def test_everything_the_package_offers_is_there_and_documented():
    for name in accelerator.multilevel.__all__:
        assert getattr(accelerator.multilevel, name).__doc__, name


def test_it_is_usable_without_the_platform():
    code = "import sys, accelerator.multilevel; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    platform = ("mlflow", "hydra", "omegaconf", "rich", "domain")
    ours = tuple(f"accelerator.{name}" for name in ("runtime", "tracking", "cli"))
    assert "accelerator.multilevel" in loaded
    assert [name for name in loaded if name.split(".")[0] in platform or name.startswith(ours)] == []
