import json

import pytest

from accelerator.cli.app import main
from accelerator.cli.machine import verify


def test_what_works_is_absent_and_is_broken_is_told_with_its_reason(monkeypatch, capsys):
    def absent(folder):
        raise verify.AbsentError("no GPU here")

    def broken(folder):
        raise OSError("disk on fire\nand more")

    monkeypatch.setattr(verify, "CHECKS", {"good": lambda folder: "1 + 1 = 2", "gpu": absent})
    assert main(["verify"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "✓ good               1 + 1 = 2  (0.0 s)",
        "– gpu                no GPU here  (0.0 s)",
        "all that a run needs works here",
    ]
    verify.CHECKS["disk"] = broken
    assert main(["verify", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert [(check["status"], check["detail"]) for check in told[2:]] == [("broken", "OSError: disk on fire")]


@pytest.mark.parametrize("name", ["packages", "torch", "hydra", "optuna", "git"])
def test_a_check_works_here(name, tmp_path):
    assert verify.CHECKS[name](tmp_path)


def test_a_package_that_is_too_old_is_broken(monkeypatch, tmp_path):
    monkeypatch.setattr(verify, "requires", lambda name: ["torch>=99", "no-such-thing>=1", "numpy>=1; extra == 'x'"])
    with pytest.raises(RuntimeError, match=r"torch is 2\S+, needed is >=99; no-such-thing>=1 is not installed"):
        verify.CHECKS["packages"](tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["engine and MLflow", "accelerate", "onnx", "tensorflow"])
def test_a_long_check_works_here(name, tmp_path):
    assert verify.CHECKS[name](tmp_path)


def test_the_memory_a_run_may_take(monkeypatch, capsys):
    monkeypatch.delenv("ACCELERATOR_GPU_MEMORY_GB", raising=False)
    assert main(["memory", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["limit_gb"] == 24.0
    monkeypatch.setenv("ACCELERATOR_GPU_MEMORY_GB", "40")
    assert main(["memory", "--show"]) == 0
    assert "limit: 40 GB (ACCELERATOR_GPU_MEMORY_GB)" in capsys.readouterr().out
    assert main(["memory", "--limit", "0"]) == 0
    assert "limit: none, all there is (--limit)" in capsys.readouterr().out
    assert main(["memory", "--limit", "-3"]) == 3
    assert "--limit -3.0: expected gigabytes, 0 for all there is" in capsys.readouterr().err
    assert main(["gpu-info", "--json"]) == 0
    json.loads(capsys.readouterr().out)
