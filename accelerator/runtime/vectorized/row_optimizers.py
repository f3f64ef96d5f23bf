"""SGD, Adam and AdamW for many networks at once: one row of parameters for each, with hyperparameters of its own.

Every operation acts on each row by itself: a network's step is the one its own optimizer would take, to rounding.

Shape legend: N networks, P trainable parameters of each. Columns are (N, 1).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

# Arguments that change which operations a step has, and so must be the same in all rows.
SWITCHES = ("nesterov", "amsgrad", "maximize")


class RowOptimizer(ABC):
    """Takes the steps of N optimizers of one class.

    The optimizers stay what they are for everybody else: their options are read before every step, so a schedule sets
    them as ever, and from the first step on their states are views of the rows kept here.

    Args:
        optimizers: one for each row, with one parameter group; a state that one has is gone on with.
        rows: (N, P), the parameters, in the order of that group.
    """

    names: tuple[str, ...] = ()  # of the options that may differ

    def __init__(self, optimizers: Sequence[Optimizer], rows: Tensor) -> None:
        self.rows = rows
        self._groups = [optimizer.param_groups[0] for optimizer in optimizers]
        self._states = [optimizer.state for optimizer in optimizers]
        self._parameters: list[list[nn.Parameter]] = [group["params"] for group in self._groups]
        self._sizes = [parameter.numel() for parameter in self._parameters[0]]
        first = self._groups[0]
        self.nesterov, self.amsgrad, self.maximize = (bool(first.get(name)) for name in SWITCHES)
        self._options: list[list[Any]] = []
        self._shared = False
        kind: Any = type(optimizers[0])
        self._whole: Optimizer = kind([rows], lr=1.0)  # torch's own, for rows that all have the same options

    @torch.no_grad()
    def step(self, gradients: Tensor) -> None:
        """Step all rows down their gradients (N, P), which are changed."""
        options = [[group[name] for name in self.names] for group in self._groups]
        if self._shared and all(others == options[0] for others in options):
            state = self._state()
            if state is not None:
                self._options = []
                self._step_whole(gradients, state)
                return
        if options != self._options:
            self._options = options
            self._read(*(np.array(values, dtype=np.float64) for values in zip(*options, strict=True)))
        if self.maximize:
            gradients.neg_()
        self._step(gradients)
        if not self._shared:
            self._share()
            self._shared = True

    def _step_whole(self, gradients: Tensor, state: dict[str, Tensor]) -> None:
        """One step of torch's optimizer, to which the rows are one parameter: its kernel passes over them once."""
        group = {key: value for key, value in self._groups[0].items() if key != "params"}
        self._whole.param_groups[0].update(group)
        self._whole.state[self.rows] = state
        self.rows.grad = gradients
        self._whole.step()
        self.rows.grad = None

    @abstractmethod
    def _state(self) -> dict[str, Tensor] | None:
        """The state of the rows as one parameter; None if they have not come equally far."""

    @abstractmethod
    def _read(self, *options: np.ndarray) -> None:
        """Take over the options, one array (N,) or (N, 2) for each of `names`."""

    @abstractmethod
    def _step(self, gradients: Tensor) -> None:
        """Step all rows with the options taken over."""

    @abstractmethod
    def _share(self) -> None:
        """Make the optimizers' states views of the rows."""

    def _column(self, values: np.ndarray) -> Tensor:
        return torch.as_tensor(values, dtype=self.rows.dtype, device=self.rows.device)[:, None]

    def _begun(self, key: str) -> Tensor:
        """(N, P): what the optimizers keep under this key, zeros where one keeps nothing yet."""
        taken = torch.zeros_like(self.rows, requires_grad=False)
        for row, parameters, state in zip(taken, self._parameters, self._states, strict=True):
            for part, parameter in zip(row.split(self._sizes), parameters, strict=True):
                if (value := state.get(parameter, {}).get(key)) is not None:
                    part.copy_(value.flatten())
        return taken

    def _parts(self, tensor: Tensor) -> list[list[Tensor]]:
        """Views of (N, P): for each row, one of each parameter's shape."""
        return [
            [part.view_as(parameter) for part, parameter in zip(row.split(self._sizes), parameters, strict=True)]
            for row, parameters in zip(tensor, self._parameters, strict=True)
        ]


