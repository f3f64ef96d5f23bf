"""The full approximation scheme: what a cycle carries down (tau) and up (the correction).

At a fine point x, with c₀ = 𝓡x, the coarse level does not minimise its own loss f_c but

    f_c(c) + τᵀc,    τ = 𝒫ᵀ(∇f(x) + τ_f) − ∇f_c(c₀),

whose gradient at c₀ is the restricted fine one (τ_f is the fine level's own tau, 0 on the finest). So τ is a vector
that is added to the coarse gradient, after backward and before clipping. What the coarse level then learned comes back
as x ← x + s·𝒫(c − c₀).

Source: Brandt (1977), *Multi-level adaptive solutions to boundary-value problems* (FAS); Nash (2000), *A multigrid
approach to discretized optimization problems* (MG/OPT, the line search); Ponce et al. (2023), *Multilevel-in-Width
Training for Deep Neural Network Regression* (networks).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from accelerator.errors import ConfigError, did_you_mean
from accelerator.multilevel.hierarchy import MultilevelNetwork
from accelerator.multilevel.transfer import State

Tau = Literal["none", "wholeset", "minibatch"]
TAUS: tuple[Tau, ...] = ("none", "wholeset", "minibatch")
Batch = tuple[Tensor, Tensor]

# A correction that raises the loss too much is halved this often before it is given up.
HALVINGS = 4


@dataclass(frozen=True)
class Correction:
    """What came of a correction.

    Attributes:
        norm: ‖𝒫(c − c₀)‖₂ over all parameters, before scaling.
        scale: the s that was applied; 0 if the correction was given up.
        guarded: the guard scaled it back (or gave it up).
        evaluations: losses that were computed for it.
    """

    norm: float
    scale: float
    guarded: bool = False
    evaluations: int = 0


class FAS:
    """The state of a cycle, over a hierarchy.

    A two-level cycle in a loop of your own, `grad` giving the gradient of the loss on a batch and `loss` its value:

        fas = FAS(network, tau="minibatch")
        fas.descend(0, batches, grad)                # network.levels[1] and its tau are ready
        for number, batch in enumerate(batches):     # the same batches, in the same order
            loss_on(network.levels[1], batch).backward()
            fas.add_tau(1, number)
            coarse_optimizer.step()
        fas.ascend(0, loss=lambda: loss_on_all(network.levels[0]))

    Args:
        network: the hierarchy.
        tau: `wholeset`: one vector, from the mean gradients over all batches given to `descend`; `minibatch`: one for
            each of them, for coarse steps on the same batches; `none`: the coarse level follows its own loss.
        scale: s, by which a correction is multiplied.
        line_search: choose s among scale·(1, ½, ¼, ⅛) and 0 by the loss.
        guard: a correction that raises the loss by more than this share of it is halved, four times at most, then given
            up; None: no guard.

    Raises:
        ConfigError: an option is out of range.
    """

    def __init__(
        self,
        network: MultilevelNetwork,
        *,
        tau: Tau = "minibatch",
        scale: float = 1.0,
        line_search: bool = False,
        guard: float | None = 0.1,
    ) -> None:
        check_options(tau, scale, guard)
        self.network, self.kind, self.scale, self.line_search, self.guard = network, tau, scale, line_search, guard
        self.start: dict[int, dict[str, Tensor]] = {}
        self.taus: dict[int, list[dict[str, Tensor]]] = {}

    def descend(
        self,
        level: int,
        batches: Iterable[Batch],
        gradient: Callable[[int, Batch], State],
        *,
        rematch: bool = False,
    ) -> None:
        """Go from `level` to `level` + 1: restrict the network and make the coarse level's tau.

        Args:
            level: the finer of the two.
            batches: those that the coarse level will train on, as level 0 sees them.
            gradient: of the loss (coupled weight decay included) of a level's network on one of `batches`, by
                parameter.
            rematch: choose anew which units are aggregated.
        """
        network, coarse = self.network, level + 1
        network.restrict(level, rematch=rematch)
        self.start[coarse] = {name: p.detach().clone() for name, p in network.levels[coarse].named_parameters()}
        self.taus[coarse] = []
        if self.kind == "none":
            return
        total: dict[str, Tensor] = {}
        weights = 0
        for number, batch in enumerate(batches):
            fine = self._with_tau(level, number, gradient(level, batch))
            down = network.hops[level].prolong_transposed(fine)
            own = gradient(coarse, batch)
            tau = {name: down[name] - own[name] for name in own}
            if self.kind == "minibatch":
                self.taus[coarse].append(tau)
                continue
            weight = len(batch[0])
            weights += weight
            for name, tensor in tau.items():
                total[name] = total[name].add_(tensor, alpha=weight) if name in total else tensor * weight
        if self.kind == "wholeset":
            self.taus[coarse] = [{name: tensor.div_(weights) for name, tensor in total.items()}]

    def add_tau(self, level: int, number: int) -> None:
        """Add a level's tau to the gradients of its network's parameters.

        Args:
            level: the one being trained; the finest has no tau.
            number: of the batch among those given to `descend`; more wrap around.
        """
        taus = self.taus.get(level)
        if not taus:
            return
        tau = taus[number % len(taus)]
        for name, parameter in self.network.levels[level].named_parameters():
            if name in tau:
                if parameter.grad is None:
                    parameter.grad = tau[name].clone()
                else:
                    parameter.grad.add_(tau[name])

    @torch.no_grad()
    def ascend(self, level: int, loss: Callable[[], float] | None = None) -> Correction:
        """Go from `level` + 1 back to `level`: add what the coarse level learned.

        Args:
            level: the finer of the two.
            loss: of `level`'s network now, on the batches of the cycle; needed by the guard and the line search.
        """
        correction = self.network.correction(level, self.start[level + 1])
        parameters = {n: p for n, p in self.network.levels[level].named_parameters() if n in correction}
        norm = math.sqrt(sum(float(correction[name].square().sum()) for name in parameters))

        if loss is None or (self.guard is None and not self.line_search):
            for name, parameter in parameters.items():
                parameter.add_(correction[name], alpha=self.scale)
            return Correction(norm, self.scale)
        # Kept, because x + p - p is not x: a level that diverged may give a p that is huge or not finite.
        held = {name: parameter.clone() for name, parameter in parameters.items()}
        before = loss() + self._tau_term(level)
        evaluations = 1

        def apply(scale: float) -> None:
            for name, parameter in parameters.items():
                parameter.copy_(held[name])
                if scale:
                    parameter.add_(correction[name], alpha=scale)

        def value_at(scale: float) -> float:
            nonlocal evaluations
            apply(scale)
            evaluations += 1
            return loss() + self._tau_term(level)

        if self.line_search:
            values = {self.scale / 2**k: value_at(self.scale / 2**k) for k in range(HALVINGS)}
            finite = {scale: value for scale, value in values.items() if math.isfinite(value)}
            best = min(finite, key=finite.__getitem__, default=0.0)
            best = best if best and finite[best] < before else 0.0
            apply(best)
            return Correction(norm, best, guarded=best == 0, evaluations=evaluations)
        assert self.guard is not None
        bound = before + self.guard * abs(before)
        scale = self.scale
        for _ in range(HALVINGS + 1):
            if value_at(scale) <= bound:
                return Correction(norm, scale, guarded=scale != self.scale, evaluations=evaluations)
            scale /= 2
        apply(0.0)
        return Correction(norm, 0.0, guarded=True, evaluations=evaluations)

    def tau_norm(self, level: int) -> float:
        """‖τ‖₂ of a level, the mean over its batches; 0 without tau."""
        norms = [math.sqrt(sum(float(t.square().sum()) for t in tau.values())) for tau in self.taus.get(level, [])]
        return sum(norms) / len(norms) if norms else 0.0

    def state_dict(self) -> dict[str, Any]:
        """Nested dicts and lists of tensors: the place inside a cycle."""
        return {
            "start": {str(level): dict(state) for level, state in self.start.items()},
            "taus": {str(level): [dict(tau) for tau in taus] for level, taus in self.taus.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        devices = [next(network.parameters()).device for network in self.network.levels]

        def placed(level: str, saved: State) -> dict[str, Tensor]:
            return {name: tensor.to(devices[int(level)]) for name, tensor in saved.items()}

        self.start = {int(level): placed(level, saved) for level, saved in state["start"].items()}
        self.taus = {int(level): [placed(level, tau) for tau in saved] for level, saved in state["taus"].items()}

    def _with_tau(self, level: int, number: int, gradient: State) -> State:
        taus = self.taus.get(level)
        if level == 0 or not taus:
            return gradient
        tau = taus[number % len(taus)]
        return {name: tensor + tau[name] if name in tau else tensor for name, tensor in gradient.items()}

    def _tau_term(self, level: int) -> float:
        """τᵀ(c − c₀) of an intermediate level, the mean over the batches."""
        taus = self.taus.get(level)
        if level == 0 or not taus:
            return 0.0
        total = 0.0
        for name, parameter in self.network.levels[level].named_parameters():
            for tau in taus:
                if name in tau:
                    total += float((tau[name] * (parameter.detach() - self.start[level][name])).sum())
        return total / len(taus)


def check_options(tau: str, scale: float, guard: float | None) -> None:
    """Refuse options of a cycle that are out of range.

    Raises:
        ConfigError: all of them together.
    """
    problems = []
    if tau not in TAUS:
        problems.append(f"tau='{tau}' is unknown{did_you_mean(tau, TAUS)}")
    if not 0 < scale < math.inf:
        problems.append(f"correction_scale={scale}: must be above 0 (1 takes the whole correction)")
    if guard is not None and not guard >= 0:
        problems.append(f"guard={guard}: the share by which a correction may raise the loss, at least 0; null for none")
    if problems:
        raise ConfigError(problems)


def coupled_decay(optimizer: Optimizer, network: nn.Module) -> dict[str, float]:
    """Weight decay that is part of the objective (an L2 term in the gradient), by parameter name.

    Decoupled decay (as AdamW's) acts on the weights, not on the gradient, and is not in here.
    """
    always_decoupled = torch.optim.AdamW | torch.optim.Adafactor | torch.optim.Muon
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    found = {}
    for group in optimizer.param_groups:
        decoupled = isinstance(optimizer, always_decoupled) or group.get("decoupled_weight_decay")
        if group.get("weight_decay") and not decoupled:
            found |= {names[id(p)]: float(group["weight_decay"]) for p in group["params"] if id(p) in names}
    return found


def gradients(network: nn.Module, decay: State | dict[str, float] | None = None) -> dict[str, Tensor]:
    """Take the gradients a backward pass left on a network, with coupled weight decay; they are removed from it.

    Args:
        network: after backward.
        decay: as of `coupled_decay`.
    """
    found = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        if decay and name in decay:
            gradient = gradient + decay[name] * parameter.detach()
        found[name] = gradient
        parameter.grad = None
    return found


SUBSETS = ("whole_set", "next_k", "cycling_k")


def subset(kind: str, k: int, cycle: int, batches: int, epoch: int, batch: int) -> tuple[int, int, int]:
    """The batches a cycle's coarse levels see: (pass, first batch, number).

    `whole_set`: a whole pass; `next_k`: the k batches that come next on the finest level; `cycling_k`: k batches
    further in one fixed order with every cycle.

    Args:
        kind: one of `SUBSETS`.
        k: how many.
        cycle: number of cycles before.
        batches: in one pass.
        epoch: of the finest level.
        batch: of the finest level, its next one.
    """
    if kind == "whole_set":
        return epoch, 0, batches
    if kind == "next_k":
        return epoch, batch, k
    return 0, cycle * k % batches, k


__all__: Sequence[str] = ("FAS", "SUBSETS", "TAUS", "Correction", "coupled_decay", "gradients", "subset")
