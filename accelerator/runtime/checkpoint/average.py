"""The average of several trained networks as one checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from accelerator.errors import CheckpointError
from accelerator.runtime.trained import network_weights


def average(states: Sequence[Mapping[str, Any]], weights: Sequence[float] | None = None) -> dict[str, Any]:
    """The state of a checkpoint whose finest network is the weighted mean of theirs.

    Of checkpoints along one run this is stochastic weight averaging (Izmailov et al., UAI 2018), of several runs from
    one initialisation a model soup (Wortsman et al., ICML 2022). Floating-point buffers are averaged too, so
    batch-norm statistics are only as good as their mean; integer ones are those of the last.

    Args:
        states: as the checkpoints hold them, each saved on the finest level.
        weights: one number ≥ 0 for each; they are divided by their sum. None: equal.

    Returns:
        Transforms and facts of the first; counters, random state and the hierarchy's coarser levels of the last. The
        optimizer's moments belong to none of the averaged points and are left out, and so is where a schedule stood: a
        run that starts from it has fresh ones.

    Raises:
        CheckpointError: the networks differ in the names, shapes or types of their tensors, or the weights do not fit.
    """
    shares = _shares(weights, len(states))
    networks = [network_weights(state) for state in states]
    _check_alike(networks)
    mean = {name: _mean([network[name] for network in networks], shares) for name in networks[0]}
    first, last = states[0], states[-1]
    return with_network(last, mean) | {"transforms": first["transforms"], "facts": first["facts"]}


def with_network(state: Mapping[str, Any], weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The state of a checkpoint whose finest network has other weights.

    What was measured, the optimizer's moments and where a schedule stood belong to the network it had: they are left
    out, and a run that starts from it has fresh ones.
    """
    result = dict(state) | {
        "state": state["state"] | {"metrics": {}, "validated": -1},
        "optimizer": {"state": {}, "param_groups": []},
        **dict.fromkeys(("cycle", "plateau"), None),
        **{name: {} for name in ("scheduler", "callbacks")},
    }
    if "average" in state:
        result["average"] = None
    if state["network"] is None:
        return result | {"model": dict(weights)}
    return result | {"network": state["network"] | {"levels": state["network"]["levels"] | {"0": dict(weights)}}}


def _shares(weights: Sequence[float] | None, count: int) -> list[float]:
    weights = [1.0] * count if weights is None else list(weights)
    if len(weights) != count:
        raise CheckpointError(f"{len(weights)} weights were given for {count} checkpoints; give one for each")
    if not (min(weights) >= 0 and 0 < sum(weights) < float("inf")):
        raise CheckpointError(f"the weights {weights} cannot be averaged with: none may be negative, and not all zero")
    return [weight / sum(weights) for weight in weights]


def _check_alike(networks: Sequence[Mapping[str, Tensor]]) -> None:
    first = networks[0]
    for index, other in enumerate(networks[1:], start=2):
        if odd := sorted(first.keys() ^ other.keys()):
            raise CheckpointError(f"checkpoint {index} holds another network than the first: only one has {odd[0]}")
        for name, tensor in other.items():
            ours, theirs = ((tuple(t.shape), str(t.dtype)[6:]) for t in (first[name], tensor))
            if ours != theirs:
                raise CheckpointError(
                    f"checkpoint {index} holds another network than the first: {name} is {theirs[1]} {theirs[0]} there "
                    f"and {ours[1]} {ours[0]} in the first"
                )


def _mean(tensors: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    if not (tensors[0].is_floating_point() or tensors[0].is_complex()):
        return tensors[-1]
    # In double precision: the mean of equal tensors is then that tensor, to the last bit.
    wide = torch.complex128 if tensors[0].is_complex() else torch.float64
    total = torch.zeros_like(tensors[0], dtype=wide)
    for tensor, share in zip(tensors, shares, strict=True):
        total += share * tensor.to(wide)
    return total.to(tensors[0].dtype)
