"""A trained network, ready to be used: from raw inputs to predictions in the data's own units."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from accelerator.acceleration.surgery import resized
from accelerator.errors import CheckpointError
from accelerator.runtime.checkpoint.checkpoint_handler import CheckpointHandler
from accelerator.runtime.checkpoint.meta_handler import Meta, sidecar
from accelerator.runtime.context.component import build
from accelerator.runtime.data.pipeline import Transforms, build_transforms
from accelerator.runtime.model_manifest import MANIFEST, WEIGHTS, read_manifest, verify
from accelerator.runtime.run_directory import CHECKPOINTS, CONFIG

# In the header of an exported model: what it is built from.
RECIPE = "accelerator"


class TrainedModel(nn.Module):
    """A network between the transforms it was trained with.

    Args:
        network: the trained network.
        transforms: with the statistics of its training split.
        input_shape: of the samples it was trained with; None if nobody knows. It takes others too, if the network does.
    """

    def __init__(self, network: nn.Module, transforms: Transforms, input_shape: Sequence[int] | None = None) -> None:
        super().__init__()
        self.network, self.transforms = network, transforms
        self.input_shape = None if input_shape is None else tuple(input_shape)

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs as the data gives them, (B, …), to predictions in the targets' own units, (B, …).

        Raises:
            ValueError: the network does not take inputs of this shape.
        """
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return self._predict(inputs)
        try:
            return self._predict(inputs)
        except (RuntimeError, IndexError) as error:
            if self.input_shape is None or tuple(inputs.shape[1:]) == self.input_shape:
                raise
            trained, given = ", ".join(map(str, self.input_shape)), ", ".join(map(str, inputs.shape))
            raise ValueError(
                f"the network takes no inputs of shape ({given}): it was trained with (batch, {trained}); {error}"
            ) from error

    def _predict(self, inputs: Tensor) -> Tensor:
        return self.transforms.original(self.network(self.transforms.evaluate(inputs)))


def load_model(source: str | Path, device: str | torch.device = "cpu", *, imports: Sequence[str] = ()) -> TrainedModel:
    """The network of a run, as it was at its best.

    >>> model = load_model("outputs/2026-01-31/12-00-00-000000-1")  # doctest: +SKIP
    >>> predictions = model(inputs)  # doctest: +SKIP

    Args:
        source: a run directory (its best checkpoint is taken, the newest if none was rated), a checkpoint file, the
            folder ``model`` of a run, or a model that ``accelerator checkpoint export --format safetensors`` wrote.
        device: where the network is put.
        imports: modules of yours that a file outside a run's folder may name; those of a run are imported anyway.

    Returns:
        In evaluation mode, without gradients.

    Raises:
        CheckpointError: there is none, it is damaged, or it was saved while a coarse level was trained.
    """
    path = Path(source)
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or folder")
    if (path / MANIFEST).is_file():
        verify(path, read_manifest(path))
        path = path / WEIGHTS
    if path.is_file() and not sidecar(path).exists() and (exported := _exported(path)) is not None:
        recipe, tensors = exported
        _allow(recipe, imports, path)
        model = with_tensors(build_model(recipe), tensors, path)
    else:
        config, saved, path = read_checkpoint(path, imports)
        model = model_of(config, saved, path)
    return model.to(device)


def model_of(config: Mapping[str, Any], saved: Mapping[str, Any], path: Path) -> TrainedModel:
    """The trained model of a checkpoint that was read by `read_checkpoint`; its path is for messages.

    Raises:
        CheckpointError: the weights do not fit the config.
    """
    tensors = {f"network.{name}": tensor for name, tensor in network_weights(saved).items()}
    tensors |= {f"transforms.{name}": tensor for name, tensor in saved["transforms"].items()}
    return with_tensors(build_model(recipe_of(config, saved)), tensors, path)


def with_tensors(model: TrainedModel, tensors: Mapping[str, Tensor], path: Path) -> TrainedModel:
    """The model with these weights, in evaluation mode, without gradients; the path is for messages.

    Raises:
        CheckpointError: they do not fit.
    """
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not fit the model of its config: {error}") from error
    return model.eval().requires_grad_(False)


