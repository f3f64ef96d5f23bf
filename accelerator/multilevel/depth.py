"""The depth axis: stacks of equal residual blocks, shallower copies, and the transfer between them.

A residual block x ← x + F(x; θ) is an Euler step of an ODE, so neighbouring blocks of a trained stack are alike and one
can stand for several. Block j of the coarse stack aggregates a run of consecutive fine blocks: restriction 𝓡 averages
their weights (r = 1/m for a run of m), prolongation 𝒫 copies a coarse block to its whole run (p = 1); 𝓡𝒫 = I.

Prolongation does *not* keep the function, unlike that of widths: F acts m times where it acted once, as if the ODE were
integrated m times as far. An inserted block that changes nothing, or a branch divided by m, would need to know which
layer ends the branch. Training on the finer level has to make up for it.

Source: Zou, Han, Deng, *A Multi-Level Framework for Accelerating Training Transformer Models*, ICLR 2024 (coalescing
and de-coalescing of adjacent layers); for the ODE view Lauga et al., *A multilevel approach to accelerate the training
of Transformers*, 2025.
"""

from __future__ import annotations

import copy
import inspect
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from torch import Tensor, fx, nn

from accelerator.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Stack:
    """Consecutive equal residual blocks among the children of an `nn.ModuleList` or `nn.Sequential`.

    Args:
        path: of the container; "" is the network itself.
        keys: the names of all its children, in order.
        first: position of the first block among them.
        count: how many blocks; at least 2 in a network that was searched.
    """

    path: str
    keys: tuple[str, ...]
    first: int
    count: int

    @property
    def blocks(self) -> list[str]:
        """The paths of the blocks."""
        return [_join(self.path, key) for key in self.keys[self.first : self.first + self.count]]


def find_stacks(model: nn.Module, leave_out: Collection[str] = ()) -> list[Stack]:
    """The stacks of a network, in order of definition; none lies within a block of another.

    Blocks are equal when class, names, shapes and types of parameters and buffers, and the geometry of their layers
    (stride, dilation, …; not dropout) are, and share nothing. A block is residual when its first input reaches its
    (first) output through at least one sum and otherwise normalisation and positively homogeneous operations (ReLU,
    dropout, scaling) alone; this is read off the block's `torch.fx` trace: one that cannot be traced is in no stack.

    Args:
        model: is left as it is.
        leave_out: paths of modules that are in no stack, with everything in them.

    Raises:
        ConfigError: there is no stack (the message names what was looked at, with reasons), or `leave_out` names no
            module.
    """
    modules = dict(model.named_modules())
    if problems := [
        f"leave_out names '{path}', which is no module of the network{did_you_mean(path, modules)}"
        for path in leave_out
        if path not in modules
    ]:
        raise ConfigError(problems)
    search = _Search(model, frozenset(leave_out))
    search.walk("", model)
    if not search.stacks:
        looked_at = search.reasons or ["the network has no nn.ModuleList or nn.Sequential of several blocks"]
        raise ConfigError(f"depth: no stack of equal residual blocks; {'; '.join(looked_at)}")
    return search.stacks


def shallower(model: nn.Module, stacks: Sequence[Stack], counts: Sequence[int]) -> nn.Module:
    """A copy of the network with fewer blocks in each stack; each one kept is the first of its run, weights and all.

    Children after a stack move up where a container numbers its children, and keep their names where it does not.

    Args:
        model: the network the stacks were found in.
        stacks: of the network.
        counts: blocks of each stack in the copy, 1 … `Stack.count`.
    """
    coarse = copy.deepcopy(model)
    containers = [(coarse.get_submodule(layout.path), layout) for layout in _layouts(stacks, counts)]
    for container, layout in containers:
        children = list(container._modules.values())
        container._modules.clear()
        for key, members in zip(layout.coarse_keys, layout.members, strict=True):
            container._modules[key] = children[members[0]]
    for module in coarse.modules():
        if isinstance(module, nn.TransformerEncoder | nn.TransformerDecoder):
            module.num_layers = len(module.layers)
    return coarse


