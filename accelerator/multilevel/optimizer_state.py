"""What an optimizer has learned about one level, for the optimizer of another.

For f_c(c) = f(𝒫c) the coarse gradient is g_c = 𝒫ᵀg, so what is linear in the gradient goes down by 𝒫ᵀ. Up, it goes by
𝓡ᵀ, the dual of restriction: the fine gradient whose restriction is the coarse one (𝒫ᵀ𝓡ᵀ = I), and with the `average`
family exactly the gradient at a prolonged network. Second moments E[g²] take the elementwise squares of the same maps,
as if the entries of an aggregate were uncorrelated. What is measured in steps of the parameters goes as the parameters
do: by 𝓡 and 𝒫.

Entries that are new on the level gone to (Fourier modes, padded units) have no moments: a running mean that starts at 0
with the step count of the others would give them a first step of (1 − β₁)/√(1 − β₂), some three times lr. Their
averages start anew (`start_averages`): they are kept as if Adam's bias correction counted their own steps.
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
from accelerator.multilevel.hop import Hop
from accelerator.multilevel.transfer import state_of, write_state

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
_AVERAGED = ("exp_avg", "exp_avg_sq", "square_avg")
_AGE, _NEW = ":age", ":new"


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
    unknown: set[str] = set()
    dropped: set[str] = set()
    for key in dict.fromkeys(key for state in held.values() for key in state if not key.endswith((_AGE, _NEW))):
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
                if held[name].get(key + _AGE) == 0:  # no step was taken since they came to the source
                    tensor.sub_(held[name].get(key + _NEW, 1.0))
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
    """Let entries of an optimizer's running averages start anew with its next step, bounded as in a fresh optimizer.

    An average of k steps of its own is a = b·a + (1 − b)·g with b = β(1 − βᵏ⁻¹)/(1 − βᵏ). The optimizer adds with its β
    and corrects the bias of all its t steps; a hook before each step makes up for the difference until k is large. What
    it needs stands in the optimizer's state, so it survives a checkpoint; after loading one, call `go_on_starting`.

    Args:
        optimizer: whose state holds the averages.
        fresh: by key of the state (`exp_avg`, …) and parameter, a mask of the entries; None: all of them.
    """
    for key, masks in fresh.items():
        for parameter, mask in masks.items():
            state = optimizer.state[parameter]
            state[key + _AGE] = 0
            state.pop(key + _NEW, None)
            if mask is not None:
                state[key + _NEW] = mask.to(parameter.dtype)
    go_on_starting(optimizer)


def go_on_starting(optimizer: Optimizer) -> None:
    """Look in an optimizer's state for averages that have started anew; needed after its state was loaded."""
    if optimizer not in _STARTING:
        optimizer.register_step_pre_hook(_before_step)
    _STARTING[optimizer] = [
        (parameter, key.removesuffix(_AGE), group)
        for group in optimizer.param_groups
        for parameter in group["params"]
        for key in optimizer.state.get(parameter, {})
        if key.endswith(_AGE)
    ]


# The averages that have started anew: parameter, key, its group. (A hook cannot remove itself while torch walks through
# the hooks, so it stays, with nothing to do.)
_STARTING: WeakKeyDictionary[Optimizer, list[tuple[Tensor, str, dict[str, Any]]]] = WeakKeyDictionary()

# After this many times 1/(1 − β) steps an average has forgotten how it began.
_FORGOTTEN = 5


@torch.no_grad()
def _before_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    if not (starting := _STARTING[optimizer]):
        return
    left = []
    for parameter, key, group in starting:
        state, gradient = optimizer.state[parameter], parameter.grad
        if gradient is None:
            left.append((parameter, key, group))
            continue
        if KINDS[key] not in _SIGNED:
            gradient = gradient.square()
        elif group.get("maximize"):
            gradient = -gradient
        beta = group["alpha"] if "alpha" in group else group["betas"][KINDS[key] not in _SIGNED]
        age = state[key + _AGE] = state[key + _AGE] + 1
        own = beta * (1 - beta ** (age - 1)) / (1 - beta**age)
        before = after = 1.0  # RMSprop corrects no bias
        if "betas" in group:
            steps = float(state["step"])
            before, after = 1 - beta**steps or 1.0, 1 - beta ** (steps + 1)
        keep, add = after * own / (before * beta), (after * (1 - own) - (1 - beta)) / beta
        average, new = state[key], state.get(key + _NEW)
        if new is None:
            average.mul_(keep).add_(gradient, alpha=add)
        else:
            average.addcmul_(new, average * (keep - 1) + gradient * add)
        if age * (1 - beta) < _FORGOTTEN:
            left.append((parameter, key, group))
        else:
            del state[key + _AGE]
            state.pop(key + _NEW, None)
    _STARTING[optimizer] = left


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
        go_on_starting(self)
        self.level = level

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        super().load_state_dict(state_dict)
        go_on_starting(self)


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
