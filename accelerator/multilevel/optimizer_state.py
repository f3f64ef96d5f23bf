"""What an optimizer has learned about one level, for the optimizer of another.

For f_c(c) = f(𝒫c) the coarse gradient is g_c = 𝒫ᵀg, so what is linear in the gradient goes down by 𝒫ᵀ. Up, it goes by
𝓡ᵀ, the dual of restriction: the fine gradient whose restriction is the coarse one (𝒫ᵀ𝓡ᵀ = I), and with the `average`
family exactly the gradient at a prolonged network. Second moments E[g²] take the elementwise squares of the same maps,
as if the entries of an aggregate were uncorrelated. What is measured in steps of the parameters goes as the parameters
do: by 𝓡 and 𝒫.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from accelerator.errors import ConfigError
from accelerator.multilevel.hierarchy import MultilevelNetwork
from accelerator.multilevel.transfer import WidthTransfer

Kind = Literal["gradient", "gradient magnitude", "gradient squared", "step", "step magnitude", "step squared"]

KINDS: dict[str, Kind] = {
    "exp_avg": "gradient",
    "momentum_buffer": "gradient",
    "grad_avg": "gradient",
    "prev": "gradient",
    "exp_inf": "gradient magnitude",
    "exp_avg_sq": "gradient squared",
    "max_exp_avg_sq": "gradient squared",
    "square_avg": "gradient squared",
    "sum": "gradient squared",
    "ax": "step magnitude",
    "step_size": "step magnitude",
    "acc_delta": "step squared",
}
"""What each state tensor of torch's optimizers measures."""

_SIGNED = ("gradient", "step")


@torch.no_grad()
def carry_optimizer_state(
    source_optimizer: Optimizer,
    target_optimizer: Optimizer,
    network: MultilevelNetwork,
    source_level: int,
    target_level: int,
    *,
    momentum: Literal["carry", "reset"] = "carry",
) -> None:
    """Give the optimizer of one level the state and options of another's.

    The options of each parameter group (lr, betas, initial_lr, …) and the step counts are copied. State the target had
    is overwritten, in place where it can be. A state tensor of a name that is not known starts at zero, with a warning
    naming it; LBFGS starts afresh, with a warning.

    Args:
        source_optimizer: over the parameters of `network.levels[source_level]`.
        target_optimizer: of the same class, over those of `network.levels[target_level]`, in the same groups.
        network: the hierarchy.
        source_level: 0 is the finest.
        target_level: coarser or finer, not necessarily a neighbour.
        momentum: `reset` starts the sign-carrying moments at zero and carries the rest.

    Raises:
        ConfigError: the optimizers differ in class or groups, hold other parameters, or a level does not exist.
    """
    _check(source_optimizer, target_optimizer, network, (source_level, target_level), momentum)
    names = {id(p): name for name, p in network.levels[target_level].named_parameters()}
    sources = _by_name(source_optimizer, network.levels[source_level], source_level)
    missing = [
        p for group in target_optimizer.param_groups for p in group["params"] if names.get(id(p), "") not in sources
    ]
    if missing:
        raise ConfigError(
            f"the optimizer of level {target_level} holds a parameter of shape {list(missing[0].shape)} that the one "
            f"of level {source_level} does not have; build both over the same parameters, each of its level"
        )
    _copy_options(source_optimizer, target_optimizer, names, sources)
    if isinstance(source_optimizer, torch.optim.LBFGS):
        target_optimizer.state.clear()
        warnings.warn("LBFGS keeps a history that cannot be carried between levels; it starts afresh", stacklevel=2)
        return
    hops = _hops(network, source_level, target_level)
    reset: set[str] = set()
    for group in target_optimizer.param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            held = source_optimizer.state.get(sources[name][1], {})
            _carry(target_optimizer, parameter, name, held, sources[name][1], hops, momentum, reset)
    if reset:
        warnings.warn(
            f"the state {sorted(reset)} of {type(source_optimizer).__name__} is of unknown meaning "
            f"and starts afresh on level {target_level}",
            stacklevel=2,
        )


Hops = list[tuple[WidthTransfer, bool]]


def _hops(network: MultilevelNetwork, source: int, target: int) -> Hops:
    """The transfers on the way, each with whether it is crossed towards the coarse side."""
    if source <= target:
        return [(transfer, True) for transfer in network.transfers[source:target]]
    return [(transfer, False) for transfer in reversed(network.transfers[target:source])]


