"""Which tensor dimensions belong together along the width axis, found once by tracing the network.

The network is traced with `torch.fx` on an example input; each layer's and operation's rule (`rules.py`) carries the
widths on. The result says for every parameter and buffer which group of units lies on which of its dimensions: that is
all the transfer between levels needs to know.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp, TensorMetadata

from accelerator.errors import ConfigError, did_you_mean
from accelerator.multilevel.layout import Layout, RefusalError, Role, Span, Widths
from accelerator.multilevel.rules import MODULES, OPERATIONS, Place, Rule, addition, product

Example = Tensor | Sequence[Tensor]


@dataclass(frozen=True)
class Slot:
    """One dimension of a parameter or buffer with a group on it."""

    dim: int
    span: Span
    role: Role


@dataclass(frozen=True)
class Attribute:
    """A module's attribute (or its entry `index`) that states the size of a span, such as `in_features`."""

    module: str
    name: str
    index: int | None
    span: Span


@dataclass(frozen=True)
class Group:
    """Units that are coarsened together.

    Args:
        width: number of units in the traced network.
        layers: paths of the layers that produce them.
        blocks: units of different blocks (equal and contiguous, as GroupNorm's) are never aggregated.
        kept: why the group is never coarsened; None when it is.
        inhomogeneous: places where the units pass an operation with f(s·x) ≠ s·f(x).
    """

    width: int
    layers: tuple[str, ...]
    blocks: int = 1
    kept: str | None = None
    inhomogeneous: tuple[str, ...] = ()


@dataclass(frozen=True)
class Coupling:
    """The groups of a network and their places.

    Args:
        groups: by number, in the order met.
        slots: for each parameter and buffer the dimensions with a group that is coarsened; tensors without one are not
            listed.
        attributes: integers of the modules that state a coarsened width.
    """

    groups: Mapping[int, Group]
    slots: Mapping[str, tuple[Slot, ...]]
    attributes: tuple[Attribute, ...]

    @property
    def free(self) -> dict[int, Group]:
        """The groups that can be coarsened."""
        return {number: group for number, group in self.groups.items() if group.kept is None}


def trace_coupling(model: nn.Module, example_input: Example, *, leave_out: Collection[str] = ()) -> Coupling:
    """Find the groups of units of a network.

    Args:
        model: any module `torch.fx` can trace; it is run once in evaluation mode and left as it was.
        example_input: a batch as the model is called with, or a sequence of positional arguments.
        leave_out: paths of modules that keep their size, with everything in them.

    Raises:
        ConfigError: something cannot be coarsened: each place is named with the reason, all together.
    """
    modules = dict(model.named_modules())
    for path in leave_out:
        if path not in modules:
            raise ConfigError(
                f"leave_out names '{path}', which is no module of the network{did_you_mean(path, modules)}"
            )
    trace = _Trace(model, _traced(model, example_input, leave_out), leave_out)
    return trace.coupling()


def inputs_of(example_input: Example) -> tuple[Tensor, ...]:
    """The positional arguments an example input stands for."""
    return (example_input,) if isinstance(example_input, Tensor) else tuple(example_input)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """The network in evaluation mode (no dropout, running statistics untouched); each module's mode is restored."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


class _Tracer(fx.Tracer):
    """Enters the user's own modules, stops at the layers that have a rule and at those left out."""

    def __init__(self, leave_out: Collection[str]) -> None:
        super().__init__()
        self._leave_out = leave_out

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return (
            module_qualified_name in self._leave_out
            or rule_of(m) is not None
            or super().is_leaf_module(m, module_qualified_name)
        )


def rule_of(module: nn.Module) -> Rule | None:
    """The rule of a layer: of its class, or of the class it inherits `forward` from."""
    if hasattr(module, "parametrizations"):
        return None
    for base in type(module).__mro__:
        if base in MODULES and type(module).forward is base.forward:
            return MODULES[base]
    return None


def _traced(model: nn.Module, example_input: Example, leave_out: Collection[str]) -> fx.GraphModule:
    try:
        with evaluation_mode(model), torch.no_grad():
            traced = fx.GraphModule(model, _Tracer(leave_out).trace(model))
            ShapeProp(traced).propagate(*inputs_of(example_input))
    except Exception as error:
        raise ConfigError(
            f"{type(model).__name__} cannot be traced for multilevel training: {type(error).__name__}: {error}\n"
            "Check the example input; if a module's forward branches on tensor values, name that module in leave_out."
        ) from error
    return traced


