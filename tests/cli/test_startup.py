"""Help, composition and completion answer without importing what trains."""

import subprocess
import sys

import pytest

HEAVY = {"torch", "mlflow", "sklearn", "scipy", "pandas", "torchmetrics"}


def imported(arguments, environment=None):
    code = (
        "import sys\n"
        "from accelerator.cli.app import main\n"
        f"try:\n    main({arguments!r})\n"
        "except SystemExit:\n    pass\n"
        "sys.stderr.write('\\n' + ' '.join({name.split('.')[0] for name in sys.modules}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    return set(done.stderr.splitlines()[-1].split()), done.stdout


def test_help_imports_neither_torch_nor_hydra():
    modules, printed = imported(["--help"])
    assert "accelerator train" in printed
    assert not modules & (HEAVY | {"hydra", "omegaconf", "rich", "yaml"})


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train", "--help"], "multilevel_mlp"),
        (["pipeline"], "Scanned digits"),
        (["train", "--cfg", "job"], "name: multilevel_mlp"),
        (["train", "--cfg", "job", "--resolve"], "T_max: 20"),
        (["train", "--info", "defaults"], "training_components/loss/mse"),
    ],
)
def test_looking_at_a_config_imports_nothing_that_trains(arguments, expected):
    modules, printed = imported(arguments)
    assert expected in printed
    assert not modules & HEAVY


def test_completion_knows_commands_groups_options_and_keys(monkeypatch, capsys):
    from accelerator.cli.app import main

    def complete(line):
        monkeypatch.setenv("COMP_LINE", line)
        assert main(["-sc", "query=bash"]) == 0
        return capsys.readouterr().out.split()

    assert complete("accelerator tra") == ["train", "tracking"]
    assert complete("accelerator train model=multi") == ["model=multilevel_mlp"]
    assert "loss=cross_entropy" in complete("accelerator train loss=")
    assert complete("accelerator train trainer.max_e") == ["trainer.max_epochs="]


def test_what_a_run_is_made_of_imports_no_plotting_and_no_metrics_package():
    """Two seconds: torchmetrics imports matplotlib and scipy.signal, and is needed by those of its metrics only."""
    code = (
        "import sys, accelerator.cli.experiment, accelerator.runtime.run, accelerator.runtime.engine.vanilla_torch\n"
        "late = {'torchmetrics', 'matplotlib', 'mlflow', 'accelerate', 'torch.distributed.fsdp', 'onnx'}\n"
        "assert not late & sys.modules.keys(), late & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_ctrl_c_while_a_command_is_imported_ends_it_quietly(monkeypatch, capsys):
    from accelerator.cli import app

    def interrupted(path):
        raise KeyboardInterrupt

    codes = []
    monkeypatch.setattr(app, "_found", interrupted)
    monkeypatch.setattr(app, "leave", codes.append)
    monkeypatch.setattr(sys, "argv", ["accelerator", "status"])
    app.entry()
    assert codes == [130]
    assert capsys.readouterr() == ("", "")