def _carry(
    optimizer: Optimizer,
    parameter: Tensor,
    name: str,
    held: dict[str, Any],
    source: Tensor,
    hops: Hops,
    momentum: str,
    reset: set[str],
) -> None:
    """Write one parameter's state; names that had to start afresh are added to `reset`."""
    before = optimizer.state.pop(parameter, {})
    if not held:
        return
    state: dict[str, Any] = {}
    for key, value in held.items():
        kind = _kind(optimizer, key)
        if not isinstance(value, Tensor):
            state[key] = value
        elif value.shape == source.shape and value.dim() > 0:
            unknown = kind is None and source.shape != parameter.shape
            if unknown:
                reset.add(key)
            afresh = unknown or (momentum == "reset" and kind in _SIGNED)
            carried = value.new_zeros(parameter.shape) if afresh else _moved(value, name, kind, hops)
            state[key] = _into(before.get(key), carried, value)
        elif value.numel() == 1 or source.shape == parameter.shape:
            state[key] = _into(before.get(key), value, value)
        else:
            reset.add(key)
            return
    optimizer.state[parameter] = state


def _kind(optimizer: Optimizer, key: str) -> Kind | None:
    if isinstance(optimizer, torch.optim.RMSprop) and key == "momentum_buffer":
        return "step"  # RMSprop averages g/√v, not g
    return KINDS.get(key)


def _moved(value: Tensor, name: str, kind: Kind | None, hops: Hops) -> Tensor:
    for transfer, down in hops:
        match kind:
            case "gradient" | "gradient magnitude":
                value = transfer.prolong_transposed(name, value) if down else transfer.restrict_transposed(name, value)
            case "gradient squared":
                dual = transfer.prolong_transposed if down else transfer.restrict_transposed
                value = dual(name, value, squared=True)
            case "step" | "step magnitude":
                value = transfer.restrict(name, value) if down else transfer.prolong(name, value)
            case "step squared":
                primal = transfer.restrict if down else transfer.prolong
                value = primal(name, value, squared=True)
            case None:
                pass
    return value


def _into(buffer: Any, value: Tensor, source: Tensor) -> Tensor:
    """The value in the buffer the target already has, else in one that is not the source's."""
    if isinstance(buffer, Tensor) and (buffer.shape, buffer.dtype) == (value.shape, value.dtype):
        return buffer.copy_(value)
    return value.clone(memory_format=torch.preserve_format) if value is source else value


def _copy_options(
    source: Optimizer, target: Optimizer, names: dict[int, str], sources: dict[str, tuple[int, Tensor]]
) -> None:
    for index, group in enumerate(target.param_groups):
        origins = {sources[names[id(p)]][0] for p in group["params"]}
        if len(origins) > 1:
            raise ConfigError(
                f"parameter group {index} of the target optimizer mixes the source's groups {sorted(origins)}; "
                "build both optimizers with the same groups"
            )
        for origin in origins:
            options = source.param_groups[origin].items()
            group.update(
                {
                    key: value.clone() if isinstance(value, Tensor) else value
                    for key, value in options
                    if key not in ("params", "param_names")
                }
            )


def _by_name(optimizer: Optimizer, level: nn.Module, number: int) -> dict[str, tuple[int, Tensor]]:
    """For each parameter of the optimizer, by name: the index of its group, and itself."""
    names = {id(parameter): name for name, parameter in level.named_parameters()}
    found = {}
    for index, parameter in _parameters(optimizer):
        if id(parameter) not in names:
            raise ConfigError(
                f"the source optimizer holds a parameter of shape {list(parameter.shape)} "
                f"that level {number} does not have"
            )
        found[names[id(parameter)]] = (index, parameter)
    return found


def _parameters(optimizer: Optimizer) -> Iterator[tuple[int, Tensor]]:
    for index, group in enumerate(optimizer.param_groups):
        for parameter in group["params"]:
            yield index, parameter


def _check(
    source: Optimizer, target: Optimizer, network: MultilevelNetwork, levels: tuple[int, int], momentum: str
) -> None:
    for level in levels:
        if not 0 <= level < len(network):
            raise ConfigError(f"level {level} does not exist: this hierarchy has levels 0 to {len(network) - 1}")
    if type(source) is not type(target):
        raise ConfigError(
            f"cannot carry the state of {type(source).__name__} to {type(target).__name__}: use one class on all levels"
        )
    if momentum not in ("carry", "reset"):
        raise ConfigError(f"momentum='{momentum}': choose 'carry' or 'reset'")