class DepthTransfer:
    """The operators between a network and its shallower copy, on tensors by name.

    A state may hold any of the network's names. What belongs to a run of several blocks comes back as new tensors; all
    else as the same object, under the name it has on the other level. Of a run with no member in the state nothing
    comes back; where only some are there, the others count as zero. Tensors of whole numbers (BatchNorm's
    `num_batches_tracked`) are taken from the first block that is there, or copied.

    Args:
        stacks: of the fine network.
        counts: blocks of each stack in the coarse one.

    Attributes:
        coarse_stacks: the same stacks in the coarse network.
    """

    def __init__(self, stacks: Sequence[Stack], counts: Sequence[int]) -> None:
        self._coarse_keys: dict[str, str] = {}
        self._fine_keys: dict[str, tuple[str, ...]] = {}
        layouts = _layouts(stacks, counts)
        for layout in layouts:
            for key, members in zip(layout.coarse_keys, layout.members, strict=True):
                for member in members:
                    self._coarse_keys[_join(layout.path, layout.keys[member])] = key
        for layout in layouts:
            for key, members in zip(layout.coarse_keys, layout.members, strict=True):
                here = _join(self.coarse_name(layout.path), key)
                self._fine_keys[here] = tuple(layout.keys[member] for member in members)
        self.coarse_stacks = [
            self._coarse_stack(stack, count, layouts) for stack, count in zip(stacks, counts, strict=True)
        ]

    def restrict(self, state: Mapping[str, Tensor], *, squared: bool = False) -> dict[str, Tensor]:
        """𝓡: the mean over each run, from the fine level to the coarse one.

        Args:
            state: tensors by name; left as they are.
            squared: use the squares of the operator's entries (as for variances of uncorrelated entries).
        """
        return self._to_coarse(state, lambda m: 1 / m**2 if squared else 1 / m)

    def prolong(self, state: Mapping[str, Tensor], *, squared: bool = False) -> dict[str, Tensor]:
        """𝒫: a copy for each block of the run, from the coarse level to the fine one; arguments as of `restrict`."""
        return self._to_fine(state, lambda m: 1.0)

    def prolong_transposed(self, state: Mapping[str, Tensor], *, squared: bool = False) -> dict[str, Tensor]:
        """𝒫ᵀ: the sum over each run, of gradients from the fine level; arguments as of `restrict`."""
        return self._to_coarse(state, lambda m: 1.0)

    def restrict_transposed(self, state: Mapping[str, Tensor], *, squared: bool = False) -> dict[str, Tensor]:
        """𝓡ᵀ: equal shares for the blocks of a run, of gradients from the coarse level; arguments as of `restrict`."""
        return self._to_fine(state, lambda m: 1 / m**2 if squared else 1 / m)

    def coarse_name(self, name: str) -> str:
        """The name on the coarse level of a module, parameter or buffer of the fine one."""
        fine, coarse = "", ""
        for key in name.split("."):
            fine = _join(fine, key)
            coarse = _join(coarse, self._coarse_keys.get(fine, key))
        return coarse

    def counterpart(self, name: str, *, down: bool) -> str:
        """The tensor of the level left that one of the level gone to takes its step count from."""
        return self.fine_names(name)[0] if down else self.coarse_name(name)

    def fine_names(self, name: str) -> list[str]:
        """The names on the fine level of what has this name on the coarse one, in order of depth."""
        coarse, fine = "", [""]
        for key in name.split("."):
            coarse = _join(coarse, key)
            fine = [_join(path, each) for path in fine for each in self._fine_keys.get(coarse, (key,))]
        return fine

    def _to_coarse(self, state: Mapping[str, Tensor], entry: Callable[[int], float]) -> dict[str, Tensor]:
        found = {}
        for name in dict.fromkeys(map(self.coarse_name, state)):
            run = self.fine_names(name)
            first, *others = (state[member] for member in run if member in state)
            if len(run) == 1:
                found[name] = first
            elif not _averaged(first):
                found[name] = first.clone()
            else:
                found[name] = first * entry(len(run))
                for other in others:
                    found[name].add_(other, alpha=entry(len(run)))
        return found

    def _to_fine(self, state: Mapping[str, Tensor], entry: Callable[[int], float]) -> dict[str, Tensor]:
        found = {}
        for name, tensor in state.items():
            run = self.fine_names(name)
            for member in run:
                if len(run) == 1:
                    found[member] = tensor
                else:
                    found[member] = tensor * entry(len(run)) if _averaged(tensor) else tensor.clone()
        return found

    def _coarse_stack(self, stack: Stack, count: int, layouts: Sequence[_Layout]) -> Stack:
        keys = next(layout.coarse_keys for layout in layouts if layout.path == stack.path)
        path = self.coarse_name(stack.path) if stack.path else ""
        first = self.coarse_name(stack.blocks[0]).rpartition(".")[2]
        return Stack(path, keys, keys.index(first), count)


