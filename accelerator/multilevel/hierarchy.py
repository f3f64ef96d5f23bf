"""A network and its coarser copies, with restriction and prolongation between neighbours."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from accelerator.errors import CheckpointError, ConfigError, did_you_mean
from accelerator.multilevel.coupling import Coupling, Example, trace_coupling
from accelerator.multilevel.matching import MATCHINGS, coarse_width, match_blocks
from accelerator.multilevel.narrowing import count_flops, narrowed
from accelerator.multilevel.transfer import FAMILIES, Aggregates, Family, WidthTransfer, unit_features


class MultilevelNetwork:
    """The levels of a network and the transfers between them; built by `create_network_hierarchy`.

    Attributes:
        levels: the networks, finest first; `levels[0]` is the model itself.
        transfers: `transfers[l]` leads between the levels l and l + 1.
        costs: FLOPs of a forward and backward pass relative to level 0, for each level.
        parameters: the number of parameters of each level.
    """

    def __init__(
        self,
        levels: Sequence[nn.Module],
        transfers: Sequence[WidthTransfer],
        costs: Sequence[float],
        *,
        factor: int,
        matching: str,
        transfer: Family,
        keep: float,
        generator: torch.Generator | None,
    ) -> None:
        self.levels = list(levels)
        self.transfers = list(transfers)
        self.costs = tuple(costs)
        self.parameters = tuple(sum(p.numel() for p in level.parameters()) for level in self.levels)
        self.keep = keep
        self._factor = factor
        self._matching = matching
        self._family: Family = transfer
        self._generator = generator

    def __len__(self) -> int:
        return len(self.levels)

    def __repr__(self) -> str:
        rows = [
            f"{type(self).__name__} of {type(self.levels[0]).__name__} "
            f"(matching={self._matching}, transfer={self._family}, keep={self.keep:g})"
        ]
        for level, (cost, parameters) in enumerate(zip(self.costs, self.parameters, strict=True)):
            rows.append(
                f"  level {level}: widths {self.widths(level)}, {parameters:,} parameters, {cost:.3g} of the work"
            )
        rows += [
            f"  kept: {', '.join(g.layers)} ({g.width}): {g.kept}" for g in self.coupling.groups.values() if g.kept
        ]
        return "\n".join(rows)

    @property
    def coupling(self) -> Coupling:
        """Which dimensions belong together."""
        return self.transfers[0].coupling

    def widths(self, level: int) -> list[int]:
        """The width of each group that can be coarsened, on one level."""
        self._check(level, len(self.levels), "widths")
        found = {number: group.width for number, group in self.coupling.free.items()}
        for transfer in self.transfers[:level]:
            found |= {number: aggregates.coarse for number, aggregates in transfer.aggregates.items()}
        return list(found.values())

    def restrict(self, level: int, *, rematch: bool = False) -> None:
        """Write level + 1 from `level`: N_c = 𝓡N, with weights taken from N.

        Args:
            level: the finer of the two.
            rematch: also choose anew which units are aggregated.

        Raises:
            ConfigError: there is no coarser level.
        """
        self._check(level, len(self.transfers), "restrict")
        fine, known = self.levels[level], self.transfers[level].aggregates
        if rematch:
            parents = _matched(self.coupling, fine, known, self._factor, self._matching, self._generator)
        else:
            parents = {group: found.parent for group, found in known.items()}
        if rematch or self._family == "weighted":
            self.transfers[level] = _transfer(self.coupling, fine, parents, self._family)
        self.transfers[level].restrict_network(self.levels[level], self.levels[level + 1])

    def prolongate(self, level: int, *, keep: float | None = None) -> None:
        """Write `level` from level + 1: N = 𝒫N_c + keep·(N₀ − 𝒫𝓡N₀), with N₀ the weights `level` holds since
        restriction.

        With keep = 0 the fine network is the coarse one's function, but twins (the units of an aggregate) are alike and
        would stay alike under training; keep > 0 gives them back the share of N₀ that the coarse level cannot hold.
        With keep = 1 this is the correction N₀ + 𝒫(N_c − 𝓡N₀).

        Args:
            level: the finer of the two.
            keep: in [0, 1]; by default the hierarchy's.

        Raises:
            ConfigError: there is no coarser level, or keep is out of range.
        """
        self._check(level, len(self.transfers), "prolongate")
        keep = self.keep if keep is None else _checked_keep(keep)
        self.transfers[level].prolongate_network(self.levels[level], self.levels[level + 1], keep)

    def state_dict(self) -> dict[str, Any]:
        """All levels' weights, the aggregates and the generator, as nested dicts of tensors, numbers and strings."""
        state: dict[str, Any] = {
            "matching": self._matching,
            "transfer": self._family,
            "factor": self._factor,
            "levels": {str(index): dict(level.state_dict()) for index, level in enumerate(self.levels)},
            "aggregates": {
                str(index): {
                    str(group): {"parent": found.parent, "p": found.p, "r": found.r}
                    for group, found in transfer.aggregates.items()
                }
                for index, transfer in enumerate(self.transfers)
            },
        }
        if self._generator is not None:
            state["generator"] = self._generator.get_state()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state; the hierarchy must have been created from the same network with the same options.

        Raises:
            CheckpointError: it was not; nothing has been changed then.
        """
        own = self.state_dict()
        if differences := list(_differences(own, state, "")):
            raise CheckpointError(
                "the saved hierarchy does not fit this one; create it with the same network and options:\n"
                + "\n".join(f"  {difference}" for difference in differences[:10])
            )
        for index, level in enumerate(self.levels):
            level.load_state_dict(state["levels"][str(index)])
        for index, transfer in enumerate(self.transfers):
            saved = state["aggregates"][str(index)]
            aggregates = {
                group: Aggregates(
                    *(saved[str(group)][key].to(found.p.device, copy=True) for key in ("parent", "p", "r"))
                )
                for group, found in transfer.aggregates.items()
            }
            self.transfers[index] = WidthTransfer(self.coupling, aggregates)
        if self._generator is not None:
            self._generator.set_state(state["generator"])

    def _check(self, level: int, end: int, what: str) -> None:
        if not 0 <= level < end:
            raise ConfigError(f"{what}({level}): this hierarchy of {len(self)} levels takes 0 to {end - 1} here")


def create_network_hierarchy(
    model: nn.Module,
    example_input: Example,
    *,
    levels: int = 3,
    factor: int = 2,
    matching: str = "heavy_edge",
    transfer: Family = "average",
    keep: float = 0.5,
    min_width: int = 8,
    leave_out: Collection[str] = (),
    generator: torch.Generator | None = None,
) -> MultilevelNetwork:
    """Coarsen a network along its widths; each coarser level holds the restriction of the finer one.

    Args:
        model: the finest level; its parameters are used as they are, not copied.
        example_input: a batch as the model is called with, or a sequence of positional arguments; its size enters
            `costs`.
        levels: how many, the model included.
        factor: units per aggregate between neighbouring levels: 2, 4, 8, …
        matching: `heavy_edge`, `random` or `identity`; see `matching.py`.
        transfer: `average` or `weighted`; see `Aggregates`.
        keep: share of the fine weights' own detail kept by prolongation; see `MultilevelNetwork.prolongate`.
        min_width: a group is not coarsened to fewer units than this.
        leave_out: paths of modules that keep their size.
        generator: of `random` matching; by default torch's.

    Raises:
        ConfigError: an option is out of range, something in the network cannot be coarsened (named with the reason),
            or it is too narrow for so many levels.

    Source: Ponce et al. (2023), *Multilevel-in-Width Training for Deep Neural Network Regression*.
    """
    _check_options(levels, factor, matching, transfer, min_width)
    keep = _checked_keep(keep)
    coupling = trace_coupling(model, example_input, leave_out=leave_out)
    if transfer == "weighted" and (
        places := [place for group in coupling.free.values() for place in group.inhomogeneous]
    ):
        warnings.warn(
            "transfer='weighted' keeps the function only through positively homogeneous operations; these are not: "
            f"{', '.join(dict.fromkeys(places))}; transfer='average' keeps it through all",
            stacklevel=2,
        )
    networks, transfers = [model], []
    widths = {number: group.width for number, group in coupling.free.items()}
    for level in range(1, levels):
        fine = networks[-1]
        narrower = {
            number: size
            for number, width in widths.items()
            if min_width <= (size := coarse_width(width, factor, coupling.groups[number].blocks)) < width
        }
        if not narrower:
            raise ConfigError(
                f"levels={levels}: no width of level {level - 1} ({', '.join(map(str, widths.values()))}) can be "
                f"divided by factor={factor} without falling below min_width={min_width}; "
                f"ask for levels={level} or a lower min_width"
            )
        parents = _matched(coupling, fine, narrower, factor, matching, generator)
        transfers.append(_transfer(coupling, fine, parents, transfer))
        widths |= narrower
        networks.append(narrowed(model, coupling, widths))
        transfers[-1].restrict_network(fine, networks[-1])
    flops = [count_flops(network, example_input, level) for level, network in enumerate(networks)]
    return MultilevelNetwork(
        networks,
        transfers,
        [count / flops[0] for count in flops],
        factor=factor,
        matching=matching,
        transfer=transfer,
        keep=keep,
        generator=generator,
    )


def _check_options(levels: int, factor: int, matching: str, transfer: str, min_width: int) -> None:
    problems = []
    if levels < 2:
        problems.append(f"levels={levels}: a hierarchy needs at least 2 levels; train the network itself for one")
    if factor < 2 or factor & (factor - 1):
        problems.append(f"factor={factor}: must be 2, 4, 8, … (units are paired, and pairs paired again)")
    if matching not in MATCHINGS:
        problems.append(f"matching='{matching}' is unknown{did_you_mean(matching, MATCHINGS)}")
    if transfer not in FAMILIES:
        problems.append(f"transfer='{transfer}' is unknown{did_you_mean(transfer, FAMILIES)}")
    if min_width < 1:
        problems.append(f"min_width={min_width}: must be at least 1")
    if problems:
        raise ConfigError(problems)


def _checked_keep(keep: float) -> float:
    if not 0 <= keep <= 1:
        raise ConfigError(f"keep={keep}: must be between 0 (only the coarse network) and 1 (all of the fine detail)")
    return float(keep)


def _matched(
    coupling: Coupling,
    fine: nn.Module,
    groups: Iterable[int],
    factor: int,
    matching: str,
    generator: torch.Generator | None,
) -> dict[int, Tensor]:
    """The coarse unit of each unit, for each of the groups."""
    tensors = dict(fine.named_parameters())
    return {
        group: match_blocks(
            unit_features(coupling, group, tensors),
            factor,
            MATCHINGS[matching],
            coupling.groups[group].blocks,
            generator,
        )
        for group in groups
    }


def _transfer(coupling: Coupling, fine: nn.Module, parents: Mapping[int, Tensor], family: Family) -> WidthTransfer:
    """The operators below a level, with weights of this family from the level's parameters."""
    tensors = dict(fine.named_parameters())
    dtype = torch.promote_types(next(iter(tensors.values())).dtype, torch.float32)
    aggregates = {}
    for group, parent in parents.items():
        if family == "average":
            aggregates[group] = Aggregates.average(parent, dtype)
        else:
            norm = unit_features(coupling, group, tensors).to(dtype).norm(dim=1)
            aggregates[group] = Aggregates.weighted(parent.to(norm.device), norm)
    return WidthTransfer(coupling, aggregates)


def _differences(own: Any, other: Any, where: str) -> Iterator[str]:
    """Where two states differ in keys, shapes or plain values."""
    if isinstance(own, dict) and isinstance(other, dict):
        for key in sorted(own.keys() ^ other.keys()):
            yield f"{where}{key}: only in the {'hierarchy' if key in own else 'saved state'}"
        for key in sorted(own.keys() & other.keys()):
            yield from _differences(own[key], other[key], f"{where}{key}.")
    elif isinstance(own, Tensor) and isinstance(other, Tensor):
        if own.shape != other.shape:
            yield f"{where[:-1]}: {list(own.shape)} here, {list(other.shape)} saved"
    elif isinstance(own, dict | Tensor) or isinstance(other, dict | Tensor):
        yield f"{where[:-1]}: {type(own).__name__} here, {type(other).__name__} saved"
    elif own != other:
        yield f"{where[:-1]}: {own!r} here, {other!r} saved"
