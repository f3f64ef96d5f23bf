"""Many networks of one kind as one: their parameters are the rows of one tensor, their steps one computation.

The networks stay where they are and what they are: each one's parameters and buffers become views of the stacked
tensors, so whoever validates, saves or loads a network sees it as ever.

Shape legend: N networks, P trainable parameters of each, B samples of a batch.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.optim import Optimizer

from accelerator.runtime.data.feed import Batch
from accelerator.runtime.engine.base import Clip, Objective
from accelerator.runtime.vectorized.row_optimizers import ROW_OPTIMIZERS, SWITCHES


class CannotStackError(Exception):
    """The networks cannot be trained together; the message says why, beginning with the key."""


class Stack:
    """N networks that take their steps together.

    Args:
        models: of one class and of the same shapes; what is not a parameter or a buffer is taken from the first.
        objective: the loss of each, ``f(prediction, target) -> 0-dim tensor``.
        optimizers: one for each network, all of one class of `ROW_OPTIMIZERS`, of its trainable parameters in order.
        clips: what each one's gradients are cut to.

    Raises:
        CannotStackError: they differ in more than values.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        objective: Objective,
        optimizers: Sequence[Optimizer],
        clips: Sequence[Clip] | None = None,
    ) -> None:
        self.models, self._objective = list(models), objective
        _check_alike(models, optimizers)
        self._model = copy.deepcopy(models[0]).train()  # hooks that others put on the networks are not for these calls
        trained = [[p for p in model.parameters() if p.requires_grad] for model in models]
        self._names = [name for name, p in models[0].named_parameters() if p.requires_grad]
        self._again = _again(models[0])
        self._shapes = [(len(models), *p.shape) for p in trained[0]]
        self._sizes = [p.numel() for p in trained[0]]
        rows = torch.stack([torch.cat([p.detach().flatten() for p in parameters]) for parameters in trained])
        for row, parameters in zip(rows, trained, strict=True):
            for part, parameter in zip(row.split(self._sizes), parameters, strict=True):
                parameter.data = part.view_as(parameter)
        self.rows = rows.requires_grad_()
        self._others = _stacked([_others(model) for model in models])
        self._optimizer = ROW_OPTIMIZERS[type(optimizers[0])](optimizers, self.rows)
        self._losses = vmap(self._loss)
        clips = [Clip()] * len(models) if clips is None else clips
        self._value, self._norm = self._limits([c.value for c in clips]), self._limits([c.norm for c in clips])
        self._gradients: Tensor | None = None

    def forward_backward(self, batches: Sequence[Batch]) -> Tensor:
        """The loss of each network on its own batch: (N,), detached; the gradients wait for `step`."""
        inputs, targets = (torch.stack(parts) for parts in zip(*batches, strict=True))
        parts = self.rows.split(self._sizes, 1)
        parameters = {
            name: part.view(shape) for name, part, shape in zip(self._names, parts, self._shapes, strict=True)
        }
        losses = self._losses(parameters, self._others, inputs, targets)
        # No loss depends on another's row: the gradient of their sum holds each one's own.
        (self._gradients,) = torch.autograd.grad(losses.sum(), self.rows)
        return losses.detach()

    @torch.no_grad()
    def step(self) -> None:
        """Clip, step, and forget the gradients."""
        gradients, self._gradients = self._gradients, None
        assert gradients is not None
        if self._value is not None:
            torch.clamp(gradients, -self._value, self._value, out=gradients)
        if self._norm is not None:
            norms = torch.linalg.vector_norm(gradients, dim=1, keepdim=True)
            gradients.mul_((self._norm / (norms + 1e-6)).clamp_(max=1.0))
        self._optimizer.step(gradients)

    def check(self, batches: Sequence[Batch], objectives: Sequence[Objective]) -> None:
        """Compare loss and gradient of every network on its batch with its own, computed alone; nothing changes.

        Raises:
            CannotStackError: they cannot be computed together, or are not the same.
        """
        kept = [value.clone() for value in self._others.values()]
        try:
            try:
                losses = self.forward_backward(batches)
            except RuntimeError as error:
                raise CannotStackError(_why(error)) from error
            gradients, self._gradients = self._gradients, None
            assert gradients is not None
            for index, (model, objective, batch) in enumerate(zip(self.models, objectives, batches, strict=True)):
                parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
                loss = objective(model.train()(batch[0]), batch[1])
                own = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
                if unused := [name for name, part in zip(parameters, own, strict=True) if part is None]:
                    raise CannotStackError(f"model: the loss does not depend on its parameter {unused[0]}")
                alone = torch.cat([part.flatten() for part in own if part is not None])
                error = torch.linalg.vector_norm(gradients[index] - alone) / torch.linalg.vector_norm(alone)
                if error > 1e-3 or not torch.allclose(loss.detach(), losses[index], rtol=1e-4, equal_nan=True):
                    raise CannotStackError(
                        f"model: its loss is {losses[index]:.6g} together and {loss.detach():.6g} alone, the "
                        f"gradients differ by {error:.1%}: something in it is neither parameter nor buffer, and not "
                        "the same in all jobs"
                    )
        finally:
            for value, before in zip(self._others.values(), kept, strict=True):
                value.copy_(before)

    def _loss(self, parameters: dict[str, Tensor], others: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> Any:
        tensors = {**parameters, **others}
        tensors |= {name: tensors[first] for name, first in self._again.items()}
        # That torch looks for what is tied anew in each call would take longer than a small network's forward pass.
        return self._objective(functional_call(self._model, tensors, (inputs,), tie_weights=False), targets)

    def _limits(self, limits: list[float | None]) -> Tensor | None:
        if all(limit is None for limit in limits):
            return None
        bounds = [torch.inf if limit is None else limit for limit in limits]
        return torch.tensor(bounds, dtype=self.rows.dtype, device=self.rows.device)[:, None]


def _check_alike(models: Sequence[nn.Module], optimizers: Sequence[Optimizer]) -> None:
    kinds = {type(optimizer) for optimizer in optimizers}
    if len(kinds) > 1 or not kinds <= ROW_OPTIMIZERS.keys():
        raise CannotStackError(f"optimizer: it is {', '.join(sorted(kind.__name__ for kind in kinds))}")
    for name in SWITCHES:
        if len({bool(optimizer.param_groups[0].get(name)) for optimizer in optimizers}) > 1:
            raise CannotStackError(f"optimizer.{name}: it is not the same in all jobs")
    if any(len(optimizer.param_groups) > 1 for optimizer in optimizers):
        raise CannotStackError("optimizer: it has several groups of parameters")
    shapes = [{name: (tensor.shape, tensor.dtype) for name, tensor in _tensors(model).items()} for model in models]
    if any(other != shapes[0] for other in shapes[1:]):
        raise CannotStackError("model: it has parameters or buffers of other shapes in another job")
    trained = {(p.dtype, p.device) for model in models for p in model.parameters() if p.requires_grad}
    if len(trained) != 1:
        raise CannotStackError("model: its parameters have several data types or devices")


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _again(model: nn.Module) -> dict[str, str]:
    """Further names of tensors that stand in several places, and the first name of each."""
    first = {id(tensor): name for name, tensor in _tensors(model).items()}
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {name: first[id(tensor)] for name, tensor in named if first[id(tensor)] != name}


def _others(model: nn.Module) -> dict[str, Tensor]:
    """Buffers, and parameters that are not trained."""
    return {name: tensor for name, tensor in _tensors(model).items() if not tensor.requires_grad}


@torch.no_grad()
def _stacked(tensors: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """(N, …) for each name; the tensors become views of them."""
    together = {name: torch.stack([own[name].detach() for own in tensors]) for name in tensors[0]}
    for index, own in enumerate(tensors):
        for name, tensor in own.items():
            tensor.data = together[name][index]
    return together


def _why(error: RuntimeError) -> str:
    """What hinders `torch.vmap`, in a clause."""
    text = str(error)
    if "random" in text:
        return "model: it draws random numbers in its steps (dropout), which would be others than in a run alone"
    if ".item()" in text or "data-dependent control flow" in text:
        return "model: it asks for the value of a tensor in its steps (.item(), or an if on a tensor)"
    return f"model: torch.vmap cannot compute it: {text.strip().splitlines()[0]}"