@dataclass(frozen=True)
class _Layout:
    """A container with stacks: its children's keys on both levels, and the fine children behind each coarse one."""

    path: str
    keys: tuple[str, ...]
    coarse_keys: tuple[str, ...]
    members: tuple[tuple[int, ...], ...]


def _layouts(stacks: Sequence[Stack], counts: Sequence[int]) -> list[_Layout]:
    """One for each container."""
    containers: dict[str, list[tuple[Stack, int]]] = {}
    for stack, count in zip(stacks, counts, strict=True):
        assert 1 <= count <= stack.count, f"{count} of the {stack.count} blocks of '{stack.path}'"
        containers.setdefault(stack.path, []).append((stack, count))
    layouts = []
    for path, found in containers.items():
        keys = found[0][0].keys
        group = {index: (index, 0) for index in range(len(keys))}
        for stack, count in found:
            for i in range(stack.count):
                group[stack.first + i] = (stack.first, i * count // stack.count)
        members = tuple(tuple(run) for _, run in groupby(range(len(keys)), key=lambda i: group[i]))
        numbered = keys == tuple(map(str, range(len(keys))))
        coarse = tuple(str(j) if numbered else keys[run[0]] for j, run in enumerate(members))
        layouts.append(_Layout(path, keys, coarse, members))
    return layouts


class _Search:
    """Walks a network's containers and gathers its stacks, or why there is none."""

    def __init__(self, model: nn.Module, leave_out: frozenset[str]) -> None:
        self.stacks: list[Stack] = []
        self.reasons: list[str] = []
        self._leave_out = leave_out
        self._uses = Counter(
            id(tensor)
            for named in (model.named_parameters, model.named_buffers)
            for _, tensor in named(remove_duplicate=False)
        )

    def walk(self, path: str, module: nn.Module) -> None:
        """Look at a module and at what is in it, but not into the blocks of a stack."""
        if path in self._leave_out:
            return
        stacks = list(self._stacks(path, module)) if isinstance(module, nn.ModuleList | nn.Sequential) else []
        self.stacks += stacks
        inside = {block for stack in stacks for block in stack.blocks}
        for key, child in module.named_children():
            if (below := _join(path, key)) not in inside:
                self.walk(below, child)

    def _stacks(self, path: str, container: nn.ModuleList | nn.Sequential) -> Iterator[Stack]:
        keys = tuple(container._modules)
        blocks = [(_join(path, key), block) for key, block in container._modules.items()]
        label = f"'{path}' ({type(container).__name__})" if path else type(container).__name__
        looks = [(_look(block), self._refusal(name, block)) for name, block in blocks]
        first, alone = 0, True
        for (_, refusal), run in groupby(looks):
            count = len(list(run))
            if count > 1 and refusal is None:
                yield Stack(path, keys, first, count)
            if count > 1 and refusal:
                last = blocks[first + count - 1][0]
                self.reasons.append(f"'{blocks[first][0]}' … '{last}' ({type(blocks[first][1]).__name__}): {refusal}")
            alone = alone and count == 1
            first += count
        if alone and len(blocks) > 1:
            self.reasons.append(f"{label}: no two children in a row are equal")

    def _refusal(self, path: str, block: nn.Module | None) -> str | None:
        """Why a module cannot be a block of a stack; "" where that is of no interest."""
        if block is None:
            return ""
        own = [tensor for tensors in (block.parameters(), block.buffers()) for tensor in tensors]
        if next(block.parameters(), None) is None:
            return ""
        if path in self._leave_out:
            return "left out"
        if any(self._uses[id(tensor)] > 1 for tensor in own):
            return "they share a parameter or buffer with each other or another place"
        try:
            trunk = _trunk(block)
        except Exception as error:
            return f"cannot be traced ({type(error).__name__}: {str(error).partition(chr(10))[0]})"
        return None if trunk else "not residual (input to output through sums, norms, ReLU or dropout alone)"


def _look(block: nn.Module | None) -> Any:
    """What equal blocks have in common."""
    if block is None:
        return None
    tensors = [*block.named_parameters(), *block.named_buffers()]
    geometry = [
        (
            name,
            type(module),
            [
                value
                if isinstance(value := getattr(module, constant, None), int | float | str | tuple)
                else type(value)
                for constant in getattr(module, "__constants__", ())
                if not isinstance(module, nn.modules.dropout._DropoutNd)
            ],
        )
        for name, module in block.named_modules()
    ]
    return geometry, [(name, tensor.shape, tensor.dtype, tensor.requires_grad) for name, tensor in tensors]


_RESIDUAL = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
_PASSING = (
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.modules.batchnorm._BatchNorm,  # with the instance norms
    nn.modules.dropout._DropoutNd,
    nn.Identity,
    nn.ReLU,
    nn.LeakyReLU,
    nn.PReLU,
)
_PASSING_NAMES = (
    *("relu", "leaky_relu", "prelu", "dropout", "dropout1d", "dropout2d", "dropout3d", "contiguous", "clone"),
    *("layer_norm", "group_norm", "rms_norm", "batch_norm", "instance_norm"),
)


class _Shallow(fx.Tracer):
    """Traces a module's own forward and enters nothing it calls, so that only the way of its input has to be simple."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def _trunk(module: nn.Module) -> bool | None:
    """How the first input reaches the (first) output: through a sum (True), through none (False), not at all (None)."""
    if any(isinstance(module, known) and type(module).forward is known.forward for known in _RESIDUAL):
        return True
    if isinstance(module, _PASSING):
        return False
    if type(module).__module__.startswith("torch.nn") and not isinstance(module, nn.Sequential):
        return None
    graph = _Shallow().trace(module, concrete_args=_defaults(module))
    reached: dict[fx.Node, bool] = {}
    for node in graph.nodes:
        if node.op == "placeholder" and not reached:
            reached[node] = False
        elif node.op == "call_module" and node.args and node.args[0] in reached:
            try:
                inner = _trunk(module.get_submodule(node.target))
            except Exception:
                inner = None  # on the branch it may do what it likes
            if inner is not None:
                reached[node] = reached[node.args[0]] or inner
        elif node.op in ("call_function", "call_method") and (passed := _passed(node, reached)) is not None:
            reached[node] = passed
        elif node.op == "output":
            result = node.args[0][0] if isinstance(node.args[0], tuple | list) else node.args[0]
            return reached.get(result)
    return None


def _passed(node: fx.Node, reached: Mapping[fx.Node, bool]) -> bool | None:
    """`_trunk` of an operation."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    name = name.rstrip("_")
    found = [reached[source] for source in node.args[:2] if isinstance(source, fx.Node) and source in reached]
    if not found:
        return None
    first, second = (*node.args, None)[:2]
    if name in _PASSING_NAMES:
        return found[0] if first in reached else None
    if name in ("add", "iadd", "sub", "isub"):
        if "sub" in name and first not in reached:
            return None
        return True if isinstance(first, fx.Node) and isinstance(second, fx.Node) else found[0]
    if name in ("mul", "imul", "div", "truediv", "itruediv"):
        other = second if first in reached else first
        constant = not isinstance(other, fx.Node) or other.op == "get_attr"
        return found[0] if constant and ("mul" in name or first in reached) else None
    return None


def _defaults(module: nn.Module) -> dict[str, Any]:
    """Arguments with a default keep it: flags and masks, on which a forward may branch."""
    _, *others = inspect.signature(module.forward).parameters.values()
    return {each.name: each.default for each in others if each.default is not inspect.Parameter.empty}


def _averaged(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
