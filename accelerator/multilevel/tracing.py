"""The walk through a network that finds its widths: `torch.fx` traces it, each node is handed to its rule."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp, TensorMetadata

from accelerator.errors import ConfigError
from accelerator.multilevel.layout import Layout, RefusalError, Widths, spans_on
from accelerator.multilevel.rules import (
    ON_PARAMETERS,
    OPERATIONS,
    PASS_PARAMETERS,
    TAKES_SIZES,
    Layouts,
    Place,
    Rule,
    Several,
    declared_modes,
    declares,
    operation_name,
    passed_parameter,
    rule_of,
)
from accelerator.multilevel.sizes import Size, Sizes, scaled, stated_attributes

Example = Tensor | Sequence[Tensor]


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


def trace_modes(widths: Widths, model: nn.Module, leave_out: Collection[str]) -> list[str]:
    """Find the frequencies of the layers that declare them; returns what cannot be coarsened, with the reason.

    No graph is needed: frequencies never leave their layer.
    """
    names, problems = _names(model), []
    for path, module in model.named_modules():
        if declares(module) and not _is_left_out(path, leave_out):
            try:
                if hasattr(module, "parametrizations"):
                    raise RefusalError(_COMPUTED)
                declared_modes(widths, module, path, names)
            except RefusalError as refusal:
                problems.append(f"cannot coarsen '{path}' ({type(module).__name__}): {refusal}; {_remedy(path)}")
    for path in leave_out:
        _pin(widths, model.get_submodule(path), path, names)
    return problems


def trace_widths(widths: Widths, model: nn.Module, example_input: Example, leave_out: Collection[str]) -> list[str]:
    """Find the widths of a network; returns what cannot be coarsened, with the reason.

    Raises:
        ConfigError: the network cannot be traced.
    """
    sizes = Sizes(widths)
    return _Trace(widths, sizes, model, _traced(model, example_input, leave_out, sizes), leave_out).problems()


class _Tracer(fx.Tracer):
    """Enters the user's own modules, stops at the layers that have a rule and at those left out."""

    proxy_buffer_attributes = True  # self.mask[:length] with a length taken from a shape

    def __init__(self, leave_out: Collection[str]) -> None:
        super().__init__()
        self._leave_out = leave_out

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return (
            module_qualified_name in self._leave_out
            or rule_of(m) is not None
            or _computed_weight(m)
            or super().is_leaf_module(m, module_qualified_name)
        )


class _Shapes(ShapeProp):
    """Notes the shapes of tensors and the values of numbers."""

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, int):
            n.meta["number"] = int(result)
        return result


def _traced(model: nn.Module, example_input: Example, leave_out: Collection[str], sizes: Sizes) -> fx.GraphModule:
    tracer = _Tracer(leave_out)
    entered = {path: module for path, module in model.named_modules() if not tracer.is_leaf_module(module, path)}
    try:
        with evaluation_mode(model), torch.no_grad():
            with stated_attributes(entered, sizes.used_as_number):
                graph = tracer.trace(model)
            traced = fx.GraphModule(model, graph)
            _Shapes(traced).propagate(*inputs_of(example_input))
    except Exception as error:
        raise ConfigError(
            f"{type(model).__name__} cannot be traced for multilevel training: {type(error).__name__}: {error}\n"
            "Check the example input; if a module's forward branches on tensor values, name that module in leave_out."
        ) from error
    return traced


