"""What has changed since the last run, in a line."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from accelerator.cli.app import main
from accelerator.cli.hydra_utils.logger import changes, since_the_last_run

BEFORE = {
    "seed": 0,
    "trainer": {"max_epochs": 20, "clip_norm": None},
    "model": {"name": "mlp", "hidden": [64, 64]},
    "scheduler": {"name": "cosine", "T_max": 20},
    "callbacks": {"progress": {"name": "progress"}},
    "data": {"api_key": "***"},
    "tracking": {"enabled": True},
}


def told(**sections):
    now = {**BEFORE, **sections}
    return list(changes(BEFORE, now, now))


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({}, []),
        ({"seed": 1}, ["seed 0 → 1"]),
        ({"trainer": {"max_epochs": 20, "clip_norm": 1.0}}, ["trainer.clip_norm null → 1.0"]),
        ({"model": {"name": "mlp", "hidden": [8]}}, ["model.hidden [64, 64] → [8]"]),
        ({"model": {"name": "cnn", "channels": [8], "kernel": 3}}, ["model mlp → cnn"]),  # that is what changed
        ({"callbacks": {}}, ["without callbacks.progress"]),
        ({"callbacks": {**BEFORE["callbacks"], "ema": {"name": "ema"}}}, ["with callbacks.ema"]),
        ({"tracking": {"enabled": False}}, []),  # where a run is recorded is no news
        ({"vars": {"a": 1}}, ["with vars"]),
    ],
)
def test_changes_in_words(sections, expected):
    assert told(**sections) == expected


def test_a_value_that_follows_another_is_no_change_of_its_own():
    now = {**BEFORE, "trainer": {"max_epochs": 5, "clip_norm": None}, "scheduler": {"name": "cosine", "T_max": 5}}
    unresolved = {**now, "scheduler": {"name": "cosine", "T_max": "${trainer.max_epochs}"}}
    assert list(changes(BEFORE, now, unresolved)) == ["trainer.max_epochs 20 → 5"]


def kept(folder, config, command="train"):
    folder.mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(config), folder / "config.yaml")
    (folder / "composition.yaml").write_text(f"command: {command}\n")


def test_the_last_training_counts_and_secrets_stay_hidden(tmp_path):
    day = tmp_path / "outputs/2026-11-26"
    now = {**BEFORE, "seed": 3, "data": {"api_key": "hush-hush"}}
    assert since_the_last_run(now, now, day / "12-00-00-0-1") is None  # there was none
    kept(tmp_path / "outputs/2026-11-25/23-00-00-0-1", {**BEFORE, "seed": 1})
    assert since_the_last_run(now, now, day / "12-00-00-0-1") == "since the last run: seed 1 → 3"
    kept(day / "10-00-00-0-1", {**BEFORE, "seed": 2})
    kept(day / "11-00-00-0-1", {**BEFORE, "seed": 9}, "evaluate")
    kept(day / "13-00-00-0-1", {**BEFORE, "seed": 9})  # begun later
    assert since_the_last_run(now, now, day / "12-00-00-0-1") == "since the last run: seed 2 → 3"
    assert since_the_last_run(now, now, tmp_path / "elsewhere/run") is None
    (day / "10-00-00-0-1/config.yaml").write_text("seed: [\n")
    assert since_the_last_run(now, now, day / "12-00-00-0-1") is None  # a record that cannot be read is passed over


def test_many_changes_are_counted(tmp_path):
    kept(tmp_path / "outputs/2026-11-25/1", {f"key{number}": 0 for number in range(9)})
    now = {f"key{number}": 1 for number in range(9)}
    told = since_the_last_run(now, now, Path(tmp_path / "outputs/2026-11-26/2"))
    assert told is not None
    assert told.endswith("key5 0 → 1 · and 3 more")


def test_a_run_tells_it_and_a_resumed_one_does_not(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = [
        *("train", "tracking=none", "engine.threads=1", "trainer.max_epochs=1", "data.train=16", "data.val=8"),
        *("data.test=8", "data.grid=8", "model=mlp", "model.hidden=[4]", "callbacks.progress=null"),
        "callbacks.pictures=null",
    ]
    assert main(run) == 0
    assert "since the last run" not in capsys.readouterr().out
    assert main([*run, "optimizer.lr=0.01"]) == 0
    assert "since the last run: optimizer.lr 0.001 → 0.01\n" in capsys.readouterr().out
    assert main([*run, "optimizer.lr=0.01"]) == 0
    assert "since the last run" not in capsys.readouterr().out
    assert main(["train", "load=last", "optimizer.lr=0.5"]) == 0
    assert "since the last run" not in capsys.readouterr().out
