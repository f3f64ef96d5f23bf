import pickle
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn

from accelerator.errors import CheckpointError, ConfigError
from accelerator.experiment import TrainingContext
from accelerator.experiment.frameworks import framework, pytorch

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def ctx(tmp_path):
    return TrainingContext({}, None, checkpoint_dir=tmp_path / "checkpoints")


def trained(model, optimizer, steps):
    for _ in range(steps):
        loss = model(torch.ones(2, 3)).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [p.detach().clone() for p in model.parameters()]


def test_a_torch_checkpoint_goes_on_to_the_last_bit(ctx):
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    trained(model, optimizer, 3)
    assert pytorch.load_checkpoint(ctx, model=model) is None
    path = pytorch.save_checkpoint(ctx, model=model, optimizer=optimizer, epoch=3)
    whole = trained(model, optimizer, 4)
    other = nn.Linear(3, 2)
    fresh = torch.optim.Adam(other.parameters())
    assert pytorch.load_checkpoint(ctx, model=other, optimizer=fresh)["epoch"] == 3
    assert all(torch.equal(a, b) for a, b in zip(trained(other, fresh, 4), whole, strict=True))
    assert [file.name for file in path.parent.iterdir()] == ["last.pt"]


def test_a_checkpoint_that_would_run_code_is_refused(ctx, tmp_path):
    class Payload:
        def __reduce__(self):
            return Path.touch, (tmp_path / "hacked",)

    ctx.checkpoint_dir.mkdir()
    for write in (lambda file: pickle.dump(Payload(), file), lambda file: torch.save({"model": Payload()}, file)):
        with (ctx.checkpoint_dir / "last.pt").open("wb") as file:
            write(file)
        with pytest.raises(CheckpointError, match="last.pt cannot be read"):
            pytorch.load_checkpoint(ctx)
    assert not (tmp_path / "hacked").exists()


def test_devices_are_checked():
    assert pytorch.device("cpu") == "cpu"
    with pytest.raises(ConfigError, match="experiment.device=nowhere: expected auto, cpu, cuda"):
        pytorch.device("nowhere")
    if not torch.cuda.is_available():
        assert pytorch.device("auto") == "cpu"
        with pytest.raises(ConfigError, match=r"experiment.device=cuda:1: torch sees 0 GPU\(s\)"):
            pytorch.device("cuda:1")


def test_seeds_repeat_what_is_drawn():
    pytorch.seed(3)
    first = torch.rand(4)
    pytorch.seed(3)
    assert torch.equal(torch.rand(4), first)
    assert framework("torch") is pytorch


def run_example(name, folder, *more):
    command = [sys.executable, "-m", "accelerator", "run", str(EXAMPLES / "config.yaml"), "--json"]
    done = subprocess.run(
        [*command, "--train-fn", f"{EXAMPLES / name}:train_model", "mlflow.enabled=false", *more],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return __import__("json").loads(done.stdout)


def test_the_pytorch_example_learns_digits(tmp_path):
    result = run_example("pytorch_example.py", tmp_path)
    assert result["primary_metric"] < 0.08
    assert torch.load(result["best"], weights_only=True)["model"]["0.weight"].shape == (64, 64)


@pytest.mark.skipif(find_spec("tensorflow") is None, reason="TensorFlow is not installed (extra tensorflow)")
def test_the_tensorflow_example_learns_digits_reports_and_stops(tmp_path):
    result = run_example("tensorflow_example.py", tmp_path)
    assert result["primary_metric"] < 0.08
    assert result["epochs_completed"] == 10
    journal = next(tmp_path.glob("outputs/*/*/journal.jsonl")).read_text()
    assert journal.count('"key":"val_loss"') == 10
    assert Path(result["best"]).suffix == ".keras"
    script = (
        "import sys\n"
        f"sys.path.insert(0, {str(EXAMPLES)!r})\n"
        "from tensorflow_example import train_model\n"
        "from accelerator.experiment import Experiment, ExperimentConfig, MLflowConfig, runner\n"
        "config = ExperimentConfig(hyperparameters=dict(lr=.01, hidden=8, epochs=10),"
        " mlflow=MLflowConfig(enabled=False))\n"
        "stop = runner.Trial(3, None, lambda value, step: step == 2)\n"
        "outcome = Experiment(train_model, config).run(trial=stop)\n"
        "assert (outcome.pruned, outcome.result.epochs_completed) == (True, 3), outcome\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
