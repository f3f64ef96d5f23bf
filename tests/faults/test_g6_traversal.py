"""A path that leads upwards is refused wherever one is taken: names of configs and components, folders, files."""

import pytest

from accelerator.cli.app import main
from accelerator.cli.experiment import train
from accelerator.errors import ConfigError
from accelerator.tracking.mlflow_run import is_plain_path

SMALL = ["model=mlp", "model.hidden=[4]", "data.train=16", "data.val=8", "data.test=8", "data.grid=8", "tracking=none"]

CORPUS = [
    ["train", "model=../../secret"],
    ["train", "experiment=../../secret"],
    ["train", "loss=../loss/mse"],
    ["train", "--config-name", "../../secret"],
    ["train", "-cn=../../secret"],
    ["train", "--config-name=/etc/passwd"],
    ["train", "experiment=up"],
    ["train", *SMALL, "hydra.run.dir=../out"],
    ["train", *SMALL, "hydra.run.dir='outputs/../../out'"],
    ["train", *SMALL, "+hydra.run.dir=../out"],
    ["train", *SMALL, "experiment=folder"],
    ["train", *SMALL, "-m", "seed=1,2", "hydra.sweep.dir=../out"],
    ["train", *SMALL, "-m", "seed=1,2", "hydra.sweep.subdir=../../../out"],
    ["train", *SMALL, "checkpoint.filename=../../out"],
    ["pipeline", "../../secret"],
    ["pipeline", "digits", "hydra.run.dir=../out"],
    ["add", "loss", "../out"],
    ["add", "experiment", "../out", "seed=1"],
    ["add", "model", "net", "--target", "../secret.py:Net"],
    ["add", "domain", "../out"],
    ["configure", "model=../../secret"],
]


@pytest.fixture
def inside(workplace, monkeypatch):
    """A folder in a folder, which has nothing in it but this and secrets."""
    (workplace / "secret.yaml").write_text("name: mlp\nhidden: [7]\n")
    (workplace / "secret.py").write_text("class Net: ...\n")
    folder = workplace / "in/work"
    (folder / "configs/experiment").mkdir(parents=True)
    (folder / "configs/experiment/up.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /model: ../../../secret\n"
    )
    (folder / "configs/experiment/folder.yaml").write_text("# @package _global_\nhydra: {run: {dir: ../out}}\n")
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("arguments", CORPUS, ids=" ".join)
def test_g6_a_path_upwards_is_refused(inside, capsys, arguments):
    before = {path for path in inside.parents[1].rglob("*") if path.is_file()}
    assert main(arguments) == 3
    printed = capsys.readouterr()
    assert ".." in printed.err or "/etc/passwd" in printed.err, "what is refused is named"
    assert "Traceback" not in printed.err
    assert "- 7" not in printed.out
    assert {path for path in inside.parents[1].rglob("*") if path.is_file()} == before


def test_g6_python_refuses_it_too(inside):
    with pytest.raises(ConfigError, match=r"hydra.run.dir=../out leads upwards \(\.\.\)"):
        train([*SMALL, "hydra.run.dir=../out"])


def test_g6_a_folder_is_named_by_its_absolute_path(inside, tmp_path, capsys):
    run_dir = tmp_path / "elsewhere"
    assert main(["train", *SMALL, "trainer.max_steps=1", "engine.threads=1", f"hydra.run.dir={run_dir}"]) == 0
    assert (run_dir / "result.json").exists()


@pytest.mark.parametrize("place", ["../out", "a/../../out", "/etc", "..", "a/.."])
def test_g6_no_artifact_is_put_above_its_run(place):
    assert not is_plain_path(place)
    assert is_plain_path("plots/loss.png")


def test_g6_a_link_out_of_the_project_is_not_written_through(inside, tmp_path, capsys):
    (tmp_path / "elsewhere").mkdir()
    (inside / "configs/model").symlink_to(tmp_path / "elsewhere")
    for command in (["add", "model", "mlp"], ["configure", "model=mlp"], ["add", "model", "net", "--new"]):
        assert main(command) == 3
        assert "outside of the project" in capsys.readouterr().err
    assert list((tmp_path / "elsewhere").iterdir()) == []
