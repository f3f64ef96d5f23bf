"""Which tensor dimensions belong together along the width and modes axes, found once by tracing the network.

The network is traced with `torch.fx` on an example input; each layer's and operation's rule (`rules/`) carries the
widths on. The result says for every parameter and buffer which group of units lies on which of its dimensions: that is
all the transfer between levels needs to know.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from accelerator.errors import ConfigError, did_you_mean
from accelerator.multilevel.layout import AXES, Axis, Extent, Role, Span, Widths
from accelerator.multilevel.tracing import Example, trace_modes, trace_widths


@dataclass(frozen=True)
class Slot:
    """A group on a dimension of a parameter or buffer.

    Args:
        dim: the dimension.
        span: the group and how it lies there.
        role: what the dimension is to the group.
        skip: entries that are not coarsened between the slot before on this dimension (or its start) and this one. A
            dimension made by concatenation has several slots, in order; what lies behind the last is not coarsened.
    """

    dim: int
    span: Span
    role: Role
    skip: int = 0


@dataclass(frozen=True)
class Attribute:
    """A module's attribute (or its entry `index`) that states the entries of spans over `divisor`, as `in_features`."""

    module: str
    name: str
    index: int | None
    spans: tuple[Span, ...]
    divisor: int = 1


@dataclass(frozen=True)
class Group:
    """Units that are coarsened together.

    Args:
        width: number of units in the traced network.
        layers: paths of the layers that produce them.
        blocks: units of different blocks (equal and contiguous, as GroupNorm's) are never aggregated.
        kept: why the group is never coarsened; None when it is.
        inhomogeneous: places where the units pass an operation with f(s·x) ≠ s·f(x).
        axis: `width`, or `modes`: the kept frequencies of a layer along one direction, coarsened by cropping.
        centred: of modes: the entries are −K … K−1 (width 2K) instead of 0 … K−1.
        follows: (group, ratio): on every level this group is `ratio` times as wide as that one, which follows none;
            which of its own units are aggregated is free.
    """

    width: int
    layers: tuple[str, ...]
    blocks: int = 1
    kept: str | None = None
    inhomogeneous: tuple[str, ...] = ()
    axis: Axis = "width"
    centred: bool = False
    follows: tuple[int, int] | None = None


@dataclass(frozen=True)
class Coupling:
    """The groups of a network along the axes asked for, and their places.

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


def trace_coupling(
    model: nn.Module, example_input: Example, *, leave_out: Collection[str] = (), axes: Sequence[Axis] = ("width",)
) -> Coupling:
    """Find the groups of units of a network.

    Args:
        model: any module `torch.fx` can trace; it is run once in evaluation mode and left as it was. Along `modes`
            alone it is not traced: layers declare their frequencies (`rules/declared.py`).
        example_input: a batch as the model is called with, or a sequence of positional arguments.
        leave_out: paths of modules that keep their size, with everything in them.
        axes: `width`, `modes` or both; what cannot be coarsened along another axis does not matter.

    Raises:
        ConfigError: something cannot be coarsened: each place is named with the reason, all together.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    problems = [f"axes names '{axis}', which is unknown{did_you_mean(axis, AXES)}" for axis in axes if axis not in AXES]
    problems += [
        f"leave_out names '{path}', which is no module of the network{did_you_mean(path, modules)}"
        for path in leave_out
        if path not in modules
    ]
    if problems:
        raise ConfigError(problems)
    widths = Widths()
    if "width" in axes:
        problems += trace_widths(widths, model, example_input, leave_out)
    if "modes" in axes:
        problems += trace_modes(widths, model, leave_out)
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    coupling = _coupling(widths)
    if not coupling.free:
        reasons = "; ".join(f"{', '.join(group.layers)}: {group.kept}" for group in coupling.groups.values())
        what = "no width" if tuple(axes) == ("width",) else f"nothing along {' or '.join(axes)}"
        nothing = "no layer declares frequencies" if tuple(axes) == ("modes",) else "it has no layer with units"
        raise ConfigError(f"{type(model).__name__} has {what} to coarsen ({reasons or nothing})")
    return coupling


def _coupling(widths: Widths) -> Coupling:
    follows = _followers(widths)
    groups = {
        root: Group(
            widths.width[root],
            tuple(dict.fromkeys(widths.producers[root])),
            widths.blocks[root],
            widths.kept.get(root),
            tuple(dict.fromkeys(widths.inhomogeneous[root])),
            widths.axis[root],
            widths.centred[root],
            follows.get(root),
        )
        for root in sorted({widths.find(group) for group in range(len(widths.width))})
    }
    slots: dict[str, list[Slot]] = {}
    for (name, dim), claim in widths.claims.items():
        if found := [Slot(dim, span, claim.role, skip) for span, skip in _placed(widths, claim.extent)]:
            slots.setdefault(name, []).extend(found)
    attributes = []
    for (module, name, index), stated in widths.attributes.items():
        if spans := tuple(span for span, _ in _placed(widths, stated.extent)):
            attributes.append(Attribute(module, name, index, spans, stated.divisor))
    return Coupling(groups, {name: tuple(found) for name, found in slots.items()}, tuple(attributes))


def _placed(widths: Widths, extent: Extent) -> Iterator[tuple[Span, int]]:
    """The spans on a dimension whose groups are coarsened, each with the fixed entries before it."""
    skip = 0
    parts = [(extent, 0)] if isinstance(extent, Span) else () if extent is None else extent.parts
    for part, size in parts:
        if part is None or widths.find(part.group) in widths.kept:
            skip += size
        else:
            yield widths.resolve(part), skip
            skip = 0


def _followers(widths: Widths) -> dict[int, tuple[int, int]]:
    """(leader, ratio) of each group that must stay a multiple of another one; where one is kept, all are."""
    families: list[tuple[set[int], list[str]]] = []
    for one, other, path in widths.equal:
        members, paths = {widths.find(one.group), widths.find(other.group)}, [path]
        for family in [family for family in families if family[0] & members]:
            families.remove(family)
            members, paths = members | family[0], [*family[1], *paths]
        families.append((members, paths))
    follows = {}
    for members, paths in families:
        leader = min(members, key=lambda group: (widths.width[group], group))
        reason = next((f"its width in {paths[0]} is that of units that are kept: {widths.kept[group]}"
                       for group in sorted(members) if group in widths.kept), None)  # fmt: skip
        if reason is None and widths.width[leader] == 1 and len(members) > 1:
            reason = f"{paths[0]} has a single head, which is not divided"
        if reason is None and any(widths.width[group] % widths.width[leader] for group in members):
            reason = f"{', '.join(dict.fromkeys(paths))} have numbers of heads that do not divide each other"
        for group in members:
            if reason is not None:
                widths.keep(group, reason)
            elif group != leader:
                follows[group] = (leader, widths.width[group] // widths.width[leader])
    return follows
