"""How a network becomes the next coarser one: which axes shrink, to which sizes, and how units are aggregated."""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from accelerator.errors import ConfigError, did_you_mean
from accelerator.multilevel.aggregates import FAMILIES, Aggregates, Family
from accelerator.multilevel.coupling import Coupling, Example, Group, trace_coupling
from accelerator.multilevel.depth import DepthTransfer, Stack, find_stacks, shallower
from accelerator.multilevel.hop import Hop
from accelerator.multilevel.layout import Axis
from accelerator.multilevel.matching import MATCHINGS, Matching, coarse_width, match_blocks
from accelerator.multilevel.narrowing import narrowed
from accelerator.multilevel.resampling import GridSampling
from accelerator.multilevel.transfer import Transfer, UnitTransfer, state_of, unit_features, write_state

AXES = ("width", "modes", "resolution", "depth")
UNIT_AXES: tuple[Axis, ...] = ("modes", "width")

Factor = float | Sequence[float]
Keep = float | Mapping[str, float]


@dataclass
class Coarsening:
    """The options of a hierarchy; see `create_network_hierarchy` for what each means.

    Raises:
        ConfigError: an option is out of range; all of them together.
    """

    levels: int = 3
    axes: Sequence[str] = ("width",)
    factor: Factor | Mapping[str, Factor] = 2
    sizes: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    matching: str | Matching = "heavy_edge"
    transfer: Family = "average"
    keep: Keep = 0.5
    noise: float | None = None
    min_width: int = 8
    leave_out: Collection[str] = ()
    sampling: Any = "area"
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        problems = []
        if self.levels < 2:
            problems.append(
                f"levels={self.levels}: a hierarchy needs at least 2 levels; train the network itself for one"
            )
        problems += [f"axes: '{axis}' is unknown{did_you_mean(axis, AXES)}" for axis in self.axes if axis not in AXES]
        if not self.axes:
            problems.append(f"axes=[] coarsens nothing: choose from {', '.join(AXES)}")
        if isinstance(self.matching, str) and self.matching not in MATCHINGS:
            problems.append(f"matching='{self.matching}' is unknown{did_you_mean(self.matching, MATCHINGS)}")
        if self.transfer not in FAMILIES:
            problems.append(f"transfer='{self.transfer}' is unknown{did_you_mean(self.transfer, FAMILIES)}")
        if self.min_width < 1:
            problems.append(f"min_width={self.min_width}: must be at least 1")
        if self.noise is not None and not self.noise >= 0:
            problems.append(f"noise={self.noise}: must be 0 (none) or a small positive share, such as 0.01")
        problems += self._check_factors()
        try:
            self.keeps = checked_keep(self.keep)
        except ConfigError as error:
            problems += error.problems
        if problems:
            raise ConfigError(problems)

    def _check_factors(self) -> list[str]:
        problems = []
        if isinstance(self.factor, Mapping):
            problems += [
                f"factor.{axis}: not one of the axes {list(self.axes)}{did_you_mean(axis, self.axes)}"
                for axis in self.factor
                if axis not in self.axes
            ]
        for axis in self.axes:
            given = self.factor.get(axis, 2) if isinstance(self.factor, Mapping) else self.factor
            factors = [given] * max(self.levels - 1, 1) if isinstance(given, int | float) else list(given)
            if self.levels >= 2 and len(factors) != self.levels - 1:
                problems.append(
                    f"factor={given}: give one for each of the {self.levels - 1} coarser levels, or one for all"
                )
            elif any(not (f >= 1 and math.isfinite(f)) for f in factors) or all(f == 1 for f in factors):
                problems.append(f"factor={given}: must be above 1 (2 halves)")
        for key, sizes in self.sizes.items():
            if key == "width":
                problems.append("sizes.width: give the sizes of layers, by their paths, or a factor for all")
            elif key in AXES and key not in self.axes:
                problems.append(f"sizes.{key}: not one of the axes {list(self.axes)}; add it to axes")
            elif self.levels >= 2 and len(sizes) != self.levels - 1:
                problems.append(
                    f"sizes.{key}={list(sizes)}: give one size for each of the {self.levels - 1} coarser levels"
                )
        return list(dict.fromkeys(problems))

    def factors(self, axis: str, level: int) -> float:
        """By how much level `level` + 1 is coarser than `level` along an axis."""
        given = self.factor.get(axis, 2) if isinstance(self.factor, Mapping) else self.factor
        return float(given if isinstance(given, int | float) else given[level])

    @property
    def noise_share(self) -> float:
        """Standard deviation of the noise on prolonged weights, as a share of each tensor's own."""
        return self.noise if self.noise is not None else 0.01 if self.transfer == "net2wider" else 0.0

    @property
    def unit_axes(self) -> tuple[Axis, ...]:
        """The wanted axes along which tensors shrink by groups of units."""
        return tuple(axis for axis in UNIT_AXES if axis in self.axes)

    def grid_sampling(self, example_input: Example) -> GridSampling | None:
        """What each level sees of a batch; None if all see the whole of it."""
        if "resolution" not in self.axes:
            return None
        if "resolution" in self.sizes:
            grids: Any = list(self.sizes["resolution"])
            return GridSampling(example_input, self.levels, grids=grids, method=self.sampling)
        factors = {self.factors("resolution", level) for level in range(self.levels - 1)}
        if len(factors) > 1 or any(f != int(f) for f in factors):
            raise ConfigError(
                f"factor.resolution={self.factor}: one whole number for all levels; for others give the grids: "
                "sizes.resolution=[…]"
            )
        return GridSampling(example_input, self.levels, factor=int(factors.pop()), method=self.sampling)

    def coarser(self, fine: nn.Module, level: int, example_input: Example) -> tuple[Hop, nn.Module]:
        """The network of level `level` + 1 with the weights restricted to it, and the way there.

        Raises:
            ConfigError: something in the network cannot be coarsened, or it is too small.
        """
        transfers: dict[str, Transfer] = {}
        network = fine
        if "depth" in self.axes:
            transfers["depth"], network = self._shallower(network, level)
        if self.unit_axes:
            coupling = trace_coupling(network, example_input, leave_out=self.leave_out, axes=self.unit_axes)
            self._warn_of_weighted(coupling, level)
            sizes = self._sizes(coupling, level)
            transfers |= self.unit_transfers(network, coupling, sizes)
            widths = {number: group.width for number, group in coupling.free.items()} | sizes
            network = narrowed(network, coupling, widths)
        if not transfers:  # the resolution alone
            network = narrowed(network, Coupling({}, {}, ()), {})
        hop = Hop(transfers, {axis: self.keeps[axis] for axis in transfers})
        write_state(network, hop.restrict(state_of(fine)))
        return hop, network

    def unit_transfers(self, network: nn.Module, coupling: Coupling, sizes: Mapping[int, int]) -> dict[str, Transfer]:
        """Aggregates chosen anew from a network's weights, by axis.

        Args:
            network: the finer one (already as deep as the coarser).
            coupling: of its groups.
            sizes: the coarse size of each group that shrinks.
        """
        tensors = dict(network.named_parameters())
        dtype = torch.promote_types(next(iter(tensors.values())).dtype, torch.float32)
        device = next(iter(tensors.values())).device
        found: dict[str, dict[int, Aggregates]] = {}
        for number, size in sizes.items():
            group = coupling.groups[number]
            if group.axis == "modes":
                aggregates = Aggregates.crop(group.width, size, centred=group.centred, device=device, dtype=dtype)
            else:
                features = unit_features(coupling, number, tensors)
                parent = self._match(features, size, group)
                aggregates = self._aggregates(parent, features, dtype)
            found.setdefault(group.axis, {})[number] = aggregates
        return {axis: UnitTransfer(coupling, found[axis]) for axis in self.unit_axes if axis in found}

    def refreshed(self, network: nn.Module, hop: Hop, *, rematch: bool) -> Hop:
        """The hop with aggregates from the weights that the finer network holds now.

        Args:
            network: the finer level.
            hop: as it was.
            rematch: choose anew which units belong together, not only their weights.
        """
        width = hop.transfers.get("width")
        if not isinstance(width, UnitTransfer) or not (rematch or self.transfer == "weighted"):
            return hop
        state = state_of(network)
        if "depth" in hop.transfers:
            state = hop.transfers["depth"].restrict(state)
        aggregates = {}
        for number, known in width.aggregates.items():
            features = unit_features(width.coupling, number, state)
            group = width.coupling.groups[number]
            parent = self._match(features, known.coarse, group) if rematch else known.parent
            aggregates[number] = self._aggregates(parent, features, known.p.dtype)
        return Hop(hop.transfers | {"width": UnitTransfer(width.coupling, aggregates)}, hop.keep)

    def _match(self, features: torch.Tensor, coarse: int, group: Group) -> torch.Tensor:
        matching = MATCHINGS[self.matching] if isinstance(self.matching, str) else self.matching
        return match_blocks(features, coarse, matching, group.blocks, self.generator)

    def _aggregates(self, parent: torch.Tensor, features: torch.Tensor, dtype: torch.dtype) -> Aggregates:
        if self.transfer == "weighted":
            norm = features.to(dtype).norm(dim=1)
            return Aggregates.weighted(parent.to(norm.device), norm)
        if self.transfer == "inject":
            return Aggregates.inject(parent, dtype)
        return Aggregates.average(parent, dtype)

    def _shallower(self, network: nn.Module, level: int) -> tuple[DepthTransfer, nn.Module]:
        try:
            stacks = find_stacks(network, self.leave_out)
        except ConfigError as error:
            if level == 0:
                raise
            raise ConfigError(f"depth: level {level} has single blocks only; ask for levels={level + 1}") from error
        factor = self.factors("depth", level)
        if "depth" in self.sizes:
            counts = [min(int(self.sizes["depth"][level]), stack.count) for stack in stacks]
        else:
            counts = [math.ceil(stack.count / factor) for stack in stacks]
        if all(count == stack.count for count, stack in zip(counts, stacks, strict=True)):
            raise ConfigError(
                f"depth: level {level} has {_listed(stacks)}; level {level + 1} would have as many: "
                "ask for fewer levels"
            )
        transfer = DepthTransfer(stacks, counts)
        coarse = shallower(network, stacks, counts)
        write_state(coarse, transfer.restrict(state_of(network)))
        return transfer, coarse

    def _sizes(self, coupling: Coupling, level: int) -> dict[int, int]:
        """The coarse size of each group that shrinks on the way to level + 1."""
        sizes: dict[int, int] = {}
        named = set()
        leaders = sorted(coupling.free, key=lambda number: coupling.groups[number].follows is not None)
        for number in leaders:
            group = coupling.groups[number]
            if group.axis not in self.axes:
                continue
            if group.follows is not None:
                other, ratio = group.follows
                if other in sizes:
                    sizes[number] = ratio * sizes[other]
                continue
            layer = next((layer for layer in group.layers if layer in self.sizes), None)
            key = layer if layer is not None else "modes" if group.axis == "modes" and "modes" in self.sizes else None
            if key is not None:
                named.add(key)
                size = int(self.sizes[key][level]) * (2 if group.centred else 1)
                if not group.blocks <= size <= group.width or size % group.blocks:
                    multiple = f" and a multiple of {group.blocks}" if group.blocks > 1 else ""
                    raise ConfigError(
                        f"sizes.{key}={list(self.sizes[key])}: level {level + 1} must have between {group.blocks} "
                        f"and {group.width}{multiple}"
                    )
            else:
                size = self._size(coupling, number, group, level)
            if size < group.width:
                sizes[number] = size
        self._check_named([key for key in self.sizes if key not in AXES and key not in named], coupling)
        if not sizes and "depth" not in self.axes:
            widths = ", ".join(str(coupling.groups[number].width) for number in coupling.free)
            raise ConfigError(
                f"levels={self.levels}: no {' or '.join(self.unit_axes)} of level {level} ({widths}) can be divided by "
                f"factor={self.factor} without falling below min_width={self.min_width}; "
                f"ask for {f'levels={level + 1}' if level else 'a larger factor'} or a lower min_width"
            )
        return sizes

    def _check_named(self, unused: Sequence[str], coupling: Coupling) -> None:
        """Refuse sizes that were given for what is not there or has no size of its own."""
        for key in unused:
            groups = [group for group in coupling.groups.values() if key in group.layers]
            if not groups:
                known = {layer for group in coupling.groups.values() for layer in group.layers}
                raise ConfigError(
                    f"sizes.{key}: no layer with units and no axis has that name{did_you_mean(key, known)}"
                )
            if (reason := next((group.kept for group in groups if group.kept), None)) is not None:
                raise ConfigError(f"sizes.{key}: this layer keeps its size on every level: {reason}")
            leaders = [coupling.groups[group.follows[0]] for group in groups if group.follows is not None]
            layers = ", ".join(layer for leader in leaders for layer in leader.layers)
            raise ConfigError(f"sizes.{key}: this layer follows the size of {layers}; give it there")

    def _size(self, coupling: Coupling, number: int, group: Group, level: int) -> int:
        factor = self.factors(group.axis, level)
        if group.axis == "modes":
            kept = math.ceil((group.width // 2 if group.centred else group.width) / factor)
            return 2 * kept if group.centred else kept
        size = coarse_width(group.width, factor, group.blocks)
        # A unit of several channels, such as an attention head, is as wide as they are.
        return size if size * _unit_size(coupling, number) >= self.min_width else group.width

    def _warn_of_weighted(self, coupling: Coupling, level: int) -> None:
        places = [place for group in coupling.free.values() for place in group.inhomogeneous if group.axis == "width"]
        if self.transfer == "weighted" and places and level == 0:
            warnings.warn(
                "transfer='weighted' keeps the function only through positively homogeneous operations; these are not: "
                f"{', '.join(dict.fromkeys(places))}; transfer='average' keeps it through all",
                stacklevel=4,
            )


def checked_keep(keep: Keep) -> dict[str, float]:
    """The share of detail kept along each axis.

    One number is for width and depth: new Fourier modes start at zero, which leaves the outputs unchanged.
    """
    given = keep if isinstance(keep, Mapping) else {"width": keep, "depth": keep}
    if unknown := [axis for axis in given if axis not in AXES]:
        raise ConfigError(f"keep.{unknown[0]}: no such axis{did_you_mean(unknown[0], AXES)}")
    for axis, share in given.items():
        if not 0 <= share <= 1:
            where = f"keep.{axis}" if isinstance(keep, Mapping) else "keep"
            raise ConfigError(
                f"{where}={share}: must be between 0 (only the coarse network) and 1 (all of the fine detail)"
            )
    return {axis: float(given.get(axis, 0.0)) for axis in AXES}


def _unit_size(coupling: Coupling, group: int) -> int:
    """Channels of one unit: 1, or the size of an attention head."""
    slots = (slot for slots in coupling.slots.values() for slot in slots)
    return next((slot.span.inner for slot in slots if slot.span.group == group and slot.role == "row"), 1)


def _listed(stacks: Sequence[Stack]) -> str:
    return ", ".join(f"{stack.count} blocks in '{stack.path}'" for stack in stacks)
