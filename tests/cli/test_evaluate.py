"""``accelerator evaluate``: the numbers of the training itself, on other splits, and on other data."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import accelerator
from accelerator.cli.app import main
from accelerator.cli.evaluate import EVALUATE
from accelerator.tracking import spool
from accelerator.utilities.base_registry import registry

DATA = {"train": 64, "val": 16, "test": 24, "grid": 8}
SMALL = [*(f"data.{name}={value}" for name, value in DATA.items()), "engine.threads=1"]
QUIET = ["tracking=none", "callbacks.pictures=null", "callbacks.progress=null"]
ID = "0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A cascade that kept averaged weights, of noisy inputs, whose best checkpoint is not its last."""
    folder = tmp_path_factory.mktemp("trained")
    options = ["model.hidden=[16,16]", "multilevel.levels=2", "trainer.max_epochs=4", "callbacks.ema.name=ema"]
    noise = ["transform.input.noise.name=noise", "metrics.mae.name=mae"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", *SMALL, *QUIET, *options, *noise, "hydra.run.dir=outputs/day/run"]) == 0
    return folder / "outputs/day/run"


@pytest.fixture(autouse=True)
def _here(run, monkeypatch):
    monkeypatch.chdir(run.parents[2])


def metrics(result):
    return json.loads((Path(result) / "result.json").read_text())["metrics"]


def test_the_test_split_gives_the_numbers_of_the_training_to_the_last_bit(run, tmp_path, capsys):
    assert main(["evaluate", f"load={run}", f"hydra.run.dir={tmp_path / 'evaluated'}"]) == 0
    trained = metrics(run)
    expected = {name: value for name, value in trained.items() if name.startswith("test/")}
    assert set(expected) == {"test/loss", "test/relative_l2", "test/mae"}
    assert metrics(tmp_path / "evaluated") == expected
    result = json.loads((tmp_path / "evaluated/result.json").read_text())
    assert (result["best"], result["steps"], result["run_dir"]) == (None, 0, str(tmp_path / "evaluated"))
    assert "after" in (printed := capsys.readouterr().out)
    assert "checkpoints/step-" in printed
    files = {path.name for path in (tmp_path / "evaluated").iterdir()}
    assert {"config.yaml", "overrides.yaml", "journal.jsonl", "environment.yaml"} <= files


def test_the_validation_split_gives_those_of_the_best_checkpoint(run, tmp_path):
    assert main(["evaluate", f"load={run}", "evaluate.split=val", f"hydra.run.dir={tmp_path / 'new'}"]) == 0
    best = Path(json.loads((run / "result.json").read_text())["best"])
    saved = json.loads(best.with_suffix(".json").read_text())["metrics"]
    assert metrics(tmp_path / "new") == {name: value for name, value in saved.items() if name.startswith("val/")}


def test_the_training_split_is_measured_whole_and_without_noise(run, tmp_path):
    arguments = [f"load={run}", "evaluate.split=train", "loader.drop_last=true", f"hydra.run.dir={tmp_path / 'new'}"]
    found = EVALUATE(arguments).metrics
    inputs, targets = registry("data").get("poisson")(**DATA)["train"]
    error = (accelerator.load_model(run)(inputs) - targets).abs().mean()
    assert set(found) == {"train/loss", "train/relative_l2", "train/mae"}
    assert found["train/mae"] == pytest.approx(error.item(), rel=1e-6)


def test_other_data_is_seen_through_the_transforms_of_the_training(run, tmp_path):
    found = EVALUATE([f"load={run}", "data.seed=7", f"hydra.run.dir={tmp_path / 'new'}"]).metrics
    inputs, targets = registry("data").get("poisson")(**DATA, seed=7)["test"]
    error = (accelerator.load_model(run)(inputs) - targets).abs().mean()
    assert found["test/mae"] == pytest.approx(error.item(), rel=1e-6)


def test_other_metrics_may_be_asked_for_whatever_was_monitored(run, tmp_path):
    arguments = [f"load={run}", "~metrics.relative_l2", "metrics.mae=null", "metrics.mse.name=mse"]
    assert set(EVALUATE([*arguments, f"hydra.run.dir={tmp_path / 'new'}"]).metrics) == {"test/loss", "test/mse"}


@pytest.mark.slow
def test_labels_that_other_data_lacks_do_not_change_the_network(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labelled.py").write_text(
        "import torch\n"
        "def points(classes=4):\n"
        "    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))\n"
        "    split = (x, torch.arange(40) % classes)\n"
        "    return {'train': split, 'val': split, 'test': split}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    options = ["imports=[labelled]", "data=custom", "data._target_=labelled.points", "loss=cross_entropy"]
    options += ["metrics=classification", "transform=none", "model=mlp", "trainer.max_epochs=1", "engine.threads=1"]
    assert main(["train", *options, *QUIET]) == 0
    assert set(EVALUATE(["load=last", "data.classes=2"]).metrics) == {"test/loss", "test/accuracy"}


def test_the_record_tells_what_was_measured(run, tmp_path):
    spool.save(run / spool.STATE, spool.State(run_id=ID))
    try:
        assert main(["evaluate", f"load={ID[:8]}", f"hydra.run.dir={tmp_path / 'new'}"]) == 0
    finally:
        (run / spool.STATE).unlink()
    lines = [json.loads(line) for line in (tmp_path / "new/journal.jsonl").read_text().splitlines()]
    assert {line["key"] for line in lines if "key" in line} == {"test/loss", "test/relative_l2", "test/mae"}
    assert {"load.run_id": ID} in [line["values"] for line in lines if line.get("event") == "tags"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "accelerator evaluate works on a trained network: name it with load=last"),
        (["load=RUN", "acceleration=prune"], "acceleration=prune is for accelerator accelerate"),
        (["load=RUN", "hydra.run.dir=RUN"], "outputs/day/run holds a run of accelerator train: set hydra.run.dir to"),
        (["load=RUN", "--dry-run"], "accelerator evaluate has no --dry-run"),
    ],
)
def test_a_mistake_is_told_in_a_sentence_and_leaves_no_folder(run, arguments, told, capsys):
    before = set(run.parents[1].rglob("*"))
    assert main(["evaluate", *(a.replace("RUN", str(run)) for a in arguments)]) == 3
    printed = capsys.readouterr().err
    assert told in printed
    assert "Traceback" not in printed
    assert set(run.parents[1].rglob("*")) == before


@pytest.mark.parametrize("command", ["evaluate", "accelerate"])
def test_help_imports_nothing_that_trains(command):
    code = (
        f"import sys\nfrom accelerator.cli.app import main\nmain(['{command}', '--help'])\n"
        "print({'torch', 'hydra', 'omegaconf', 'mlflow'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
    assert f"usage: accelerator {command} load=RUN" in done.stdout
