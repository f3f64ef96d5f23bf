"""Parameters that nothing reaches, and units that never fire."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_RELUS = frozenset(
    {functional.relu, functional.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_}
    | {functional.relu6, functional.hardtanh}
)  # fmt: skip


@dataclass
class DeadUnits:
    """Of one call of ReLU: units whose output was 0 for every sample."""

    path: str
    dead: int
    units: int


@dataclass
class Flow:
    """What gradients say.

    Attributes:
        disconnected: parameters that no gradient reached.
        zero: those whose gradient was exactly zero in all batches.
        frozen: those that are not trained.
        dead: of every call of a ReLU that has dead units.
        norm: of the first batch's gradient.
        loss: of the first batch.
        not_finite: parameters whose gradient was NaN or infinite.
        batches: looked at.
    """

    disconnected: list[str] = field(default_factory=list)
    zero: list[str] = field(default_factory=list)
    frozen: list[str] = field(default_factory=list)
    dead: list[DeadUnits] = field(default_factory=list)
    norm: float = 0.0
    loss: float = 0.0
    not_finite: list[str] = field(default_factory=list)
    batches: int = 0


def follow(model: nn.Module, batches: Iterable[Any], step: Callable[[Any], Tensor]) -> Flow:
    """Take the gradient of some batches, and look where it arrives; nothing is trained.

    Args:
        model: the network.
        batches: of training data.
        step: forward and backward pass of a batch; returns the loss.
    """
    flow = Flow(frozen=[name for name, p in model.named_parameters() if not p.requires_grad])
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    reached: set[str] = set()
    largest = dict.fromkeys(trained, 0.0)
    bad: set[str] = set()
    with _Firing(model) as firing:
        for batch in batches:
            model.zero_grad()
            firing.begin()
            loss = float(step(batch))
            gradients = {name: p.grad for name, p in trained.items() if p.grad is not None}
            reached |= gradients.keys()
            for name, gradient in gradients.items():
                top = float(gradient.abs().max()) if gradient.numel() else 0.0
                largest[name] = max(largest[name], top)
                if not bool(torch.isfinite(gradient).all()):
                    bad.add(name)
            if flow.batches == 0:
                flow.loss = loss
                flow.norm = float(
                    torch.stack([g.detach().float().norm() for g in gradients.values()]).norm() if gradients else 0.0
                )
            flow.batches += 1
    model.zero_grad()
    flow.disconnected = [name for name in trained if name not in reached]
    flow.zero = [name for name in trained if name in reached and largest[name] == 0 and name not in bad]
    flow.not_finite = sorted(bad)
    flow.dead = firing.dead()
    return flow


class _Firing(TorchFunctionMode):
    """Watches every ReLU, whether a module or a function: which of its units were ever above 0."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model, self._inside, self._number = model, [""], 0
        self._last = ""
        self._fired: dict[tuple[str, int], Tensor] = {}
        self._stack = ExitStack()

    def begin(self) -> None:
        """A new batch: calls are counted anew."""
        self._number = 0

    def dead(self) -> list[DeadUnits]:
        """The calls with units that never fired, in order."""
        calls = sorted(self._fired.items(), key=lambda item: item[0][1])
        found = [DeadUnits(path, int((~fired).sum()), fired.numel()) for (path, _), fired in calls]
        return [each for each in found if each.dead]

    def __enter__(self) -> _Firing:
        self._stack.enter_context(_paths(self._model, self._inside, self._leave))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._stack.close()

    def _leave(self, module: nn.Module) -> None:
        name = type(module).__name__
        if "Conv" in name or "BatchNorm" in name or "GroupNorm" in name:
            self._last = "channels first"
        elif "Linear" in name or "LayerNorm" in name:
            self._last = "channels last"

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _RELUS and isinstance(result, Tensor) and result.dim() > 1 and self._saturates(func, args, kwargs):
            with torch._C.DisableTorchFunction():
                last = result.dim() == 2 or (result.dim() == 3 and self._last != "channels first")
                units = result.detach().movedim(-1 if last else 1, 0).flatten(1)
                fired = (units > 0).any(1)
                key = (self._inside[-1], self._number)
                known = self._fired.get(key)
                self._fired[key] = fired if known is None else known | fired
                self._number += 1
        return result

    @staticmethod
    def _saturates(func: Any, args: Any, kwargs: Any) -> bool:
        """`hardtanh` is ReLU6's own function, and something else otherwise."""
        if func is not functional.hardtanh:
            return True
        low = (kwargs or {}).get("min_val", args[1] if len(args) > 1 else -1.0)
        return low == 0


@contextmanager
def _paths(model: nn.Module, inside: list[str], leave: Callable[[nn.Module], None]) -> Iterator[None]:
    """Keeps the path of the module at work at the end of a list."""
    handles = []
    for path, module in model.named_modules():

        def enter(_module: nn.Module, _arguments: Any, path: str = path) -> None:
            inside.append(path)

        def exit_(module: nn.Module, _arguments: Any, _output: Any) -> None:
            inside.pop()
            leave(module)

        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(exit_)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
