"""What takes seconds to make, once for all tests of a process; each takes a copy."""

import pytest
from model_helpers import empty_store, trained, with_model


@pytest.fixture(scope="session")
def plane_run(tmp_path_factory):
    """The folder of a run whose model has every format; nobody has recorded it."""
    run_dir = trained(tmp_path_factory.mktemp("plane") / "run")
    with_model(run_dir, ["safetensors", "pt2", "pickle"])
    return run_dir


@pytest.fixture(scope="session")
def empty(tmp_path_factory):
    """A store without runs."""
    return empty_store(tmp_path_factory.mktemp("empty"))
