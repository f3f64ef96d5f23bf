"""Every YAML under configs/ is used by a run that composes, checks and takes a step."""

import numpy as np
import pytest
import torch

from accelerator.cli.compose.compose import composer, plain
from accelerator.cli.paths import packaged_configs
from accelerator.errors import ConfigError
from accelerator.runtime.run import check_config, dry_run

QUICK = ["engine.threads=1", "data.train=16", "data.val=8", "data.test=8", "data.grid=8", "model.hidden=[64,64]"]
DIGITS = ["experiment=digits", "engine.threads=1"]
TEXT = ["engine.threads=1", "data.characters=2000", "data.length=16", "model.width=8", "model.blocks=1"]

# What each YAML needs beside it; "needs" that the table does not name: the quick default run.
NEEDS = {
    "data/arrays": ["model=mlp", "data.path=table.csv", "data.inputs=[a,b]", "data.targets=c"],
    "data/custom": ["model=mlp", "imports=[mine]", "data._target_=mine.line"],
    "model/custom": [*QUICK[:5], "imports=[mine]", "model._target_=mine.Net", "multilevel=single"],
    "training_components/loss/custom": [*QUICK, "loss._target_=torch.nn.SmoothL1Loss"],
    "data/digits": [*DIGITS],
    "data/text": ["model=transformer", *TEXT],
    "experiment/digits": ["engine.threads=1"],
    "experiment/digits_canvas": ["engine.threads=1", "data.placements=1"],
    "experiment/text": [*TEXT],
    "data/darcy": [*QUICK, "data.refinement=1"],
    "experiment/darcy_fno": ["engine.threads=1", *QUICK[1:5], "model.modes=3", "model.width=4"],
    "experiment/poisson_fno": ["engine.threads=1", *QUICK[1:5], "model.modes=3", "model.width=4"],
    "metrics/classification": [*DIGITS],
    "metrics/language": ["experiment=text", *TEXT],
    "model/cnn": [*DIGITS],
    "model/resnet": [*DIGITS],
    "model/transformer": ["data=text", *TEXT],
    "model/fno": ["engine.threads=1", *QUICK[1:5], "data.inputs=field", "model.modes=3", "multilevel=single"],
    **{f"multilevel/{shape}_cycle": [*QUICK, "trainer.max_epochs=200"] for shape in "vwf"},
    "multilevel/fmg": [*QUICK, "trainer.max_epochs=200"],
    "training_components/loss/cross_entropy": [*DIGITS],
    "training_components/loss/ssim": ["experiment=poisson_fno", *QUICK[:5], "model.modes=3", "loss.window_size=3"],
    "training_components/loss/weighted_sum": [
        *QUICK,
        "loss.terms={error: {name: mse}, size: {name: mae}}",
        "loss.weights={error: 1.0, size: 0.1}",
    ],
    "training_components/optimizer/torch": [*QUICK, "optimizer.name=Adamax", "optimizer.lr=0.01"],
    "training_components/scheduler/torch": [*QUICK, "scheduler.name=LinearLR"],
    "training_components/scheduler/multistep": [*QUICK, "scheduler.milestones=[2,4]"],
    "training_components/scheduler/exponential": [*QUICK, "scheduler.gamma=0.9"],
    "training_components/transform/color_space": [
        *("model=mlp", "model.hidden=[8]", "data=arrays", "data.path=images.npz", "data.inputs=x", "data.targets=y"),
    ],
}

MINE = """
import torch

def line():
    x = torch.linspace(0, 1, 32)[:, None]
    return {"train": (x, 2 * x), "val": (x, 2 * x), "test": (x, 2 * x)}

class Net(torch.nn.Module):
    def __init__(self, output_shape):
        super().__init__()
        self.map, self.shape = torch.nn.LazyLinear(64), output_shape
        self.map(torch.zeros(1, 32))

    def forward(self, x):
        return self.map(x).reshape(-1, *self.shape)
"""


def names():
    root = packaged_configs()
    found = sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml"))
    # Parts of others are no choices of their own; pipelines are tested with their command.
    return [name for name in found if "/options/" not in name and name.split("/")[0] != "pipeline"]


def check_and_step(overrides):
    with composer() as compose:
        config = plain(compose(overrides))
    check_config(config)
    return dry_run(config)


@pytest.mark.parametrize("name", names())
def test_every_config_composes_and_takes_a_step(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    values = np.random.default_rng(0).normal(size=(40, 3))
    np.savetxt("table.csv", values, delimiter=",", header="a,b,c", comments="")
    images = np.random.default_rng(1).random((2, 20, 3, 8, 8)).astype(np.float32)
    np.savez("images.npz", x=images[0], y=images[1])
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    group, _, option = name.rpartition("/")
    choice = [f"{group}={option}"] if group else []
    if name == "engine/single_gpu" and not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="this machine has no CUDA device; use engine=vanilla_torch"):
            check_and_step([*choice, *QUICK])
        return
    context = check_and_step([*choice, *NEEDS.get(name, QUICK), "tracking.enabled=false"])
    assert context.engine.optimizer.state, "no step was taken"


def test_the_configs_are_counted():
    """A YAML that is added here is tested above; one that vanished is missed here."""
    assert len(names()) == 77


def test_multilevel_mlp_trains_as_a_cascade_unless_told_otherwise():
    with composer() as compose:
        assert compose(["model=multilevel_mlp"]).multilevel.name == "cascade"
        assert compose(["model=multilevel_mlp", "multilevel=single"]).multilevel.name == "single"
        assert compose(["model=mlp"]).multilevel.name == "single"


@pytest.mark.parametrize("short", ["loss=mae", "optimizer=sgd", "scheduler=step", "transform=none"])
def test_short_names_are_the_long_ones(short):
    with composer() as compose:
        assert plain(compose([short])) == plain(compose([f"training_components/{short}"]))
