"""What an optimizer has learned about one level, for the optimizer of another.

For f_c(c) = f(𝒫c) the coarse gradient is g_c = 𝒫ᵀg, so what is linear in the gradient goes down by 𝒫ᵀ. Up, it goes by
𝓡ᵀ, the dual of restriction: the fine gradient whose restriction is the coarse one (𝒫ᵀ𝓡ᵀ = I), and with the `average`
family exactly the gradient at a prolonged network. Second moments E[g²] take the elementwise squares of the same maps,
as if the entries of an aggregate were uncorrelated. What is measured in steps of the parameters goes as the parameters
do: by 𝓡 and 𝒫.

Entries that are new on the level gone to (Fourier modes, padded units) have no moments: a running mean that starts at 0
with the step count of the others would give them a first step of (1 − β₁)/√(1 − β₂), some three times lr. They take
their first gradient as mean and its square as second moment, which is what a fresh Adam does at its first step.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from accelerator.errors import ConfigError
from accelerator.multilevel.hierarchy import MultilevelNetwork
from accelerator.multilevel.transfer import Hop, state_of, write_state

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
_AVERAGED = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "square_avg")


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
    hops = _hops(network, source_level, target_level)
    names = {id(p): name for name, p in network.levels[target_level].named_parameters()}
    sources = _by_name(source_optimizer, network.levels[source_level], source_level)
    origins: dict[str, str] = {}  # of each target parameter, the source parameter it takes counts and options from
    targets: dict[str, Tensor] = {}
    for _, parameter in _parameters(target_optimizer):
        name = names.get(id(parameter), "")
        origin = _origin(name, hops)
        if origin not in sources:
            raise ConfigError(
                f"the optimizer of level {target_level} holds a parameter of shape {list(parameter.shape)} that the "
                f"one of level {source_level} does not have; build both over the same parameters, each of its level"
            )
        targets[name], origins[name] = parameter, origin
    _copy_options(source_optimizer, target_optimizer, names, sources, origins)
    if isinstance(source_optimizer, torch.optim.LBFGS):
        target_optimizer.state.clear()
        warnings.warn("LBFGS keeps a history that cannot be carried between levels; it starts afresh", stacklevel=2)
        return
    held = {name: source_optimizer.state.get(parameter, {}) for name, (_, parameter) in sources.items()}
    shapes = {name: parameter.shape for name, (_, parameter) in sources.items()}
    before = {name: target_optimizer.state.pop(parameter, {}) for name, parameter in targets.items()}
    found: dict[str, dict[str, Any]] = {name: {} for name in targets}
    fresh: dict[str, dict[str, Tensor]] = {}
    waiting = _STARTING.get(source_optimizer, {})  # of a source that took no step since its own state came
    unknown: set[str] = set()
    dropped: set[str] = set()
    for key in dict.fromkeys(key for state in held.values() for key in state):
        kind = _kind(source_optimizer, key)
        whole = {
            name: state[key]
            for name, state in held.items()
            if isinstance(state.get(key), Tensor) and state[key].shape == shapes[name] and state[key].dim() > 0
        }
        afresh = momentum == "reset" and kind in _SIGNED
        moved = {} if kind is None or afresh else _moved(whole, kind, hops)
        if moved and key in _AVERAGED and any(hop.leaves_new(down=down) for hop, down in hops):
            ones = {name: torch.ones_like(tensor) for name, tensor in whole.items()}
            for name, tensor in ones.items():
                if (parameter := sources[name][1]) in waiting.get(key, {}):
                    mask = waiting[key][parameter]
                    tensor.mul_(0 if mask is None else ~mask)
            for name, mask in _moved(ones, kind, hops).items():
                if name in targets and bool((new := mask == 0).any()):
                    fresh.setdefault(key, {})[name] = new
        for name, parameter in targets.items():
            origin = origins[name]
            value = held[origin].get(key)
            if name in moved:
                found[name][key] = _into(before[name].get(key), moved[name], value)
            elif origin in whole:
                assert isinstance(value, Tensor)
                if kind is None and shapes[origin] == parameter.shape:
                    found[name][key] = _into(before[name].get(key), value, value)
                else:
                    if kind is None:
                        unknown.add(key)
                    found[name][key] = _into(before[name].get(key), value.new_zeros(parameter.shape), value)
            elif isinstance(value, Tensor):
                if value.numel() > 1 and shapes[origin] != parameter.shape:
                    unknown.add(key)  # factored state: without it the rest of this parameter's is of no use
                    dropped.add(name)
                else:
                    found[name][key] = _into(before[name].get(key), value, value)
            elif key in held[origin]:
                found[name][key] = value
    for name, state in found.items():
        if state and name not in dropped:
            target_optimizer.state[targets[name]] = state
    if fresh:
        start_averages(target_optimizer, {key: {targets[n]: mask for n, mask in m.items()} for key, m in fresh.items()})
    if unknown:
        warnings.warn(
            f"the state {sorted(unknown)} of {type(source_optimizer).__name__} is of unknown meaning "
            f"and starts afresh on level {target_level}",
            stacklevel=2,
        )


def start_averages(optimizer: Optimizer, fresh: Mapping[str, Mapping[Tensor, Tensor | None]]) -> None:
    """At the optimizer's next step, let entries of its running averages begin at the gradient (squared for second
    moments) instead of at zero.

    Args:
        optimizer: whose state holds the averages.
        fresh: by key of the state (`exp_avg`, …) and parameter, a mask of the entries; None: all of them.
    """
    if optimizer not in _STARTING:
        optimizer.register_step_pre_hook(_start)
    _STARTING[optimizer] = fresh


# The averages that begin at an optimizer's next step. (A hook cannot remove itself while torch walks through them.)
_STARTING: WeakKeyDictionary[Optimizer, Mapping[str, Mapping[Tensor, Tensor | None]]] = WeakKeyDictionary()


@torch.no_grad()
def _start(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    fresh, _STARTING[optimizer] = _STARTING[optimizer], {}
    ascending = {id(p) for group in optimizer.param_groups if group.get("maximize") for p in group["params"]}
    for key, masks in fresh.items():
        for parameter, mask in masks.items():
            average = optimizer.state[parameter].get(key)
            if average is not None and parameter.grad is not None:
                gradient = -parameter.grad if id(parameter) in ascending else parameter.grad
                gradient = gradient if KINDS[key] in _SIGNED else gradient.square()
                average.copy_(gradient if mask is None else torch.where(mask, gradient, average))


def carry_average(
    source: AveragedModel, target: AveragedModel, network: MultilevelNetwork, source_level: int, target_level: int
) -> None:
    """Give the weight average (EMA, SWA) of one level that of another: averages move as weights do, by 𝓡 and 𝒫.

    Args:
        source: of `network.levels[source_level]`.
        target: of `network.levels[target_level]`.
        network: the hierarchy.
        source_level: 0 is the finest.
        target_level: coarser or finer.
    """
    state: Mapping[str, Tensor] = state_of(source.module)
    for hop, down in _hops(network, source_level, target_level):
        state = hop.restrict(state) if down else hop.prolong(state)
    write_state(target.module, state)
    target.n_averaged.copy_(source.n_averaged)


class MultilevelAdam(torch.optim.Adam):
    """Adam over the parameters of one level at a time of a hierarchy; its moments follow when the level changes.

    >>> from accelerator.multilevel import create_network_hierarchy
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.GELU(), torch.nn.Linear(64, 1))
    >>> network = create_network_hierarchy(model, torch.randn(2, 4), levels=3)
    >>> optimizer = MultilevelAdam(network, level=2, lr=1e-3)
    >>> network.prolongate(1)
    >>> optimizer.change_level(1)

    Args:
        network: the hierarchy.
        level: to begin with; by default the coarsest.
        options: of `torch.optim.Adam`.

    Raises:
        ConfigError: the hierarchy has no such level.
    """

    def __init__(self, network: MultilevelNetwork, level: int | None = None, **options: Any) -> None:
        self.network = network
        self.level = len(network) - 1 if level is None else level
        if not 0 <= self.level < len(network):
            raise ConfigError(f"level {level} does not exist: this hierarchy has levels 0 to {len(network) - 1}")
        super().__init__(network.levels[self.level].parameters(), **options)

    def change_level(self, level: int) -> None:
        """Go on with another level's parameters; schedulers and param groups stay attached."""
        other = MultilevelAdam(self.network, level)
        carry_optimizer_state(self, other, self.network, self.level, level)
        self.param_groups[0]["params"] = other.param_groups[0]["params"]
        self.state = other.state
        start_averages(self, _STARTING.pop(other, {}))
        self.level = level


