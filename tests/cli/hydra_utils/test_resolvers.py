"""``${git:commit}`` and its like."""

import subprocess

import pytest
from omegaconf import OmegaConf

from accelerator.cli.hydra_utils import resolvers
from accelerator.errors import ConfigError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    resolvers._facts.cache_clear()
    return tmp_path


def in_git(*arguments):
    identity = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
    done = subprocess.run(["git", *identity, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_what_git_tells_is_told(folder):
    in_git("init", "-q", "-b", "trunk", ".")
    (folder / "file").write_text("a")
    in_git("add", "file")
    in_git("commit", "-q", "-m", "first")
    resolvers.register()
    config = OmegaConf.create({name: f"${{git:{name}}}" for name in ("commit", "short", "branch", "dirty")})
    commit = in_git("rev-parse", "HEAD")
    assert dict(config) == {"commit": commit, "short": commit[:8], "branch": "trunk", "dirty": False}
    (folder / "file").write_text("b")
    assert config.dirty is False  # all values of a run are of one moment
    resolvers._facts.cache_clear()
    assert config.dirty is True


def test_without_a_repository_there_is_a_default_or_a_sentence(folder):
    assert resolvers.git("commit", "none") == "none"
    with pytest.raises(ConfigError, match=r"\$\{git:branch\}: no git repository here tells it; give a default"):
        resolvers.git("branch")
    with pytest.raises(ConfigError, match=r"git tells no 'comit' — did you mean 'commit'\?"):
        resolvers.git("comit")
