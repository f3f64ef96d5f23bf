"""What changes from pass to pass or from level to level: which parameters are trained, in how many pieces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import SGD, Optimizer

from accelerator.errors import ConfigError
from accelerator.runtime.callbacks.base import Callback
from accelerator.runtime.callbacks.monitors import check_every

if TYPE_CHECKING:
    from accelerator.runtime.context.context import Context


class Freeze(Callback):
    """Keeps some parameters as they are, for the first passes or for good.

    Their gradients are dropped before each step, so the optimizer leaves them alone, decay included; it is the same
    optimizer before and after, on one rank or several, and a resumed run needs to know nothing. The backward pass still
    computes them: this saves no time. A batch norm whose statistics match a pattern uses them and no longer changes
    them.

    On every level the parameters whose names on that level match are frozen while it is trained. A change of level
    carries them as it does all others: in a cycle that leaves them as they were, in a cascade it does not.

    Args:
        patterns: of the names of parameters and buffers, such as ``encoder.*``; ``*`` and ``?`` as in file names.
        until_epoch: passes after which they are trained; null: never.
    """

    priority = 60  # drops gradients before they are measured

    def __init__(self, patterns: Sequence[str], until_epoch: int | None = None) -> None:
        if isinstance(patterns, str) or not patterns:
            raise ConfigError(f"patterns={patterns}: expected a list of patterns, such as ['encoder.*']")
        check_every(until_epoch, "until_epoch")
        self.patterns, self.until_epoch = patterns, until_epoch
        self._frozen: list[nn.Parameter] = []
        self._norms: list[nn.Module] = []

    def run_start(self, context: Context) -> None:
        """Refuse patterns that match nothing, or all there is to train."""
        names = [name for name, _ in context.levels[0].named_parameters()]
        for pattern in self.patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                some = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
                raise ConfigError(f"freeze: the pattern '{pattern}' matches no parameter of the model; it has {some}")
        if self.until_epoch is None and all(self._matches(name) for name in names):
            raise ConfigError(f"freeze: the patterns {list(self.patterns)} leave no parameter to train")

    def stage_start(self, context: Context) -> None:
        """Find the parameters on this level."""
        self._choose(context)

    def epoch_start(self, context: Context) -> None:
        """Let go of them, if it is time; a validation has put the batch norms back to training."""
        self._choose(context)

    def after_backward(self, context: Context) -> None:
        """Drop their gradients."""
        for parameter in self._frozen:
            parameter.grad = None

    def _choose(self, context: Context) -> None:
        model = context.model
        for norm in self._norms:
            norm.train(model.training)
        self._frozen, self._norms = [], []
        if self.until_epoch is not None and context.state.epoch >= self.until_epoch:
            _begin_momentum(context.optimizer)
            return
        self._frozen = [parameter for name, parameter in model.named_parameters() if self._matches(name)]
        self._norms = [
            module
            for name, module in model.named_modules()
            if isinstance(module, _NormBase) and self._matches(f"{name}.running_mean".removeprefix("."))
        ]
        for norm in self._norms:
            norm.eval()

    def _matches(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self.patterns)


def _begin_momentum(optimizer: Optimizer) -> None:
    """Let momenta that have not begun begin at zero: torch's fused SGD wants those of all parameters, or of none."""
    if not isinstance(optimizer, SGD):
        return
    for group in optimizer.param_groups:
        states = [(p, optimizer.state.get(p, {})) for p in group["params"]]
        if any(state.get("momentum_buffer") is not None for _, state in states):
            for parameter, state in states:
                if state.get("momentum_buffer") is None:
                    optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


class AccumulationSchedule(Callback):
    """Changes the number of pieces a batch is computed in.

    The batch, and so the step, stays the same but for rounding: it is memory and time that change. Where neither of the
    two says a number, it is ``trainer.accumulate``.

    Args:
        epochs: the pieces from each of these passes on; the first pass is 0.
        levels: the pieces on each of these levels, whatever the pass; 0 is the full network.
    """

    def __init__(self, epochs: Mapping[int, int] | None = None, levels: Mapping[int, int] | None = None) -> None:
        self.epochs, self.levels = dict(epochs or {}), dict(levels or {})
        if not self.epochs and not self.levels:
            raise ConfigError("accumulation_schedule has no numbers: set epochs={pass: pieces}, or levels")
        for key, numbers in (("epochs", self.epochs), ("levels", self.levels)):
            for at, number in numbers.items():
                if at < 0 or number < 1:
                    raise ConfigError(f"{key}={numbers}: expected at least 0 before each colon and at least 1 after it")

    def run_start(self, context: Context) -> None:
        """Take down what the config says."""
        self._usual = context.engine.accumulate

    def stage_start(self, context: Context) -> None:
        """Set it for the level."""
        self._set(context)

    def epoch_start(self, context: Context) -> None:
        """Set it for the pass."""
        self._set(context)

    def _set(self, context: Context) -> None:
        begun = [epoch for epoch in self.epochs if epoch <= context.state.epoch]
        by_epoch = self.epochs[max(begun)] if begun else self._usual
        context.engine.accumulate = self.levels.get(context.level, by_epoch)
