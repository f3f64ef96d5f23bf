"""Which runs can be trained together, told from their configs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer

from accelerator.runtime.callbacks.base import Callback
from accelerator.runtime.context.component import find, present
from accelerator.runtime.engine.device import count_of
from accelerator.runtime.vectorized.row_optimizers import ROW_OPTIMIZERS, SWITCHES

# Keys of the optimizer that decide which operations a step has.
OPTIMIZER = ("name", "_target_", *SWITCHES)
# Sections that must be the same in all of them; whatever else differs is each run's own affair.
SAME = ("model", "loss", "transform", "loader", "engine", "multilevel", "acceleration", "imports", "load")


def why_alone(config: Mapping[str, Any]) -> str | None:
    """Why a run cannot share its steps with others, in a clause that begins with the key; None if it can.

    Args:
        config: resolved and checked.
    """
    engine, optimizer = config["engine"], config["optimizer"]
    if config["resume"]:
        return f"resume={config['resume']}: a run goes on alone"
    if config["multilevel"].get("name") != "single":
        return f"multilevel={config['multilevel'].get('name')}: levels change while they are trained"
    if engine.get("name") not in ("vanilla_torch", "single_gpu"):
        return f"engine={engine.get('name')}: expected vanilla_torch or single_gpu"
    if str(engine.get("precision") or 32) != "32":
        return f"engine.precision={engine['precision']}: expected 32"
    if engine.get("compile") is not None:
        return f"engine.compile={engine['compile']}: expected null"
    if count_of(engine.get("devices")) > 1:
        return f"engine.devices={engine['devices']}: expected one"
    if engine.get("gradient_checkpointing"):
        return f"engine.gradient_checkpointing={engine['gradient_checkpointing']}: expected false"
    imports = tuple(config["imports"])
    kind = find("optimizer", optimizer, "optimizer", imports)
    if kind not in ROW_OPTIMIZERS:
        known = ", ".join(each.__name__ for each in ROW_OPTIMIZERS)
        return f"optimizer={_name(kind)}: expected one of {known}"
    for name in ("capturable", "differentiable"):
        if optimizer.get(name):
            return f"optimizer.{name}=true: expected false"
    for name, section in present(config["callbacks"]).items():
        callback = find("callback", section, f"callbacks.{name}", imports)
        if getattr(callback, "after_backward", None) is not Callback.after_backward:
            return f"callbacks.{name}: it works on the gradients of each step"
    return None


def why_apart(config: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """Why two runs cannot share steps, likewise."""
    for section in SAME:
        if config[section] != other[section]:
            return f"{section}: it is not the same in all jobs"
    for key in OPTIMIZER:
        if (config["optimizer"].get(key) or None) != (other["optimizer"].get(key) or None):
            return f"optimizer.{key}: it is not the same in all jobs"
    return None


def decides(key: str) -> bool:
    """Whether a key of a config must be the same in all of them."""
    section, _, rest = key.partition(".")
    return section in SAME or (section == "optimizer" and (not rest or rest in OPTIMIZER))


def _name(kind: type[Optimizer] | Any) -> str:
    return getattr(kind, "__name__", str(kind))