class _Trace:
    """Walks the traced graph, hands each node to its rule and gathers what cannot be coarsened."""

    def __init__(
        self, widths: Widths, sizes: Sizes, model: nn.Module, traced: fx.GraphModule, leave_out: Collection[str]
    ) -> None:
        self._network = type(model).__name__
        self._modules = dict(model.named_modules(remove_duplicate=False))
        self._paths = {id(module): path for path, module in model.named_modules()}
        self._parameters = {name for name, _ in model.named_parameters()}
        self._names = _names(model)
        self._leave_out = leave_out
        self._widths = widths
        self._sizes = sizes
        self._layouts: dict[fx.Node, Layouts] = {}
        self._numbers: dict[fx.Node, Any] = {}
        self._problems: list[str] = []
        self._blocked: list[tuple[int, str]] = []
        for node in traced.graph.nodes:
            self._visit(node, traced)
        self._blocked += sizes.solve()
        for path in leave_out:
            _pin(widths, self._modules[path], path, self._names)

    def problems(self) -> list[str]:
        """What could not be coarsened: every place where a width could not be followed."""
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
        return self._problems

    def _visit(self, node: fx.Node, traced: fx.GraphModule) -> None:
        inputs = tuple(_flat(self._layouts[source] for source in _tensor_arguments(node) if source in self._layouts))
        if node.op == "output":
            for group in frozenset().union(*(layout.groups() for layout in inputs)):
                self._widths.keep(group, "it is an output of the network")
            return
        meta = node.meta.get("tensor_meta")
        if meta is None:
            self._number(node)
        elif node.op == "get_attr":
            shape, name = tuple(meta.shape), self._names.get(id(_attribute(traced, str(node.target))))
            parameter = name if prod(shape) > 1 else None
            self._layouts[node] = Layout(shape, (None,) * len(shape), frozenset(), parameter, tuple(range(len(shape))))
        elif node.op == "placeholder":
            self._layouts[node] = _fixed(meta, frozenset())
        elif node.op == "call_module":
            self._layouts[node] = self._layer(node, inputs, meta)
        else:
            self._layouts[node] = self._operation(node, inputs, meta)

    def _number(self, node: fx.Node) -> None:
        """What a size, a shape or another number is computed from."""
        name, arguments = operation_name(node), node.args
        first = arguments[0] if arguments else None
        x = self._layouts.get(first) if isinstance(first, fx.Node) else None
        if isinstance(x, Layout) and name in ("size", "shape"):
            shape = tuple(
                Size(size, {} if extent is None else {extent: 1}) for size, extent in zip(x.shape, x.spans, strict=True)
            )
            dim = node.kwargs.get("dim", arguments[1] if name == "size" and len(arguments) > 1 else None)
            self._numbers[node] = shape if dim is None else shape[dim]  # pyright: ignore[reportArgumentType, reportCallIssue]
            return
        if isinstance(first, fx.Node) and isinstance(known := self._numbers.get(first), tuple) and name == "getitem":
            self._numbers[node] = known[arguments[1]]  # pyright: ignore[reportArgumentType, reportCallIssue]
            return
        place = self._place(f"{name} in {self._inside(node)[0]}", node, (), None, None, "")
        sizes = [place.size(argument) for argument in arguments]
        if name in ("mul", "floordiv") and len(sizes) == 2:
            powers = scaled(sizes[0].powers, 1, sizes[1].powers, 1 if name == "mul" else -1)
            self._numbers[node] = Size(node.meta.get("number"), powers)
            return
        for argument in arguments:
            place.require(argument, None)
        self._numbers[node] = Size(node.meta.get("number"))

    def _inside(self, node: fx.Node) -> tuple[str, str]:
        """The module whose `forward` calls the operation, as messages call it, and its path."""
        stack = node.meta.get("nn_module_stack") or {}
        owner = next(reversed(list(stack.values())), ("", type(None)))[0]
        return (f"'{owner}' ({type(self._modules[owner]).__name__})" if owner else self._network), owner

    def _layer(self, node: fx.Node, inputs: tuple[Layout, ...], meta: Any) -> Layouts:
        path = str(node.target)
        module = self._modules[path]
        if path in self._leave_out:
            for group in frozenset().union(*(layout.groups() for layout in inputs)):
                self._widths.keep(group, f"'{path}' reads it and is left out")
            return _fixed(meta, frozenset())
        place = self._place(f"'{path}' ({type(module).__name__})", node, inputs, meta, module, path)
        learned = next(module.parameters(), None) is not None
        return self._apply(rule_of(module), place, meta, learned, _remedy(path))

    def _operation(self, node: fx.Node, inputs: tuple[Layout, ...], meta: Any) -> Layouts:
        name = operation_name(node)
        source = node.args[0] if node.args else None
        if name == "getitem" and isinstance(source, fx.Node) and isinstance(self._layouts.get(source), tuple):
            return self._layouts[source][node.args[1]]  # pyright: ignore[reportIndexIssue, reportReturnType, reportCallIssue, reportArgumentType]
        inside, owner = self._inside(node)
        rule = OPERATIONS.get(name)
        label = f"{name} in {inside}"
        place = self._place(label, node, inputs, meta, None, "")
        if name not in TAKES_SIZES:
            for argument in [*node.args, *node.kwargs.values()]:
                place.require(argument, None)
        own = [layout for layout in inputs if layout.parameter is not None]
        if own and name in PASS_PARAMETERS and (passed := passed_parameter(place)) is not None:
            return passed
        parameters = [layout.parameter for layout in own if layout.parameter in self._parameters]
        if parameters:
            label += f" on parameter '{parameters[0]}'"
            rule = rule if rule in ON_PARAMETERS else None
            place = self._place(label, node, inputs, meta, None, "")
        remedy = _remedy(owner) if owner else "put it in a module to leave it out"
        return self._apply(rule, place, meta, bool(parameters), remedy)

    def _place(
        self, label: str, node: fx.Node, inputs: tuple[Layout, ...], meta: Any, module: nn.Module | None, path: str
    ) -> Place:
        shapes = tuple(layout.shape for layout in _flat([_fixed(meta, frozenset())]))
        shape = shapes[0] if shapes else ()
        return Place(
            label, node, inputs, shape, shapes, self._layouts, self._numbers, self._sizes, module, path,
            self._names, self._paths,
        )  # fmt: skip

    def _apply(self, rule: Rule | None, place: Place, meta: Any, learned: bool, remedy: str) -> Layouts:
        """The output's layout; where no rule leads on, the widths stop here and are remembered as blocked."""
        through = frozenset().union(*(layout.through for layout in place.inputs))
        try:
            for inner in place.module.modules() if place.module is not None else ():
                if _computed_weight(inner):
                    raise RefusalError(_COMPUTED)
            if rule is None:
                raise RefusalError("there is no rule for coarsening it")
            found = rule(self._widths, place)
            passing = frozenset() if place.module is not None and learned else through
            if isinstance(found, Several):
                members = zip(place.shapes, found.members, strict=True)
                return tuple(Layout(shape, spans, passing) for shape, spans in members)
            if not isinstance(meta, TensorMetadata):
                raise RefusalError("it returns several tensors")
            assert len(found) == len(place.shape), f"{place.path}: {found} does not fit {place.shape}"
            return Layout(place.shape, found, passing)
        except RefusalError as refusal:
            if learned:
                self._problems.append(f"cannot coarsen {place.path}: {refusal}; {remedy}")
                return _fixed(meta, frozenset())
            stopped = [span.group for layout in place.inputs for span in spans_on(*layout.spans)]
            self._blocked += [(group, f"{place.path}: {refusal}") for group in stopped]
            return _fixed(meta, through.union(stopped))


