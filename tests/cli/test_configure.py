"""``accelerator configure``: packaged configs are copied to be edited, and what was edited stays."""

import json

import pytest

from accelerator.cli.app import main
from accelerator.cli.paths import packaged_configs
from accelerator.cli.project import configure

MLP = "configs/model/mlp.yaml"


def copied(folder):
    return {path.relative_to(folder / "configs").as_posix() for path in (folder / "configs").rglob("*.yaml")}


def test_chosen_options_and_whole_groups_are_copied(workplace, capsys):
    assert main(["configure", "model=mlp,cnn", "scheduler", "training_components/loss=mse"]) == 0
    schedulers = {
        f"training_components/scheduler/{path.name}"
        for path in (packaged_configs() / "training_components/scheduler").iterdir()
    }
    assert copied(workplace) == {"model/mlp.yaml", "model/cnn.yaml", "training_components/loss/mse.yaml"} | schedulers
    assert (workplace / MLP).read_bytes() == (packaged_configs() / "model/mlp.yaml").read_bytes()
    printed = capsys.readouterr().out
    assert f"{MLP}: copied\n" in printed
    assert "next: edit them; accelerator status  shows how they differ" in printed


def test_all_is_every_option_of_every_group(workplace):
    assert main(["configure", "--all"]) == 0
    root = packaged_configs()
    assert copied(workplace) == {path.relative_to(root).as_posix() for path in root.rglob("*/*.yaml")}
    assert main(["train", "--cfg", "job"]) == 0


def test_without_a_choice_the_groups_are_listed(workplace, capsys):
    assert main(["configure"]) == 0
    assert "\nmetrics             classification, field, language, none, regression\n" in capsys.readouterr().out
    assert list(workplace.iterdir()) == []


def test_what_was_edited_is_left_and_what_was_not_follows_the_package(workplace, capsys, monkeypatch, tmp_path):
    assert main(["configure", "model=mlp,cnn"]) == 0
    (workplace / MLP).write_text("name: mlp\nhidden: [3]\n")
    newer = tmp_path / "newer"
    (newer / "model").mkdir(parents=True)
    (newer / "main.yaml").write_bytes((packaged_configs() / "main.yaml").read_bytes())
    for name in ("mlp", "cnn"):
        (newer / f"model/{name}.yaml").write_text(f"name: {name}\n")
    monkeypatch.setattr(configure, "packaged_configs", lambda: newer)
    capsys.readouterr()
    assert main(["configure", "model"]) == 0
    printed = capsys.readouterr().out
    assert f"{MLP}: edited: left as it is" in printed
    assert "configs/model/cnn.yaml: copied anew: the packaged one has changed, and nobody had edited this" in printed
    assert "1 of 2 copied" in printed
    assert (workplace / MLP).read_text() == "name: mlp\nhidden: [3]\n"
    assert (workplace / "configs/model/cnn.yaml").read_text() == "name: cnn\n"


def test_what_add_has_written_is_no_copy_and_stays(workplace, capsys):
    assert main(["add", "loss", "huber", "--target", "torch.nn.SmoothL1Loss"]) == 0
    before = (workplace / "configs/training_components/loss/huber.yaml").read_text()
    capsys.readouterr()
    assert main(["configure", "loss=huber"]) == 0
    said = "huber.yaml: written by accelerator add: left as it is; remove it to have the packaged one\n\n0 of 1 copied"
    assert said in capsys.readouterr().out
    assert (workplace / "configs/training_components/loss/huber.yaml").read_text() == before


def test_what_is_remembered_is_the_digest(workplace):
    assert main(["configure", "model=mlp"]) == 0
    entry = json.loads((workplace / "configs/.generated.json").read_text())["model/mlp.yaml"]
    assert entry["by"] == "configure"
    assert len(entry["sha256"]) == 64


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["modle=mlp"], "modle=mlp: there is no group 'modle' — did you mean 'model'?"),
        (["model=mpl"], "model=mpl: no 'mpl' in configs/model/ — did you mean 'mlp'?"),
        (["optimizer=adm"], "no 'adm' in configs/training_components/optimizer/ — did you mean 'adam'"),
        (["model=../main"], "no '../main' in configs/model/"),
        (["model", "--all"], "--all copies everything: leave out model"),
    ],
)
def test_a_mistake_is_told_and_nothing_is_copied(workplace, capsys, arguments, said):
    assert main(["configure", *arguments]) == 3
    assert said in capsys.readouterr().err
    assert list(workplace.iterdir()) == []


def test_a_dry_run_copies_nothing(workplace, capsys):
    assert main(["configure", "main", "--dry-run"]) == 0
    assert "configs/main.yaml: would be copied" in capsys.readouterr().out
    assert list(workplace.iterdir()) == []