Hops = list[tuple[Hop, bool]]


def _hops(network: MultilevelNetwork, source: int, target: int) -> Hops:
    """The hops on the way, each with whether it is crossed towards the coarse side."""
    if source <= target:
        return [(hop, True) for hop in network.hops[source:target]]
    return [(hop, False) for hop in reversed(network.hops[target:source])]


def _origin(name: str, hops: Hops) -> str:
    for hop, down in reversed(hops):
        name = hop.counterpart(name, down=down)
    return name


def _kind(optimizer: Optimizer, key: str) -> Kind | None:
    if isinstance(optimizer, torch.optim.RMSprop) and key == "momentum_buffer":
        return "step"  # RMSprop averages g/√v, not g
    return KINDS.get(key)


def _moved(state: Mapping[str, Tensor], kind: Kind | None, hops: Hops) -> Mapping[str, Tensor]:
    for hop, down in hops:
        match kind:
            case "gradient" | "gradient magnitude":
                state = hop.prolong_transposed(state) if down else hop.restrict_transposed(state)
            case "gradient squared":
                state = (hop.prolong_transposed if down else hop.restrict_transposed)(state, squared=True)
            case "step" | "step magnitude":
                state = hop.restrict(state) if down else hop.prolong(state)
            case "step squared":
                state = (hop.restrict if down else hop.prolong)(state, squared=True)
            case None:
                pass
    return state


def _into(buffer: Any, value: Tensor, source: Any) -> Tensor:
    """The value in the buffer the target already has, else in one that is not the source's."""
    if isinstance(buffer, Tensor) and (buffer.shape, buffer.dtype) == (value.shape, value.dtype):
        return buffer.copy_(value)
    return value.clone(memory_format=torch.preserve_format) if value is source else value


def _copy_options(
    source: Optimizer,
    target: Optimizer,
    names: dict[int, str],
    sources: dict[str, tuple[int, Tensor]],
    origins: Mapping[str, str],
) -> None:
    for index, group in enumerate(target.param_groups):
        found = {sources[origins[names[id(p)]]][0] for p in group["params"]}
        if len(found) > 1:
            raise ConfigError(
                f"parameter group {index} of the target optimizer mixes the source's groups {sorted(found)}; "
                "build both optimizers with the same groups"
            )
        for origin in found:
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
