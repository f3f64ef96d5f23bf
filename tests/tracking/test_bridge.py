import json
import os
import re
import subprocess
import sys
from importlib.metadata import distributions, version

import psutil
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from accelerator.tracking import bridge, provenance
from accelerator.tracking.limits import KEY_LENGTH, PARAM_LENGTH, TAG_LENGTH, cut, legal_key, unique_keys

CANARY = "CANARY-7f3a"


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    git(tmp_path, "init", "-b", "trunk")
    (tmp_path / "code.py").write_text("x = 1\n")
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "-m", "first")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_config_becomes_dotted_params():
    params, changed = bridge.to_params(
        {"model": {"width": 64, "layers": [64, 32], "more": {}}, "seed": None, "on": True}
    )
    assert params == {
        "model.width": "64",
        "model.layers": "[64, 32]",
        "model.more": "{}",
        "seed": "None",
        "on": "True",
    }
    assert changed == []


def test_what_does_not_fit_is_made_to_fit_and_named():
    config = {"a[0]": 1, "a(0)": 2, "long": "x" * 20_000, "a.b": 1, "a": {"b": 2}, "Größe": 3}
    description = bridge.describe(config, argv=["accelerator"])
    assert description.params["a_0_"] == "1"
    assert [value for key, value in description.params.items() if key.startswith("a_0__")] == ["2"]
    assert len(description.params["long"]) == PARAM_LENGTH
    assert description.params["long"].endswith(" … cut: 20000 characters")
    assert sorted(value for key, value in description.params.items() if key.startswith("a.b")) == ["1", "2"]
    told = description.tags[bridge.CHANGED_TAG]
    assert "a[0] is logged as a_0_" in told
    assert "long is cut from 20000 to 6000 characters" in told
    assert "Größe is logged as Gr__e" in told


def test_tags_tell_command_overrides_versions_and_what_the_caller_adds():
    description = bridge.describe(
        {"seed": 1},
        overrides=["model=mlp", f"data.api_key={CANARY}"],
        argv=["/bin/accelerator", "train", "a b", f"data.api_key={CANARY}"],
        tags={"seed": 1, "engine": "vanilla", "schedule": None, "big": "x" * 9000},
    )
    tags = description.tags
    assert tags["command"] == "/bin/accelerator train 'a b' 'data.api_key=***'"
    assert tags["overrides"] == "model=mlp 'data.api_key=***'"
    assert (tags["seed"], tags["engine"], "schedule" in tags) == ("1", "vanilla", False)
    assert len(tags["big"]) == TAG_LENGTH
    assert {"host", "python", "torch", "accelerator"} <= tags.keys()
    assert CANARY not in json.dumps(description)


def test_tags_tell_the_option_of_each_group_but_hydras_own():
    choices = {"model": "mlp", "training_components/loss": "mse", "experiment": None, "hydra/launcher": "basic"}
    tags = bridge.describe({}, choices=choices).tags
    assert {key: text for key, text in tags.items() if key.startswith("choice.")} == {
        "choice.model": "mlp",
        "choice.loss": "mse",
    }


def test_the_environment_has_every_installed_package_in_the_version_that_is_imported():
    found = provenance.environment()
    assert found["cores"] == os.cpu_count()
    assert found["memory_gib"] == pytest.approx(psutil.virtual_memory().total / 2**30, abs=0.06)
    for name in ("torch", "mlflow", "hydra-core", "typing-extensions", "pyyaml"):
        assert found["packages"][name] == version(name)
    everything = {(d.name or "").replace("_", "-").replace(".", "-").lower() for d in distributions()}
    assert {name.replace(".", "-") for name in found["packages"]} == everything
    assert provenance.gpus() == {}  # CUDA is not started to ask


