"""The wheel, installed where no checkout is, trains from an empty directory."""

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def clean_environment(tmp_path_factory):
    """A virtual environment with the wheel in it; its dependencies are borrowed from this one to save the download."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT],
        check=True,
        capture_output=True,
    )
    (wheel,) = folder.glob("accelerator_platform-*.whl")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv/bin/python"
    subprocess.run([python, "-m", "pip", "install", "--no-deps", "--quiet", wheel], check=True)
    # A .pth file makes packages of this environment importable; the editable checkout is in a .pth of its own,
    # which is not followed from here.
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    (Path(site) / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "venv/bin"


def test_the_installed_wheel_trains_from_an_empty_directory(clean_environment, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    where = subprocess.run(
        [clean_environment / "python", "-c", "import accelerator; print(accelerator.__file__)"],
        cwd=empty,
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(clean_environment.parent) in where.stdout
    small = ["data.train=64", "data.val=16", "data.test=16", "data.grid=16", "model.hidden=[64,64]"]
    done = subprocess.run(
        [clean_environment / "accelerator", "train", "trainer.max_epochs=1", *small],
        cwd=empty,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "test/relative_l2" in done.stdout
    assert list(empty.glob("outputs/*/*/checkpoints/*.safetensors"))
    assert (empty / "mlflow.db").exists()


@pytest.mark.slow
def test_a_project_is_begun_and_trained_with_what_the_wheel_brings(clean_environment, tmp_path):
    def accelerator(*arguments, folder=tmp_path):
        done = subprocess.run(
            [clean_environment / "accelerator", *arguments], cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    accelerator("init", "mine")
    project = tmp_path / "mine"
    assert "component: mine.loss.scaled_error:scaled_error" in accelerator(
        "add", "loss", "scaled_error", "--force", folder=project
    )
    accelerator("add", "model", "net", "--new", folder=project)
    small = ["data.train=32", "data.val=8", "data.test=8", "data.grid=8", "trainer.max_epochs=1", "tracking=none"]
    assert "test/loss" in accelerator("train", "experiment=first", "model=net", *small, folder=project)
    counted = (
        "from accelerator.cli.project.component_index import packaged_entries; print(len(packaged_entries()) > 50)"
    )
    shown = subprocess.run([clean_environment / "python", "-c", counted], capture_output=True, text=True, check=True)
    assert shown.stdout == "True\n"


def test_a_projects_own_configs_extend_the_packaged_ones(clean_environment, tmp_path):
    (tmp_path / "configs/model").mkdir(parents=True)
    (tmp_path / "configs/model/tiny.yaml").write_text("name: mlp\nhidden: [3]\n")
    printed = subprocess.run(
        [clean_environment / "accelerator", "train", "model=tiny", "--cfg", "job"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "hidden:\n  - 3\n" in printed
    assert "name: poisson" in printed