_COMPUTED = (
    "its weight is computed from other tensors (weight_norm, spectral_norm, pruning or another parametrization); "
    "remove that first"
)


def _computed_weight(module: nn.Module) -> bool:
    own = [name for name, _ in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]]
    return hasattr(module, "parametrizations") or any(name.endswith(("_g", "_orig")) for name in own)


def _remedy(path: str) -> str:
    return f"leave_out=['{path}'] keeps it at full width"


def _is_left_out(path: str, leave_out: Collection[str]) -> bool:
    return any(path == left or path.startswith(f"{left}.") for left in leave_out)


def _pin(widths: Widths, module: nn.Module, path: str, names: dict[int, str]) -> None:
    """What lies on the tensors of a module left out is never coarsened, wherever else they are used."""
    left = {names[id(tensor)] for tensor in [*module.parameters(), *module.buffers()]}
    for (name, _), claim in widths.claims.items():
        if name in left:
            for span in spans_on(claim.extent):
                widths.keep(span.group, f"'{path}' holds '{name}' and is left out")


def _names(model: nn.Module) -> dict[int, str]:
    """The canonical name of each parameter and buffer, by the tensor's id."""
    return {id(tensor): name for name, tensor in [*model.named_buffers(), *model.named_parameters()]}


def _fixed(meta: Any, through: frozenset[int]) -> Layouts:
    """Tensors of these shapes, none of whose dimensions may be coarsened."""
    if isinstance(meta, TensorMetadata):
        return Layout.fixed(tuple(meta.shape), through)
    if isinstance(meta, (tuple, list)):
        return tuple(_fixed(member, through) for member in meta)
    return Layout.fixed((), through)


def _flat(layouts: Any) -> Iterator[Layout]:
    for layout in layouts:
        if isinstance(layout, Layout):
            yield layout
        else:
            yield from _flat(layout)


def _tensor_arguments(node: fx.Node) -> list[fx.Node]:
    """The nodes among the arguments, in order, repeated where they are used twice (x + x)."""
    found: list[fx.Node] = []

    def note(source: fx.Node) -> fx.Node:
        found.append(source)
        return source

    fx.map_arg((node.args, node.kwargs), note)
    return found


def _attribute(root: Any, path: str) -> Any:
    for part in path.split("."):
        root = getattr(root, part)
    return root
