"""Gradient checkpointing: activations of some modules are computed again in the backward pass instead of kept.

Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016; torch.utils.checkpoint.
"""

from __future__ import annotations

from fnmatch import fnmatch
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from accelerator.errors import ConfigError


def recompute_blocks(model: nn.Module, which: bool | list[str]) -> list[str]:
    """Make modules of a network recompute; names, parameters and results stay as they are.

    Args:
        model: changed in place; calling twice changes nothing more.
        which: true: the items of every outermost ``ModuleList`` or ``Sequential`` that have parameters; or patterns of
            module names, such as ``blocks.*``.

    Returns:
        The names of the modules.

    Raises:
        ConfigError: no module is meant.
    """
    names = repeated_blocks(model) if which is True else _matching(model, which or [])
    if not names:
        raise ConfigError(
            f"engine.gradient_checkpointing={which}: the model {type(model).__name__} has "
            + ("no ModuleList or Sequential of blocks; name modules instead" if which is True else "no such module")
            + f"; it has {', '.join(name for name, _ in model.named_children())}"
        )
    for name in names:
        module = model.get_submodule(name)
        # On the instance: no wrapper, so state dicts keep their names. A class attribute would reach other networks.
        if "forward" not in vars(module):
            module.forward = partial(_recomputed, module, type(module).forward)  # pyright: ignore[reportAttributeAccessIssue]
    return names


def _recomputed(module: nn.Module, forward: Any, *args: Any, **kwargs: Any) -> Any:
    if not (module.training and torch.is_grad_enabled()):
        return forward(module, *args, **kwargs)
    return checkpoint(forward, module, *args, use_reentrant=False, **kwargs)


def repeated_blocks(model: nn.Module) -> list[str]:
    """The names of the items of every outermost ``ModuleList`` or ``Sequential`` that have parameters."""
    found: list[str] = []

    def walk(module: nn.Module, prefix: str) -> None:
        for name, child in module.named_children():
            path = f"{prefix}{name}"
            if isinstance(module, nn.ModuleList | nn.Sequential):
                if next(child.parameters(), None) is not None:
                    found.append(path)
            else:
                walk(child, f"{path}.")

    walk(model, "")
    return found


def _matching(model: nn.Module, patterns: list[str]) -> list[str]:
    found: list[str] = []
    for name, _ in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in found)
        if name and not inside and any(fnmatch(name, pattern) for pattern in patterns):
            found.append(name)
    return found
