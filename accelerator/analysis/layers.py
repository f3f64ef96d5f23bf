"""The layers of a network in the order they are called: shapes, parameters, FLOPs, time.

A *layer* is a module that holds parameters of its own or no other module, as `torch.nn` layers are.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass
class Layer:
    """One layer.

    Attributes:
        path: its name in the network; "" is the network itself.
        kind: its class.
        module: itself.
        parameters: numbers in tensors of its own, shared ones once in the network.
        trainable: those of them that are trained.
        shape: of its (first) output, the batch first; None if it was not called.
        calls: in a forward pass.
        forward_flops, backward_flops: of a batch.
        forward_seconds, backward_seconds: of a batch, medians; None if not taken.
    """

    path: str
    kind: str
    module: nn.Module
    parameters: int
    trainable: int
    shape: tuple[int, ...] | None = None
    calls: int = 0
    forward_flops: int = 0
    backward_flops: int = 0
    forward_seconds: float | None = None
    backward_seconds: float | None = None


def layers_of(model: nn.Module) -> list[Layer]:
    """The layers in order of definition; see the head of this module for what one is."""
    found: list[Layer] = []
    counted: set[int] = set()

    def visit(path: str, module: nn.Module) -> None:
        own = [p for p in module.parameters(recurse=_is_leaf(module)) if id(p) not in counted]
        if own or _is_leaf(module):
            counted.update(map(id, own))
            trainable = sum(p.numel() for p in own if p.requires_grad)
            found.append(Layer(path, type(module).__name__, module, sum(p.numel() for p in own), trainable))
        if not _is_leaf(module):
            for name, child in module.named_children():
                visit(f"{path}.{name}" if path else name, child)

    visit("", model)
    return [layer for layer in found if layer.parameters or not isinstance(layer.module, _CONTAINERS)]


def _is_leaf(module: nn.Module) -> bool:
    """A `torch.nn` layer is one whole, whatever modules it keeps its parts in (attention, LSTMs)."""
    if next(module.children(), None) is None:
        return True
    own = next(module.parameters(recurse=False), None) is not None
    return own and type(module).__module__.startswith("torch.nn")


@dataclass
class Call:
    """What a layer was called with the first time, and what came out."""

    layer: Layer
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    outputs: list[Tensor]


@contextmanager
def observed(layers: list[Layer]) -> Iterator[list[Call]]:
    """Watch forward passes: fills in shapes and calls, and gathers the first call of each layer, in order."""
    calls: list[Call] = []
    known: set[str] = set()

    def watch(layer: Layer) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: Any, keywords: Any, output: Any) -> None:
            layer.calls += 1
            outputs = list(_tensors(output))
            if layer.path not in known and outputs:
                known.add(layer.path)
                layer.shape = tuple(outputs[0].shape)
                calls.append(Call(layer, arguments, keywords, outputs))

        return hook

    handles = [layer.module.register_forward_hook(watch(layer), with_kwargs=True) for layer in layers]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _tensors(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)


def time_layers(calls: list[Call], rounds: int) -> None:
    """Take the times of each layer alone, forward and backward, with the arguments it was called with.

    In a whole pass the time between two layers would count as one's, and hooks as the network's; taken alone, what one
    layer leaves in the cache for the next is not seen.
    """
    for call in calls:
        if _has_inside(call.layer):
            continue
        arguments, keywords = _fresh(call.arguments), _fresh(call.keywords)
        forward, backward = [], []
        for number in range(rounds + 1):
            seconds = _time(call.layer.module, arguments, keywords)
            if number:
                forward.append(seconds[0])
                backward.append(seconds[1])
        call.layer.forward_seconds = statistics.median(forward) * call.layer.calls
        call.layer.backward_seconds = statistics.median(backward) * call.layer.calls


def _fresh(value: Any) -> Any:
    """The same arguments, apart from the graph of the pass they are from."""
    if isinstance(value, Tensor):
        return value.detach().clone().requires_grad_(value.requires_grad)
    if isinstance(value, dict):
        return {name: _fresh(each) for name, each in value.items()}
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        return type(value)(_fresh(each) for each in value)
    return value


def _has_inside(layer: Layer) -> bool:
    """A module with parameters of its own around other layers: what it does beside them cannot be told apart."""
    return not _is_leaf(layer.module)


def _time(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[float, float]:
    begin = _now(arguments)
    outputs, wanted = _forward(module, arguments, keywords)
    forward = _now(arguments) - begin
    begin = _now(arguments)
    _backward(outputs, wanted)
    return forward, _now(arguments) - begin


def _forward(module: nn.Module, arguments: Any, keywords: Any) -> tuple[list[Tensor], list[Tensor]]:
    """The outputs to go back from, and the leaves to go back to."""
    # A layer that works in place may not change the arguments, which are leaves.
    outputs = [each for each in _tensors(module(*_above(arguments), **_above(keywords))) if each.requires_grad]
    leaves = [*_tensors(arguments), *_tensors(keywords), *module.parameters()]
    return outputs, [each for each in leaves if each.requires_grad]


def _backward(outputs: list[Tensor], wanted: list[Tensor]) -> None:
    if outputs and wanted:
        torch.autograd.grad(outputs, wanted, [torch.ones_like(each) for each in outputs], allow_unused=True)


def _above(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone() if value.requires_grad else value
    if isinstance(value, dict):
        return {name: _above(each) for name, each in value.items()}
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        return type(value)(_above(each) for each in value)
    return value


def _now(value: Any) -> float:
    if any(each.is_cuda for each in _tensors(value)):
        torch.cuda.synchronize()
    return time.perf_counter()


@dataclass
class Flops:
    """Of a batch: of matrix products, convolutions and attention, and (apart from them) of Fourier transforms."""

    forward: int = 0
    backward: int = 0
    fft: int = 0


def _fft(shape: Any, *arguments: Any, out_shape: Any = None, **_: Any) -> int:
    """5 n log₂ n for a transform of n complex numbers, half of it for real ones."""
    dims = arguments[0]
    real = max(int(torch.Size(shape).numel()), int(torch.Size(out_shape).numel()))
    whole = shape if int(torch.Size(shape).numel()) == real else out_shape
    length = 1
    for dim in dims:
        length *= whole[dim]
    same = tuple(shape) == tuple(out_shape)
    return int((5 if same else 2.5) * real * torch.tensor(float(max(length, 1))).log2().item())


_TRANSFORMS = (torch.ops.aten._fft_r2c, torch.ops.aten._fft_c2c, torch.ops.aten._fft_c2r)
_FFTS: dict[Any, Any] = dict.fromkeys(_TRANSFORMS, _fft)


def count_flops(step: Callable[[], Tensor]) -> Flops:
    """FLOPs of a forward and a backward pass, by torch's count: 2·m·n·k for a product (m, k) × (k, n).

    Args:
        step: a forward pass through network and loss; returns the loss.
    """
    result = Flops()
    with FlopCounterMode(display=False, custom_mapping=_FFTS) as counter:
        loss = step()
        result.forward, transforms = _divided(counter)
        if loss.requires_grad:
            loss.backward()
    whole, result.fft = _divided(counter)
    assert result.fft >= transforms
    result.backward = whole - result.forward
    return result


def _divided(counter: FlopCounterMode) -> tuple[int, int]:
    """What was counted: without Fourier transforms, and theirs."""
    counts = counter.get_flop_counts().get("Global", {})
    transforms = sum(count for op, count in counts.items() if op in _TRANSFORMS)
    return counter.get_total_flops() - transforms, transforms


def count_layers(calls: list[Call]) -> None:
    """Fill in the FLOPs of each layer, which is called alone for it with the arguments it was called with."""
    for call in calls:
        if _has_inside(call.layer):
            continue
        arguments, keywords = _fresh(call.arguments), _fresh(call.keywords)
        with FlopCounterMode(display=False, custom_mapping=_FFTS) as counter:
            outputs, wanted = _forward(call.layer.module, arguments, keywords)
            forward, _ = _divided(counter)
            _backward(outputs, wanted)
        call.layer.forward_flops = forward * call.layer.calls
        call.layer.backward_flops = (_divided(counter)[0] - forward) * call.layer.calls
