"""The place of a run inside a multigrid cycle: which batches its coarse levels see, what they carry down and up."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from accelerator.multilevel.fas import FAS, coupled_decay, gradients
from accelerator.multilevel.optimizer_state import carry_optimizer_state, go_on_starting, start_averages
from accelerator.runtime.data.feed import Batch, Feed, own_samples
from accelerator.runtime.engine.base import Clip
from accelerator.utilities import distributed
from accelerator.utilities.seed import rng_state, set_rng_state

if TYPE_CHECKING:
    from accelerator.runtime.context.context import Context


class Cycle:
    """The cycles of a run, and where it stands in the one at hand.

    The coarse levels of a cycle all see the same few batches (its window), over and over; so does tau. The finest level
    of the cycle (its top) goes on with the pass over the data.

    Args:
        method: of the config's section ``multilevel``.
        fas: what a cycle carries.

    Attributes:
        top: the level a cycle was begun on; None outside of one.
        window: its batches: (pass, first batch, number).
        begun: cycles begun so far.
        guarded: corrections that were scaled back so far.
        last: what the last change of level measured, to be logged.
    """

    def __init__(self, method: Any, fas: FAS) -> None:
        self.method, self.fas = method, fas
        self.top: int | None = None
        self.window = (0, 0, 0)
        self.begun = 0
        self.guarded = 0
        self.last: dict[str, float] = {}
        self._rematch = False
        self.optimizers: dict[int, Optimizer] = {}

    def batches(self, feed: Feed, start: int) -> Iterator[Batch]:
        """The window's batches from the ``start``-th step of a stage on, without end."""
        count = self.window[2]
        while True:
            yield from self._once(feed, start % count)
            start = 0

    def descend(self, context: Context, level: int) -> None:
        """Go down from ``level`` by one: restrict, and make tau; work units spent on it are counted."""
        network, feed = context.network, context.data.train
        assert network is not None
        if self.top is None:
            self.top = level
            state, every = context.state, self.method.rematch_every
            self.window = self.method.window(self.begun, feed.batches, state.epoch, state.batch)
            self.begun += 1
            self._rematch = every is not None and self.begun % every == 0
        coarse = level + 1
        self.optimizers[level] = context.optimizer
        fresh = coarse not in self.optimizers or self.method.optimizer_state != "separate"
        if fresh:
            self.optimizers[coarse] = context.make_optimizer(coarse)
        if self.fas.kind != "none":
            context.state.work += self.window[2] * (context.costs[level] + context.costs[coarse])
        self.fas.descend(
            level, self._once(feed, 0), lambda at, batch: self._gradient(context, at, batch), rematch=self._rematch
        )
        self.last = {f"tau_norm/{coarse}": self.fas.tau_norm(coarse)} if self.fas.kind != "none" else {}
        self._enter(context, level, coarse, carry=self.method.optimizer_state == "carry")

    def ascend(self, context: Context, level: int) -> None:
        """Go up from ``level`` by one: add the correction."""
        fine = level - 1
        guarded = self.fas.guard is not None or self.fas.line_search
        rng = rng_state()

        def loss() -> float:
            set_rng_state(rng)  # the same dropout before and after
            return self._loss(context, fine)

        correction = self.fas.ascend(fine, loss if guarded else None)
        context.state.work += correction.evaluations * self.window[2] * context.costs[fine] / 3
        self.guarded += correction.guarded
        self.last = {
            "correction_norm": correction.norm,
            "correction_scale": correction.scale,
            "corrections_guarded": float(self.guarded),
        }
        if self.method.optimizer_state == "carry":
            self.optimizers[fine] = context.make_optimizer(fine)
        self._enter(context, level, fine, carry=self.method.optimizer_state == "carry")
        if fine == self.top:
            self.top = None

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors."""
        return {
            "top": self.top,
            "window": list(self.window),
            "begun": self.begun,
            "guarded": self.guarded,
            "rematch": self._rematch,
            "fas": self.fas.state_dict(),
            "optimizers": {str(level): optimizer.state_dict() for level, optimizer in self.optimizers.items()},
        }

    def load_state_dict(self, context: Context, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.top, self.begun, self.guarded = state["top"], state["begun"], state["guarded"]
        self.window = tuple(state["window"])
        self._rematch = state["rematch"]
        self.fas.load_state_dict(state["fas"])
        for level, saved in state["optimizers"].items():
            optimizer = context.make_optimizer(int(level))
            optimizer.load_state_dict(saved)
            go_on_starting(optimizer)
            self.optimizers[int(level)] = optimizer
        if context.level in self.optimizers:
            self.optimizers[context.level] = context.optimizer

    def _enter(self, context: Context, source: int, target: int, *, carry: bool) -> None:
        """Go on with another level's optimizer: its learning rates are the current ones, its moments as the method
        says."""
        optimizer, network = self.optimizers[target], context.network
        assert network is not None
        if carry:
            carry_optimizer_state(context.optimizer, optimizer, network, source, target)
        elif target != self.top:
            # What a level remembers of the direction it went in is from another cycle.
            restart_momentum(optimizer)
        context.take_optimizer(optimizer, source, target)

    def _once(self, feed: Feed, start: int) -> Iterator[Batch]:
        epoch, first, count = self.window
        left = count - start
        first += start
        # `cycling_k` stays in the order of one pass, `next_k` goes on as the finest level will.
        following = 0 if self.method.subset == "cycling_k" else 1
        epoch, first = epoch + following * (first // feed.batches), first % feed.batches
        while left > 0:
            for batch in feed.epoch(epoch, first):
                yield batch
                left -= 1
                if left == 0:
                    return
            epoch, first = epoch + following, 0

    def _gradient(self, context: Context, level: int, batch: Batch) -> dict[str, Tensor]:
        network, optimizer = context.levels[level], self.optimizers[level]
        context.engine.bind(network, context.objective, optimizer, Clip())
        context.engine.forward_backward(context.level_batch(level, batch))
        return gradients(network, coupled_decay(optimizer, network))

    def _loss(self, context: Context, level: int) -> float:
        network = context.levels[level]
        context.engine.bind(network, context.objective, self.optimizers[level], Clip())
        total, samples = 0.0, 0.0
        for batch in self._once(context.data.train, 0):
            prediction, target = context.engine.predict(context.level_batch(level, batch))
            rows = own_samples(batch)
            total += float(context.objective(prediction, target)) * rows
            samples += rows
        total, samples = distributed.total((total, samples))
        return total / samples if math.isfinite(total) else math.inf


@torch.no_grad()
def restart_momentum(optimizer: Optimizer) -> None:
    """Forget the sign-carrying moments: averages begin at the next gradient, sums at zero."""
    averages: dict[str, dict[Tensor, None]] = {}
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if key == "exp_avg":
                averages.setdefault(key, {})[parameter] = None
            elif key == "momentum_buffer" and isinstance(value, Tensor):
                value.zero_()
    if averages:
        start_averages(optimizer, averages)
