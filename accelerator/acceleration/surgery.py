"""The sizes of a network that lost units, and the same network built again from its class and them.

A smaller network is of the same classes as the full one; what differs are shapes of tensors and the integers by which
modules state them. Both are plain values, so a checkpoint can hold them, and no pickle is needed to build it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

from torch import nn

from accelerator.errors import ConfigError
from accelerator.multilevel.narrowing import with_shapes
from accelerator.multilevel.transfer import state_of

Sizes = Mapping[str, Any]
"""`tensors`: name → [shape in the full network, shape now]; `attributes`: module → name → [value there, value now]."""


def sizes_of(full: nn.Module, smaller: nn.Module) -> dict[str, Any]:
    """What of a network differs in size from the one it was made of.

    Args:
        full: as its class builds it.
        smaller: of the same modules.

    Raises:
        ConfigError: it has other modules or tensors; or a buffer that is smaller is not among what is saved, and could
            not be had back.
    """
    saved, before, modules = smaller.state_dict(keep_vars=True), state_of(full), dict(full.named_modules())
    odd = sorted(before.keys() ^ state_of(smaller).keys()) or sorted(
        modules.keys() ^ dict(smaller.named_modules()).keys()
    )
    if odd:
        raise ConfigError(f"the smaller network is of other modules than the full one: only one has '{odd[0]}'")
    kept = {id(tensor) for tensor in saved.values()}
    tensors = {}
    for name, tensor in chain(smaller.named_parameters(), smaller.named_buffers()):
        if tensor.shape != before[name].shape:
            if id(tensor) not in kept:
                raise ConfigError(
                    f"the buffer '{name}' is not saved with the network (persistent=False) and has lost units: "
                    "register it with persistent=True, or compute it in forward"
                )
            tensors[name] = [list(before[name].shape), list(tensor.shape)]
    attributes = {}
    for path, module in smaller.named_modules():
        known = vars(modules[path])
        changed = {
            name: [_plain(known[name]), _plain(value)]
            for name, value in vars(module).items()
            if _states_a_size(value) and value != known[name]
        }
        if changed:
            attributes[path] = changed
    return {"tensors": tensors, "attributes": attributes}


def resized(model: nn.Module, sizes: Sizes) -> nn.Module:
    """The network with these sizes; tensors whose size changes are zero and wait for their weights.

    Args:
        model: as its class builds it; left as it is.
        sizes: from `sizes_of`.

    Raises:
        ConfigError: the sizes are of another network; each place is named.
    """
    own, modules = state_of(model), dict(model.named_modules())
    problems = []
    for name, (before, _) in sizes["tensors"].items():
        found = list(own[name].shape) if name in own else None
        if found != before:
            held = "is not there" if found is None else f"is {found} here"
            problems.append(f"'{name}' {held}, and was {before} in the network that was pruned")
    stated = {}
    for path, changed in sizes["attributes"].items():
        for name, (before, now) in changed.items():
            known: Any = vars(modules[path]).get(name) if path in modules else None
            if not _states_a_size(known) or _plain(known) != before:
                where = f"'{path}.{name}'" if path else f"'{name}'"
                problems.append(f"{where} is {known} here, and was {before} in the network that was pruned")
            else:
                stated[path, name] = type(known)(now)
    if problems:
        raise ConfigError(problems)
    return with_shapes(model, {name: now for name, (_, now) in sizes["tensors"].items()}, stated)


def composed(first: Sizes | None, second: Sizes) -> dict[str, Any]:
    """The sizes of a network that was made smaller twice, against those its class builds."""
    if first is None:
        return dict(second)
    tensors = _chained(first["tensors"], second["tensors"])
    paths = [*first["attributes"], *(path for path in second["attributes"] if path not in first["attributes"])]
    attributes = {
        path: _chained(first["attributes"].get(path, {}), second["attributes"].get(path, {})) for path in paths
    }
    return {"tensors": tensors, "attributes": attributes}


def _chained(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    return {**first, **{name: [first[name][0] if name in first else was, now] for name, (was, now) in second.items()}}


def _states_a_size(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, int) or (
        isinstance(value, tuple | list) and len(value) > 0 and all(type(entry) is int for entry in value)
    )


def _plain(value: Any) -> Any:
    return value if isinstance(value, int) else list(value)
