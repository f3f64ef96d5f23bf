"""Nested iteration in a loop of your own, without the platform."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from accelerator.errors import ConfigError
from accelerator.multilevel.hierarchy import MultilevelNetwork
from accelerator.multilevel.optimizer_state import carry_optimizer_state


class CascadeTrainer:
    """Trains a hierarchy from its coarsest level up, one `step` at a time; you decide when to `advance_level`.

    >>> import torch
    >>> from accelerator.multilevel import create_network_hierarchy
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.GELU(), torch.nn.Linear(64, 1))
    >>> x = torch.randn(32, 4); y = x.prod(dim=1, keepdim=True)
    >>> network = create_network_hierarchy(model, x, levels=3)
    >>> trainer = CascadeTrainer(network, torch.nn.functional.mse_loss, lambda p: torch.optim.Adam(p, lr=1e-2))
    >>> for steps in (50, 25, 25):
    ...     for _ in range(steps):
    ...         loss = trainer.step(x, y)
    ...     if not trainer.is_at_finest:
    ...         trainer.advance_level()

    `model` is trained now: it is the finest level.

    Args:
        network: the hierarchy.
        loss: `loss(prediction, target)`, a mean over the batch.
        optimizer: makes an optimizer for a level's parameters, of one class for all levels.

    Raises:
        ConfigError: `network` is no hierarchy, or `optimizer` makes none.
    """

    def __init__(
        self,
        network: MultilevelNetwork,
        loss: Callable[[Tensor, Tensor], Tensor],
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
    ) -> None:
        if not isinstance(network, MultilevelNetwork):
            raise ConfigError(
                f"CascadeTrainer takes a hierarchy, not a {type(network).__name__}: "
                "create_network_hierarchy(model, example_input) makes one"
            )
        self.network, self.loss = network, loss
        self._make = optimizer
        self._level = len(network) - 1
        for level in range(self._level):
            network.restrict(level)
        self.optimizer = self._optimizer()
        self.steps = [0] * len(network)
        self.work = 0.0

    @property
    def current_level_index(self) -> int:
        """The level being trained: 0 is the finest."""
        return self._level

    @property
    def model(self) -> nn.Module:
        """The network of the level being trained."""
        return self.network.levels[self._level]

    @property
    def is_at_finest(self) -> bool:
        """Whether the full network is being trained."""
        return self._level == 0

    def step(self, inputs: Any, targets: Any) -> float:
        """One optimizer step of the current level on a batch (resampled to its grid along the resolution axis).

        Args:
            inputs: what the model is called with, batch first.
            targets: what the loss compares with.

        Returns:
            The loss before the step.

        Raises:
            ConfigError: the loss is not one number.
        """
        inputs, targets = self.network.level_batch(self._level, inputs, targets)
        self.optimizer.zero_grad()
        loss = self.loss(self.model(inputs), targets)
        if loss.dim() != 0:
            raise ConfigError(f"the loss must be one number, a mean over the batch; it has shape {list(loss.shape)}")
        loss.backward()
        self.optimizer.step()
        self.steps[self._level] += 1
        self.work += self.network.costs[self._level]
        return float(loss.detach())

    def advance_level(self) -> None:
        """Prolongate the current level to the next finer one and go on there; the optimizer's moments follow.

        Raises:
            ConfigError: the finest level is being trained already.
        """
        if self.is_at_finest:
            raise ConfigError("the finest level is being trained already; there is none to advance to (is_at_finest)")
        self.network.prolongate(self._level - 1)
        self._level -= 1
        coarse, self.optimizer = self.optimizer, self._optimizer()
        carry_optimizer_state(coarse, self.optimizer, self.network, self._level + 1, self._level)

    def _optimizer(self) -> Optimizer:
        made = self._make(self.model.parameters())
        if not isinstance(made, Optimizer):
            raise ConfigError(f"optimizer made a {type(made).__name__}, not a torch.optim.Optimizer")
        return made
