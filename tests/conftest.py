"""What the tests of several folders share: a complete, tiny config."""

import copy
import sys
from functools import cache

import pytest
import torch

from accelerator.cli.compose.compose import composer, plain
from accelerator.runtime.context.component import is_component
from accelerator.utilities.base_registry import registries

torch.set_num_threads(1)

TINY = [
    "imports=[toy_problem]",
    "data=custom",
    "data._target_=toy_problem.plane",
    "model=mlp",
    "model.hidden=[4]",
    "multilevel=single",
    "optimizer=sgd",
    "optimizer.lr=0.05",
    "scheduler=constant",
    "transform=none",
    "~metrics.relative_l2",
    "tracking=none",
    "engine.threads=1",
    "loader.batch_size=8",
    "trainer.max_epochs=2",
    "~callbacks.progress",
    "~callbacks.pictures",
]


@pytest.fixture
def tiny_config():
    """A function that gives the plain config of a run of 2 passes over 20 samples in 3 batches (8, 8, 4).

    Its keyword arguments are sections. One that names a component replaces the section; any other is merged into it.
    """

    def make(**sections):
        config = copy.deepcopy(composed())
        for name, section in sections.items():
            if isinstance(section, dict) and not is_component(section):
                config[name].update(section)
            else:
                config[name] = section
        return config

    return make


@cache
def composed():
    with composer() as compose:
        return plain(compose(TINY))


@pytest.fixture(autouse=True)
def forgotten(tmp_path):
    """Modules that a test wrote into its folder and imported, and what they registered, are forgotten after it."""
    yield
    files = {name: str(getattr(module, "__file__", None)) for name, module in list(sys.modules.items())}
    gone = {name for name, file in files.items() if file.startswith(str(tmp_path))}
    if not gone:
        return
    for each in registries().values():
        for name, target in list(each._members.items()):
            module = target.partition(":")[0] if isinstance(target, str) else target.__module__
            if module in gone:
                del each._members[name]
    for name in gone:
        del sys.modules[name]
    sys.path_importer_cache.clear()


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """An empty folder to work in."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder
