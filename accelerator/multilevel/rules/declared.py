"""Layers that say themselves what lies on their tensors: the protocol `tensor_dimensions`.

A layer that computes in a way of its own (a spectral convolution, say) has a method

    def tensor_dimensions(self) -> dict[str, tuple[str, ...]]

which gives for each of its own parameters and buffers one word a dimension:

- ``"in"``: reads the input's channels (dimension 1 of the first argument);
- ``"out"``: produces the output's channels (dimension 1 of the result);
- ``"modes[i]"``: the frequencies 0 … K−1 along direction i, K being the layer's attribute ``modes[i]``;
- ``"±modes[i]"``: the frequencies −K … K−1 along direction i;
- ``""``: nothing that may be coarsened.

The result must be linear in the input and in each tensor with "in", and a layer with fewer frequencies must be the
layer with the others' coefficients zero. A layer with neither "in" nor "out" passes the channels on one by one.
Integer attributes ``in_channels`` and ``out_channels`` follow the widths where the layer has them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import nn

from accelerator.multilevel.layout import RefusalError, Span, Spans, Widths
from accelerator.multilevel.rules.place import Place, channel

_MODES = re.compile(r"(±?)modes\[(\d+)\]")


def declares(module: nn.Module) -> bool:
    """Whether the layer says itself what lies on its tensors."""
    return callable(getattr(module, "tensor_dimensions", None))


def declared_channels(widths: Widths, place: Place) -> Spans:
    """The channels of a layer that declares its tensors' dimensions."""
    module, spans = place.module, place.inputs[0].spans
    assert module is not None
    words = _declaration(module)
    if any(span for dim, span in enumerate(spans) if dim != 1):
        raise RefusalError("it reads a dimension that is a width and not its channels")
    reads, passes = channel(place, spans), True
    produced: Span | None = None
    for attribute, dims in words.items():
        name, tensor = place.tensors[attribute], getattr(module, attribute)
        for dim, word in enumerate(dims):
            if word == "in":
                widths.claim(name, dim, reads, "column", place.path)
                widths.attribute(place.module_path, "in_channels", reads if hasattr(module, "in_channels") else None)
                passes = False
            elif word == "out" and produced is None:
                produced = widths.produce(name, dim, tensor.shape[dim], place.module_path)
            elif word == "out":
                widths.claim(name, dim, produced, "row", place.path)
            elif not _MODES.fullmatch(word):
                widths.claim(name, dim, None, "invariant", place.path)
    if passes and produced is None:
        return (spans[0], reads, *(None for _ in place.shape[2:]))
    if passes and reads is not None:
        raise RefusalError("its tensor_dimensions() name no dimension that reads the input's channels ('in')")
    if hasattr(module, "out_channels"):
        widths.attribute(place.module_path, "out_channels", produced)
    return (None, produced, *(None for _ in place.shape[2:]))


def declared_modes(widths: Widths, module: nn.Module, path: str, names: Mapping[int, str]) -> None:
    """The frequencies of a layer that declares its tensors' dimensions.

    Raises:
        RefusalError: a tensor does not have as many entries as the layer's `modes` say.
    """
    found: dict[int, Span] = {}
    for attribute, dims in _declaration(module).items():
        tensor = getattr(module, attribute)
        for dim, word in enumerate(dims):
            if (match := _MODES.fullmatch(word)) is None:
                continue
            centred, direction = bool(match[1]), int(match[2])
            entries = (1 + centred) * int(module.modes[direction])  # pyright: ignore[reportIndexIssue, reportArgumentType]
            if tensor.shape[dim] != entries:
                raise RefusalError(
                    f"tensor_dimensions() calls dimension {dim} of '{attribute}' {word!r}, which is {entries}, but it "
                    f"has {tensor.shape[dim]} entries"
                )
            if direction not in found:
                found[direction] = widths.new(entries, [path], "modes", centred=centred)
                widths.attribute(path, "modes", found[direction], direction, 1 + centred)
            elif widths.centred[found[direction].group] != centred:
                raise RefusalError(f"tensor_dimensions() uses both 'modes[{direction}]' and '±modes[{direction}]'")
            widths.claim(names[id(tensor)], dim, found[direction], "unit", f"'{path}'")


def _declaration(module: nn.Module) -> dict[str, tuple[str, ...]]:
    """The declaration, checked against the layer's tensors."""
    words = module.tensor_dimensions()  # pyright: ignore[reportCallIssue]
    own = dict([*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)])
    if words.keys() != own.keys():
        raise RefusalError(
            f"tensor_dimensions() must name each of its own tensors, {sorted(own)}; it names {sorted(words)}"
        )
    for attribute, dims in words.items():
        if len(dims) != own[attribute].dim():
            raise RefusalError(
                f"tensor_dimensions() gives {len(dims)} words for '{attribute}', which has {own[attribute].dim()} "
                "dimensions"
            )
        for word in dims:
            if word not in ("in", "out", "") and _MODES.fullmatch(word) is None:
                raise RefusalError(
                    f"tensor_dimensions() says {word!r}; known are 'in', 'out', 'modes[i]', '±modes[i]', ''"
                )
    return words