def test_a_repository_gives_commit_branch_and_dirty_flag(repository):
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert provenance.git_tags() == {
        "git.commit": commit,
        "git.branch": "trunk",
        "git.dirty": "false",
        "mlflow.source.git.commit": commit,
        "mlflow.source.git.branch": "trunk",
    }
    assert provenance.git_diff() == ""
    (repository / "untracked").write_text("1")
    assert provenance.git_tags()["git.dirty"] == "false"
    (repository / "code.py").write_text("x = 2\n")
    assert provenance.git_tags()["git.dirty"] == "true"
    assert "+x = 2" in provenance.git_diff()


def test_without_git_or_a_repository_or_a_commit_there_are_no_git_tags(tmp_path, monkeypatch):
    assert provenance.git_tags(tmp_path) == {}
    git(tmp_path, "init")
    assert provenance.git_tags(tmp_path) == {}
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.git_tags(tmp_path) == {}
    assert provenance.git_diff(tmp_path) == ""


def test_a_patch_is_masked_and_bounded(repository, monkeypatch):
    monkeypatch.setattr(provenance, "DIFF_LENGTH", 2000)
    (repository / "code.py").write_text(f"password = '{CANARY}'\n" + "y = 1\n" * 2000)
    patch = provenance.git_diff()
    assert "+password = '***'" in patch
    assert CANARY not in patch
    assert len(patch) < 2100
    assert re.search(r"… cut: \d{5} characters\n$", patch)


def test_the_files_hold_the_whole_config_without_its_secrets(repository):
    (repository / "code.py").write_text("x = 2\n")
    config = {"data": {"path": "p" * 20_000, "password": CANARY, "kept": [1, {"token": CANARY}]}, "lr": 1e-3}
    written = bridge.write_files(repository / "record", config, overrides=["lr=0.001", f"data.password={CANARY}"])
    assert [path.name for path in written] == [
        *("config.yaml", "overrides.yaml", "environment.yaml", "requirements.txt", "git.diff")
    ]
    assert yaml.safe_load(written[0].read_text()) == {
        "data": {"path": "p" * 20_000, "password": "***", "kept": [1, {"token": "***"}]},
        "lr": 1e-3,
    }
    assert yaml.safe_load(written[1].read_text()) == ["lr=0.001", "data.password=***"]
    assert CANARY not in "".join(path.read_text() for path in written)


def test_the_bridge_imports_neither_torch_nor_mlflow():
    script = (
        "import sys\n"
        "from accelerator.tracking import bridge, tracker, uploader\n"
        "bridge.describe({'a': {'b': 1}})\n"
        "sys.exit(bool({'torch', 'mlflow', 'yaml'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


@pytest.mark.parametrize(
    ("key", "legal"),
    [
        ("train/loss", "train/loss"),
        ("a[0]", "a_0_"),
        ("a//b", "a__b"),
        ("/a/", "_a_"),
        ("../a", "__a"),
        ("", "_"),
        (".", "_"),
        ("lr (group 1)", "lr _group 1_"),
    ],
)
def test_illegal_keys_are_mapped_to_the_nearest_legal_one(key, legal):
    assert legal_key(key) == legal


@settings(deadline=None)  # the first call imports MLflow
@given(st.text(max_size=300))
def test_every_key_becomes_one_mlflow_accepts(key):
    from mlflow.utils.validation import _validate_metric, _validate_param

    legal = legal_key(key)
    _validate_param(legal, "1")
    _validate_metric(legal, 1.0, 0, 0)
    assert len(legal) <= KEY_LENGTH
    assert legal_key(legal) == legal


@given(st.lists(st.text("ab[](./_", max_size=4), unique=True))
def test_different_keys_stay_different(keys):
    legal = unique_keys(keys)
    assert len(set(legal.values())) == len(keys)
    assert all(legal[key] == key for key in keys if legal_key(key) == key)


def test_a_value_is_cut_with_its_length_told():
    assert cut("x" * 10, 10) == "x" * 10
    assert cut("x" * 100, 40) == "x" * 18 + " … cut: 100 characters"
