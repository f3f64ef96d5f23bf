"""What a run's folder tells of how it was composed, and what is said when it has been damaged."""

import re

import pytest

from accelerator.cli.app import main
from accelerator.cli.run_files import config_in, overrides_in
from accelerator.errors import RunDirectoryError


def test_what_is_there_is_read(tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 1\ndata: {name: digits, path: '${oc.env:HOME}'}\n")
    (tmp_path / "overrides.yaml").write_text("- data=digits\n- seed=1\n")
    assert config_in(tmp_path) == {"seed": 1, "data": {"name": "digits", "path": "${oc.env:HOME}"}}
    assert overrides_in(tmp_path) == ["data=digits", "seed=1"]


def test_no_overrides_are_none(tmp_path):
    assert overrides_in(tmp_path) == []


DAMAGED = [b"- a\n", b"seed: [", b"\xff\xfe\x00", b""]


@pytest.mark.parametrize("content", DAMAGED[:3])
def test_a_damaged_config_is_told_with_its_file(tmp_path, content):
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(RunDirectoryError, match=re.escape(f"{tmp_path}/config.yaml is not as a run leaves it: ")):
        config_in(tmp_path)


@pytest.mark.parametrize("content", [b"seed: 1\n", b"- [1]\n", *DAMAGED[1:3]])
def test_damaged_overrides_are_told_with_their_file(tmp_path, content):
    (tmp_path / "overrides.yaml").write_bytes(content)
    with pytest.raises(RunDirectoryError, match=re.escape(f"{tmp_path}/overrides.yaml is not as a run leaves it: ")):
        overrides_in(tmp_path)


@pytest.mark.parametrize("content", DAMAGED)
def test_a_run_whose_config_is_damaged_is_not_gone_on_with(tmp_path, monkeypatch, capsys, content):
    monkeypatch.chdir(tmp_path)
    small = ["data=digits", "model=mlp", "model.hidden=[4]", "multilevel=single", "trainer.max_steps=1"]
    small += ["tracking=none", "loss=cross_entropy", "metrics=none", "transform=none", "callbacks.pictures=null"]
    assert main(["train", *small, "hydra.run.dir=run"]) == 0
    (tmp_path / "run" / "config.yaml").write_bytes(content)
    assert main(["train", "resume=run", "trainer.max_steps=2"]) == 3
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert "config.yaml is not as a run leaves it" in error or "this would change what it computes" in error