class _Trace:
    """Walks the traced graph, hands each node to its rule and gathers what cannot be coarsened."""

    def __init__(self, model: nn.Module, traced: fx.GraphModule, leave_out: Collection[str]) -> None:
        self._network = type(model).__name__
        self._modules = dict(model.named_modules(remove_duplicate=False))
        self._parameters = {name for name, _ in model.named_parameters()}
        self._names = {id(tensor): name for name, tensor in [*model.named_buffers(), *model.named_parameters()]}
        self._leave_out = leave_out
        self._widths = Widths()
        self._layouts: dict[fx.Node, Layout] = {}
        self._problems: list[str] = []
        self._blocked: list[tuple[int, str]] = []
        for node in traced.graph.nodes:
            self._visit(node, traced)

    def _visit(self, node: fx.Node, traced: fx.GraphModule) -> None:
        inputs = tuple(self._layouts[source] for source in _tensor_arguments(node) if source in self._layouts)
        if node.op == "output":
            for group in frozenset().union(*(layout.groups() for layout in inputs)):
                self._widths.keep(group, "it is an output of the network")
            return
        meta = node.meta.get("tensor_meta")
        if meta is None:
            return
        shape = tuple(meta.shape) if isinstance(meta, TensorMetadata) else ()
        if node.op == "get_attr":
            name = self._names.get(id(_attribute(traced, str(node.target))))
            self._layouts[node] = Layout(shape, (None,) * len(shape), parameter=name if prod(shape) > 1 else None)
        elif node.op == "placeholder":
            self._layouts[node] = Layout.fixed(shape)
        elif node.op == "call_module":
            self._layouts[node] = self._layer(node, inputs, shape)
        else:
            self._layouts[node] = self._operation(node, inputs, shape)

    def _layer(self, node: fx.Node, inputs: tuple[Layout, ...], shape: tuple[int, ...]) -> Layout:
        path = str(node.target)
        module = self._modules[path]
        if path in self._leave_out:
            for group in frozenset().union(*(layout.groups() for layout in inputs)):
                self._widths.keep(group, f"'{path}' reads it and is left out")
            return Layout.fixed(shape)
        own = [*module.named_buffers(recurse=False), *module.named_parameters(recurse=False)]
        tensors = {attribute: self._names[id(tensor)] for attribute, tensor in own}
        label = f"'{path}' ({type(module).__name__})"
        place = Place(label, node, inputs, shape, module, path, tensors)
        learned = next(module.parameters(), None) is not None
        return self._apply(rule_of(module), place, learned, f"leave_out=['{path}'] keeps it at full width")

    def _operation(self, node: fx.Node, inputs: tuple[Layout, ...], shape: tuple[int, ...]) -> Layout:
        name = str(node.target if isinstance(node.target, str) else getattr(node.target, "__name__", node.target))
        stack = node.meta.get("nn_module_stack") or {}
        owner = next(reversed(list(stack.values())), ("", type(None)))[0]
        inside = f"'{owner}' ({type(self._modules[owner]).__name__})" if owner else self._network
        rule = OPERATIONS.get(name.rstrip("_"))
        label = f"{name} in {inside}"
        parameters = [layout.parameter for layout in inputs if layout.parameter in self._parameters]
        if parameters:
            label += f" on parameter '{parameters[0]}'"
            rule = rule if rule in (addition, product) else None
        place = Place(label, node, inputs, shape)
        remedy = f"leave_out=['{owner}'] keeps it at full width" if owner else "put it in a module to leave it out"
        return self._apply(rule, place, bool(parameters), remedy)

    def _apply(self, rule: Rule | None, place: Place, learned: bool, remedy: str) -> Layout:
        """The output's layout; where no rule leads on, the widths stop here and are remembered as blocked."""
        through = frozenset().union(*(layout.through for layout in place.inputs))
        try:
            if rule is None:
                raise RefusalError("there is no rule for coarsening it")
            spans = rule(self._widths, place)
            assert len(spans) == len(place.shape), f"{place.path}: {spans} does not fit {place.shape}"
            return Layout(place.shape, spans, frozenset() if place.tensors else through)
        except RefusalError as refusal:
            if learned:
                self._problems.append(f"cannot coarsen {place.path}: {refusal}; {remedy}")
                return Layout.fixed(place.shape)
            stopped = [span.group for layout in place.inputs for span in layout.spans if span is not None]
            self._blocked += [(group, f"{place.path}: {refusal}") for group in stopped]
            return Layout.fixed(place.shape, through.union(stopped))

    def coupling(self) -> Coupling:
        """The groups found.

        Raises:
            ConfigError: naming every place where a width could not be followed, or that nothing is left to coarsen.
        """
        widths = self._widths
        stopped: dict[int, dict[str, None]] = {}
        for group, where in self._blocked:
            if (root := widths.find(group)) not in widths.kept:
                stopped.setdefault(root, {})[where] = None
        for root, places in stopped.items():
            layers = list(dict.fromkeys(widths.producers[root]))
            self._problems.append(
                f"cannot coarsen the {widths.width[root]} units of {', '.join(map(repr, layers))}: "
                f"{'; '.join(places)}; leave_out={layers} keeps them"
            )
        if self._problems:
            raise ConfigError(dict.fromkeys(self._problems))
        roots = sorted({widths.find(group) for group in range(len(widths.width))})
        groups = {
            root: Group(
                widths.width[root],
                tuple(dict.fromkeys(widths.producers[root])),
                widths.blocks[root],
                widths.kept.get(root),
                tuple(dict.fromkeys(widths.inhomogeneous[root])),
            )
            for root in roots
        }
        slots: dict[str, list[Slot]] = {}
        for (name, dim), claim in widths.claims.items():
            if claim.span is not None and groups[widths.find(claim.span.group)].kept is None:
                slots.setdefault(name, []).append(Slot(dim, widths.resolve(claim.span), claim.role))
        attributes = tuple(
            Attribute(module, name, index, widths.resolve(span))
            for (module, name, index), span in widths.attributes.items()
            if groups[widths.find(span.group)].kept is None
        )
        coupling = Coupling(groups, {name: tuple(found) for name, found in slots.items()}, attributes)
        if not coupling.free:
            reasons = "; ".join(f"{', '.join(group.layers)}: {group.kept}" for group in groups.values())
            raise ConfigError(f"{self._network} has no width to coarsen ({reasons or 'it has no layer with units'})")
        return coupling


def _tensor_arguments(node: fx.Node) -> list[fx.Node]:
    """The nodes among the arguments, in order, repeated where they are used twice (x + x)."""
    found: list[fx.Node] = []

    def note(source: fx.Node) -> fx.Node:
        found.append(source)
        return source

    fx.map_arg((node.args, node.kwargs), note)
    return found


def _attribute(root: nn.Module, path: str) -> Any:
    for part in path.split("."):
        root = getattr(root, part)
    return root
