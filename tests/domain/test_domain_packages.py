import subprocess
import sys

from domain_members import packages


def imports(statement):
    """The top-level modules that a fresh interpreter has after ``statement``."""
    code = f"{statement}; import sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_listing_the_components_imports_nothing_heavy():
    loaded = imports("import " + ", ".join(packages()))
    assert not loaded & {"torch", "numpy", "scipy", "sklearn", "pandas", "kornia", "torchmetrics"}


def test_a_process_that_solves_poisson_problems_does_not_load_torch():
    loaded = imports("import domain.physics.data.poisson")
    assert "numpy" in loaded
    assert "torch" not in loaded
