"""A trained network, ready to be used: from raw inputs to predictions in the data's own units."""

from __future__ import annotations

import importlib
from pathlib import Path

import torch
import yaml
from torch import Tensor, nn

from accelerator.errors import CheckpointError
from accelerator.runtime.checkpoint.checkpoint_handler import CheckpointHandler
from accelerator.runtime.context.component import build
from accelerator.runtime.data.pipeline import Transforms, build_transforms
from accelerator.runtime.run_directory import CHECKPOINTS, CONFIG


class TrainedModel(nn.Module):
    """A network between the transforms it was trained with.

    Args:
        network: the trained network.
        transforms: with the statistics of its training split.
    """

    def __init__(self, network: nn.Module, transforms: Transforms) -> None:
        super().__init__()
        self.network, self.transforms = network, transforms

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs as the data gives them, (B, …), to predictions in the targets' own units, (B, …)."""
        return self.transforms.original(self.network(self.transforms.evaluate(inputs)))


def load_model(source: str | Path, device: str | torch.device = "cpu") -> TrainedModel:
    """The network of a run, as it was at its best.

    >>> model = load_model("outputs/2026-01-31/12-00-00-000000-1")  # doctest: +SKIP
    >>> predictions = model(inputs)  # doctest: +SKIP

    Args:
        source: a run directory (its best checkpoint is taken, the newest if none was rated), or a checkpoint file.
        device: where the network is put.

    Returns:
        In evaluation mode, without gradients.

    Raises:
        CheckpointError: there is none, it is damaged, or it was saved while a coarse level was trained.
    """
    path = Path(source)
    run_dir = path.parent.parent if path.is_file() else path
    config_file = run_dir / CONFIG
    if not config_file.is_file():
        raise CheckpointError(f"{source} is no run directory and no checkpoint in one: there is no {config_file}")
    config = yaml.safe_load(config_file.read_text())
    section = config["checkpoint"]
    handler = CheckpointHandler(run_dir / CHECKPOINTS, monitor=section["monitor"], mode=section["mode"])
    if path.is_file():
        saved, meta = handler.load(path)
    elif best := handler.best():
        saved, meta = handler.load(best)
    else:
        saved, meta, path = handler.load_last()
    if meta.level != 0:
        raise CheckpointError(
            f"{path} was saved while level {meta.level} was trained: the full network is not trained yet; go on with "
            f"accelerator train resume={run_dir}"
        )
    for name in config["imports"]:
        importlib.import_module(name)
    imports = tuple(config["imports"])
    network = build("model", config["model"], "model", imports=imports, **saved["facts"])
    transforms = build_transforms(config["transform"], imports)
    network.load_state_dict(saved["model"] if saved["network"] is None else saved["network"]["levels"]["0"])
    transforms.load_state_dict(saved["transforms"])
    return TrainedModel(network, transforms).to(device).eval().requires_grad_(False)