def read_checkpoint(source: Path, imports: Sequence[str] = ()) -> tuple[dict[str, Any], dict[str, Any], Path]:
    """The config, the state and the path of a trained network's checkpoint.

    Args:
        source: a run directory (the best is taken, the newest if none was rated), or a checkpoint file.
        imports: modules of the user's that a file outside a run's folder may name.

    Raises:
        CheckpointError: as `load_model`.
    """
    path = checkpoint_of(source)
    saved, _ = load_finest(path)
    return config_of(path, saved, imports), saved, path


def checkpoint_of(source: Path) -> Path:
    """The checkpoint of a trained network: the file itself, or the best of a run, its newest if none was rated.

    Raises:
        CheckpointError: the folder is not a run's, or it has saved nothing that is whole.
    """
    if source.is_file():
        return source
    handler = handler_of(source)
    return handler.best() or handler.load_last()[2]


def load_finest(path: Path) -> tuple[dict[str, Any], Meta]:
    """State and sidecar of a checkpoint in which the full network is the trained one.

    Raises:
        CheckpointError: it is missing or damaged, or was saved while a coarse level was trained.
    """
    saved, meta = CheckpointHandler(path.parent).load(path)
    if meta.level != 0:
        raise CheckpointError(
            f"{path} was saved while level {meta.level} was trained: the full network is not trained yet; go on with "
            f"accelerator train resume={path.absolute().parent.parent}"
        )
    return saved, meta


def config_of(path: Path, saved: Mapping[str, Any], imports: Sequence[str] = ()) -> dict[str, Any]:
    """The config a checkpoint's network was trained with.

    Raises:
        CheckpointError: the file neither stands in a run's folder nor brings a config along, or the one it brings names
            modules other than ``imports``.
    """
    run_dir = path.absolute().parent.parent
    # What was made from checkpoints brings its config along; in a run's folder the run's own stands.
    if "config" in saved and not (run_dir / CONFIG).is_file():
        _allow(saved["config"], imports, path)
        return saved["config"]
    return read_config(run_dir)


def read_config(run_dir: Path) -> dict[str, Any]:
    """The config a run was started with.

    Raises:
        CheckpointError: the folder is not a run's.
    """
    path = run_dir / CONFIG
    if not path.is_file():
        raise CheckpointError(f"{run_dir} is no run directory: there is no {path}")
    try:
        return yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise CheckpointError(f"{path} is damaged: {' '.join(str(error).split())}") from error


def handler_of(run_dir: Path) -> CheckpointHandler:
    """The checkpoints of a run, rated as its config says.

    Raises:
        CheckpointError: the folder is not a run's.
    """
    section = read_config(run_dir)["checkpoint"]
    return CheckpointHandler(run_dir / CHECKPOINTS, monitor=section["monitor"], mode=section["mode"])


def network_weights(saved: Mapping[str, Any]) -> dict[str, Tensor]:
    """The finest network's weights and buffers in a checkpoint's state; their average, if the run kept one."""
    if saved.get("average") is not None:
        return saved["average"]
    return saved["model"] if saved["network"] is None else saved["network"]["levels"]["0"]


def recipe_of(config: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
    """What the network and its transforms are built from: sections of the config, and facts of the data."""
    recipe = {name: config[name] for name in ("imports", "model", "transform")} | {"facts": saved["facts"]}
    sizes = saved.get("sizes")  # of a network that was pruned
    return recipe if sizes is None else recipe | {"sizes": sizes}


def build_model(recipe: Mapping[str, Any]) -> TrainedModel:
    """A model as a recipe describes it, not trained."""
    for name in recipe["imports"]:
        importlib.import_module(name)
    imports = tuple(recipe["imports"])
    network = build("model", recipe["model"], "model", imports=imports, **recipe["facts"])
    if recipe.get("sizes") is not None:
        network = resized(network, recipe["sizes"])
    transforms = build_transforms(recipe["transform"], imports)
    return TrainedModel(network, transforms, recipe["facts"].get("input_shape"))


def _allow(config: Mapping[str, Any], imports: Sequence[str], path: Path) -> None:
    """A lone file may come from anybody: what it names is imported only if the user says so."""
    if unknown := sorted(set(config["imports"]) - set(imports)):
        raise CheckpointError(
            f"{path} is built with modules of its author's, {', '.join(unknown)}; if you trust them, allow them: "
            f"load_model(…, imports={unknown}) or --import {' '.join(unknown)}"
        )


def _exported(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Recipe and tensors of an exported model; None if the file is something else."""
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(RECIPE)
            if text is None:
                return None
            return json.loads(text), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
    except (SafetensorError, ValueError, OSError):
        return None
