"""What a rule is told and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import fx, nn

from accelerator.multilevel.layout import Extent, Layout, RefusalError, Spans, Widths
from accelerator.multilevel.sizes import Size, Sizes

Layouts = Layout | tuple["Layouts", ...]
"""The layout of a tensor, or those of a tuple of tensors."""


@dataclass(frozen=True)
class Several:
    """The spans of each tensor of a tuple, what `chunk` or attention returns."""

    members: tuple[Spans, ...]


Rule = Callable[[Widths, "Place"], Spans | Several]


@dataclass(frozen=True)
class Place:
    """A node of the traced network, as its rule sees it.

    Args:
        path: how messages call it.
        node: the node of the graph.
        inputs: the layouts of its tensor arguments, in order.
        shape: of its output on the example input; of a tuple, its first tensor's.
        shapes: of every tensor of its output.
        layouts: of every tensor node so far.
        numbers: what the other nodes so far are, as far as they are sizes.
        sizes: collects what sizes must be on every level.
        module: the layer and its path in the network; None for a function or method.
        names: canonical name of each parameter and buffer, by the tensor's id.
        paths: canonical path of each module, by its id.
    """

    path: str
    node: fx.Node
    inputs: tuple[Layout, ...]
    shape: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...] = ()
    layouts: Mapping[fx.Node, Layouts] = field(default_factory=dict)
    numbers: Mapping[fx.Node, Any] = field(default_factory=dict)
    sizes: Sizes | None = None
    module: nn.Module | None = None
    module_path: str = ""
    names: Mapping[int, str] = field(default_factory=dict)
    paths: Mapping[int, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The operation's name: the class of a layer, the name of a function or method (in-place ones without `_`)."""
        return type(self.module).__name__ if self.module is not None else operation_name(self.node)

    @property
    def tensors(self) -> dict[str, str]:
        """Canonical name of each of the layer's own parameters and buffers."""
        if self.module is None:
            return {}
        own = [*self.module.named_buffers(recurse=False), *self.module.named_parameters(recurse=False)]
        return {attribute: self.names[id(tensor)] for attribute, tensor in own}

    def argument(self, name: str, position: int, default: Any = None) -> Any:
        """An argument of the call, given by position or by name."""
        if name in self.node.kwargs:
            return self.node.kwargs[name]
        return self.node.args[position] if len(self.node.args) > position else default

    def layout(self, name: str, position: int) -> Layout | None:
        """The layout of a tensor argument; None where no tensor is given."""
        found = self._layout(self.argument(name, position))
        return found if isinstance(found, Layout) else None

    def tensors_in(self, name: str, position: int) -> list[Layout]:
        """The layouts of an argument that is a list of tensors (or a tuple some operation returned)."""
        argument = self.argument(name, position)
        found = argument if isinstance(argument, (tuple, list)) else self._layout(argument)
        members = [self._layout(member) for member in found or ()]
        if not all(isinstance(member, Layout) for member in members):
            raise RefusalError(f"its argument '{name}' is no list of tensors")
        return members  # pyright: ignore[reportReturnType]

    def _layout(self, argument: Any) -> Any:
        return self.layouts.get(argument) if isinstance(argument, fx.Node) else argument

    def size(self, argument: Any) -> Size:
        """What a number given to the operation is computed from."""
        if isinstance(argument, fx.Node):
            found = self.numbers.get(argument)
            return found if isinstance(found, Size) else Size(None)
        return Size(argument, getattr(argument, "powers", {}))

    def require(self, argument: Any, extent: Extent) -> None:
        """A number given to the operation must be the entries of this extent on every level, or constant."""
        assert self.sizes is not None
        self.sizes.require(self.size(argument), extent, self.path)

    def integer(self, name: str, position: int, default: int | None = None) -> int:
        """An argument that is a plain number, such as a dimension.

        Raises:
            RefusalError: it is computed.
        """
        value = self.argument(name, position, default)
        if not isinstance(value, int):
            raise RefusalError(f"its argument '{name}' is not a plain number")
        return int(value)

    def dimension(self, name: str, position: int, rank: int, default: int | None = None) -> int:
        """An argument that is a dimension, counted from the front."""
        return self.integer(name, position, default) % rank

    def inner(self, module: nn.Module, inputs: tuple[Layout, ...], shape: tuple[int, ...]) -> Place:
        """The place of a layer inside this one."""
        path = self.paths[id(module)]
        label = f"'{path}' ({type(module).__name__})"
        return replace(self, path=label, inputs=inputs, shape=shape, module=module, module_path=path)


def operation_name(node: fx.Node) -> str:
    """The name of a function, method or attribute; in-place ones without `_`."""
    target = node.target
    if target is getattr:
        return str(node.args[1])
    name = target if isinstance(target, str) else getattr(target, "__name__", str(target))
    return name.rstrip("_")


def channel(place: Place, extents: Spans) -> Extent:
    """What lies on dimension 1."""
    if len(extents) < 2:
        raise RefusalError("its input has no dimension 1")
    return extents[1]