class SGDRows(RowOptimizer):
    """Stochastic gradient descent as `torch.optim.SGD` has it, with momentum, Nesterov's too, and weight decay."""

    names = ("lr", "momentum", "dampening", "weight_decay")

    def __init__(self, optimizers: Sequence[Optimizer], rows: Tensor) -> None:
        super().__init__(optimizers, rows)
        first = [state.get(parameters[0], {}) for state, parameters in zip(self._states, self._parameters, strict=True)]
        self._has_momentum = np.array([state.get("momentum_buffer") is not None for state in first])
        self._momentum: Tensor | None = None

    def _read(self, *options: np.ndarray) -> None:
        rate, momentum, dampening, decay = options
        self._rate, self._decay = self._column(-rate), self._column(decay) if decay.any() else None
        # A first step has no momentum to keep, and its gradient is not damped.
        kept = momentum * self._has_momentum
        self._kept, self._added = self._column(kept), self._column(np.where(kept != 0, 1 - dampening, 1.0))
        self._ahead, self._moves = self._column(momentum), momentum != 0
        if self._moves.any() and self._momentum is None:
            self._momentum = self._begun("momentum_buffer")

    def _step(self, gradients: Tensor) -> None:
        if self._decay is not None:
            gradients.addcmul_(self.rows, self._decay)
        if self._momentum is not None:
            self._momentum.mul_(self._kept).addcmul_(gradients, self._added)
            gradients = torch.addcmul(gradients, self._momentum, self._ahead) if self.nesterov else self._momentum
            if (begun := self._moves & ~self._has_momentum).any():
                self._has_momentum, self._shared = self._has_momentum | begun, False
                self._options = []  # read anew at the next step
        self.rows.addcmul_(gradients, self._rate)

    def _state(self) -> dict[str, Tensor] | None:
        if self._momentum is None:
            return None if self._groups[0]["momentum"] else {}
        return {"momentum_buffer": self._momentum} if self._has_momentum.all() else None

    def _share(self) -> None:
        if self._momentum is None:
            return
        for state, parameters, parts, moves in zip(
            self._states, self._parameters, self._parts(self._momentum), self._moves, strict=True
        ):
            if moves:
                for parameter, part in zip(parameters, parts, strict=True):
                    state[parameter] = {"momentum_buffer": part}


class AdamRows(RowOptimizer):
    """Adam as `torch.optim.Adam` has it: m ← m + (1 − β₁)(g − m), v likewise of g², θ ← θ − η m̂ / (√v̂ + ε)."""

    names = ("lr", "betas", "eps", "weight_decay")
    decoupled = False  # weight decay beside the gradient, not within it

    def __init__(self, optimizers: Sequence[Optimizer], rows: Tensor) -> None:
        super().__init__(optimizers, rows)
        self._mean, self._square = self._begun("exp_avg"), self._begun("exp_avg_sq")
        self._largest = self._begun("max_exp_avg_sq") if self.amsgrad else None
        done = [
            [float(state.get(parameter, {}).get("step", 0)) for parameter in parameters]
            for state, parameters in zip(self._states, self._parameters, strict=True)
        ]
        # Fused kernels want their counters where the parameters are, the others on the CPU.
        device = rows.device if self._groups[0].get("fused") else torch.device("cpu")
        self._steps = torch.tensor(done, dtype=torch.float32, device=device)  # (N, parameters), as torch has them
        self._done, self._count = np.array([steps[0] for steps in done]), torch.zeros((), device=device)

    def _read(self, *options: np.ndarray) -> None:
        self._rates, self._betas, self._eps, self._decays = options
        mean, square = 1 - self._betas.T
        self._new_mean, self._new_square = self._weight(mean), self._weight(square)
        decays = self._rates * self._decays if self.decoupled else self._decays
        self._decay = self._column(1 - decays if self.decoupled else decays) if decays.any() else None

    def _step(self, gradients: Tensor) -> None:
        rows, mean, square = self.rows, self._mean, self._square
        if self._decay is not None:
            if self.decoupled:
                rows.mul_(self._decay)
            else:
                gradients.addcmul_(rows, self._decay)
        mean.lerp_(gradients, self._new_mean)
        square.lerp_(gradients.square_(), self._new_square)
        if self._largest is not None:
            square = torch.maximum(self._largest, square, out=self._largest)
        self._done += 1
        self._steps += 1
        whole = 1 - self._betas ** self._done[:, None]  # m̂ = m / (1 − β₁ᵗ), v̂ = v / (1 − β₂ᵗ)
        root = np.sqrt(whole[:, 1])
        # η m̂ / (√v̂ + ε) = (η r / (1 − β₁ᵗ)) m / (√v + ε r) with r = √(1 − β₂ᵗ): a pass over the rows less.
        move = torch.sqrt(square, out=gradients).add_(self._column(self._eps * root))
        torch.div(mean, move, out=move)
        rows.addcmul_(move, self._column(-self._rates * root / whole[:, 0]))

    def _state(self) -> dict[str, Tensor] | None:
        if (self._done != self._done[0]).any():
            return None
        largest = {} if self._largest is None else {"max_exp_avg_sq": self._largest}
        return {"step": self._count, "exp_avg": self._mean, "exp_avg_sq": self._square, **largest}

    def _step_whole(self, gradients: Tensor, state: dict[str, Tensor]) -> None:
        self._count.fill_(self._done[0])
        super()._step_whole(gradients, state)
        self._done += 1
        self._steps += 1

    def _weight(self, values: np.ndarray) -> Any:
        return self._column(values) if (values != values[0]).any() else float(values[0])

    def _share(self) -> None:
        kept = {"exp_avg": self._parts(self._mean), "exp_avg_sq": self._parts(self._square)}
        if self._largest is not None:
            kept["max_exp_avg_sq"] = self._parts(self._largest)
        for row, (state, parameters) in enumerate(zip(self._states, self._parameters, strict=True)):
            for index, parameter in enumerate(parameters):
                own = {key: parts[row][index] for key, parts in kept.items()}
                state[parameter] = {"step": self._steps[row, index], **own}


class AdamWRows(AdamRows):
    """Adam with decoupled weight decay, as `torch.optim.AdamW` has it: θ ← (1 − η λ) θ before each step."""

    decoupled = True


ROW_OPTIMIZERS: dict[type[Optimizer], type[RowOptimizer]] = {SGD: SGDRows, Adam: AdamRows, AdamW: AdamWRows}
