"""A network and its coarser copies, with restriction and prolongation between neighbours."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from accelerator.errors import CheckpointError, ConfigError
from accelerator.multilevel.aggregates import Aggregates, Family
from accelerator.multilevel.coarsening import Coarsening, Factor, Keep, checked_keep
from accelerator.multilevel.coupling import Coupling, Example
from accelerator.multilevel.hop import Hop
from accelerator.multilevel.matching import Matching
from accelerator.multilevel.narrowing import count_flops
from accelerator.multilevel.resampling import GridSampling
from accelerator.multilevel.rules.declared import declares
from accelerator.multilevel.transfer import State, Transfer, UnitTransfer, state_of, write_state


class MultilevelNetwork:
    """The levels of a network and the transfers between them.

    `create_network_hierarchy` makes one from a network. By hand, from networks and transfers of your own:

    >>> fine, coarse = torch.nn.Linear(8, 8), torch.nn.Linear(4, 4)
    >>> class Corner:
    ...     def restrict(self, state, *, squared=False):
    ...         return {name: t[:4, :4] if t.dim() == 2 else t[:4] for name, t in state.items()}
    ...     prolong_transposed = restrict
    ...     def prolong(self, state, *, squared=False):
    ...         return {name: torch.nn.functional.pad(t, (0, 4) * t.dim()) for name, t in state.items()}
    ...     restrict_transposed = prolong
    >>> network = MultilevelNetwork([fine, coarse], [Corner()], costs=[1.0, 0.25])

    Args:
        levels: the networks, finest first.
        transfers: between neighbours: `transfers[l]` leads between the levels l and l + 1.
        costs: FLOPs of a forward and backward pass relative to level 0, for each level.
        keep: share of the fine detail kept by prolongation; see `prolongate`.
        sampling: what each level sees of a batch; None: all of it.
        coarsening: how it was made, needed to aggregate anew.

    Attributes:
        levels: the networks, finest first; `levels[0]` is the model itself.
        hops: `hops[l]` leads between the levels l and l + 1.
        costs: as given.
        parameters: the number of parameters of each level.

    Raises:
        ConfigError: levels, transfers and costs do not fit together.
    """

    def __init__(
        self,
        levels: Sequence[nn.Module],
        transfers: Sequence[Transfer | Hop],
        costs: Sequence[float],
        *,
        keep: float = 0.0,
        sampling: GridSampling | None = None,
        coarsening: Coarsening | None = None,
    ) -> None:
        if len(levels) < 2 or len(transfers) != len(levels) - 1 or len(costs) != len(levels):
            raise ConfigError(
                f"a hierarchy of n levels (at least 2) has n - 1 transfers and n costs; got {len(levels)} levels, "
                f"{len(transfers)} transfers, {len(costs)} costs"
            )
        share = checked_keep(keep)["width"]
        self.levels = list(levels)
        self.hops = [
            transfer if isinstance(transfer, Hop) else Hop({"own": transfer}, {"own": share}) for transfer in transfers
        ]
        self.costs = tuple(float(cost) for cost in costs)
        self.parameters = tuple(sum(p.numel() for p in level.parameters()) for level in self.levels)
        self.sampling = sampling
        self.coarsening = coarsening
        if coarsening is None:
            for level in range(len(self.hops)):
                self.restrict(level)

    def __len__(self) -> int:
        return len(self.levels)

    def __repr__(self) -> str:
        options = self.coarsening
        made = (
            ""
            if options is None
            else (
                f" (axes={', '.join(options.axes)}; matching={options.matching}, transfer={options.transfer}, "
                f"keep={options.keep})"
            )
        )
        rows = [f"{type(self).__name__} of {type(self.levels[0]).__name__}{made}"]
        for level, (cost, parameters) in enumerate(zip(self.costs, self.parameters, strict=True)):
            grid = "" if self.sampling is None else f"grid {'×'.join(map(str, self.sampling.grids[level]))}, "
            rows.append(
                f"  level {level}: {grid}widths {self.widths(level)}, {parameters:,} parameters, {cost:.3g} of the work"
            )
        if self.coupling is not None:
            kept = (group for group in self.coupling.groups.values() if group.kept)
            rows += [f"  kept: {', '.join(group.layers)} ({group.width}): {group.kept}" for group in kept]
        return "\n".join(rows)

    @property
    def coupling(self) -> Coupling | None:
        """Which dimensions belong together on the finest level (as deep as the next); None along other axes."""
        found = [transfer for transfer in self.hops[0].transfers.values() if isinstance(transfer, UnitTransfer)]
        return found[0].coupling if found else None

    def widths(self, level: int) -> list[int]:
        """The size of each group of units or modes that can be coarsened, on one level."""
        self._check(level, len(self.levels), "widths")
        hop = self.hops[min(level, len(self.hops) - 1)]
        found: dict[int, int] = {}
        for transfer in hop.transfers.values():
            if isinstance(transfer, UnitTransfer):
                found |= {n: g.width for n, g in transfer.coupling.free.items() if n not in found}
                if level == len(self.hops):
                    found |= {number: aggregates.coarse for number, aggregates in transfer.aggregates.items()}
        return list(found.values())

    def level_batch(self, level: int, inputs: Any, targets: Any) -> tuple[Any, Any]:
        """What a level sees of a batch: resampled to its grid along the resolution axis, else as it is."""
        return (inputs, targets) if self.sampling is None else self.sampling.level_batch(level, inputs, targets)

    def restrict(self, level: int, *, rematch: bool = False) -> None:
        """Write level + 1 from `level`: N_c = 𝓡N, with weights taken from N.

        Args:
            level: the finer of the two.
            rematch: also choose anew which units are aggregated.

        Raises:
            ConfigError: there is no coarser level.
        """
        self._check(level, len(self.hops), "restrict")
        if self.coarsening is not None:
            self.hops[level] = self.coarsening.refreshed(self.levels[level], self.hops[level], rematch=rematch)
        write_state(self.levels[level + 1], self.hops[level].restrict(state_of(self.levels[level])))

    def prolongate(self, level: int, *, keep: Keep | None = None, share: float = 1.0) -> None:
        """Write `level` from level + 1: N = (1 − α) N₀ + α [𝒫N_c + keep·(N₀ − 𝒫𝓡N₀)], with N₀ the weights that `level`
        holds since restriction, and α the `share`.

        With keep = 0 the fine network is the coarse one's function, but twins (the units of an aggregate) are alike and
        would stay alike under training; keep > 0 gives them back the share of N₀ that the coarse level cannot hold.
        With keep = 1 this is the correction N₀ + α𝒫(N_c − 𝓡N₀); with keep = 0 the interpolation of Zou et al. (2024).

        Args:
            level: the finer of the two.
            keep: in [0, 1], for all axes or by axis; by default the hierarchy's.
            share: of the coarse level's result that is taken over, in (0, 1].

        Raises:
            ConfigError: there is no coarser level, or a number is out of range.
        """
        self._check(level, len(self.hops), "prolongate")
        if not 0 < share <= 1:
            raise ConfigError(f"share={share}: must be above 0 and at most 1 (all of the coarse level's result)")
        hop, before = self.hops[level], state_of(self.levels[level])
        shares = None
        if keep is not None:
            shares = checked_keep(keep)
            shares["own"] = shares["width"]
        with torch.no_grad():
            state = hop.prolongate(before, state_of(self.levels[level + 1]), shares)
            if share < 1:
                state = {
                    name: before[name].lerp(tensor, share) if tensor.is_floating_point() else tensor
                    for name, tensor in state.items()
                }
            write_state(self.levels[level], self._with_noise(hop, state))

    def correction(self, level: int, start: State) -> dict[str, Tensor]:
        """𝒫(N_c − start) for every parameter of `level`: what training on level + 1 since `start` means for it.

        Raises:
            ConfigError: there is no coarser level.
        """
        self._check(level, len(self.hops), "correction")
        change = {name: p.detach() - start[name] for name, p in self.levels[level + 1].named_parameters()}
        return self.hops[level].prolong(change)

    def state_dict(self) -> dict[str, Any]:
        """All levels' weights, the aggregates and the generator, as nested dicts of tensors, numbers and strings."""
        state: dict[str, Any] = {
            "levels": {str(index): dict(level.state_dict()) for index, level in enumerate(self.levels)},
            "aggregates": {
                str(index): {
                    axis: {
                        str(group): {"parent": found.parent, "p": found.p, "r": found.r}
                        for group, found in transfer.aggregates.items()
                    }
                    for axis, transfer in hop.transfers.items()
                    if isinstance(transfer, UnitTransfer)
                }
                for index, hop in enumerate(self.hops)
            },
        }
        if self.coarsening is not None:
            state["transfer"] = self.coarsening.transfer
            if self.coarsening.generator is not None:
                state["generator"] = self.coarsening.generator.get_state()
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
        for index, hop in enumerate(self.hops):
            for axis, saved in state["aggregates"][str(index)].items():
                transfer = hop.transfers[axis]
                assert isinstance(transfer, UnitTransfer)
                aggregates = {
                    group: Aggregates(
                        *(saved[str(group)][key].to(found.p.device, copy=True) for key in ("parent", "p", "r"))
                    )
                    for group, found in transfer.aggregates.items()
                }
                hop.transfers[axis] = UnitTransfer(transfer.coupling, aggregates)
        if self.coarsening is not None and self.coarsening.generator is not None:
            self.coarsening.generator.set_state(state["generator"])

    def _with_noise(self, hop: Hop, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Noise on the weights that came from another width, so that copies of a unit do not stay alike."""
        width = hop.transfers.get("width")
        if self.coarsening is None or not self.coarsening.noise_share or not isinstance(width, UnitTransfer):
            return state
        generator, share = self.coarsening.generator, self.coarsening.noise_share
        for name, slots in width.slots.items():
            if any(slot.role == "row" for slot in slots) and name in state and state[name].numel() > 1:
                tensor = state[name]
                device = tensor.device if generator is None else generator.device
                noise = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype, device=device)
                state[name] = tensor.add(noise.to(tensor.device), alpha=share * float(tensor.std()))
        return state

    def _check(self, level: int, end: int, what: str) -> None:
        if not 0 <= level < end:
            raise ConfigError(f"{what}({level}): this hierarchy of {len(self)} levels takes 0 to {end - 1} here")


def create_network_hierarchy(
    model: nn.Module,
    example_input: Example,
    *,
    levels: int = 3,
    axes: Sequence[str] = ("width",),
    factor: Factor | Mapping[str, Factor] = 2,
    sizes: Mapping[str, Sequence[Any]] | None = None,
    matching: str | Matching = "heavy_edge",
    transfer: Family = "average",
    keep: Keep = 0.5,
    noise: float | None = None,
    min_width: int = 8,
    leave_out: Collection[str] = (),
    sampling: Any = "area",
    generator: torch.Generator | None = None,
) -> MultilevelNetwork:
    """Coarsen a network; each coarser level holds the restriction of the finer one.

    Args:
        model: the finest level; its parameters are used as they are, not copied.
        example_input: a batch as the model is called with, or a sequence of positional arguments; its size enters
            `costs`.
        levels: how many, the model included.
        axes: what is coarsened, alone or together: `width` (units, channels, attention heads), `modes` (of layers that
            declare Fourier modes), `resolution` (the grid of the data), `depth` (stacks of equal residual blocks).
        factor: by how much between neighbouring levels, above 1: one number, one for each coarser level, or either by
            axis.
        sizes: instead of a factor, the sizes on the coarser levels by layer (its path) or axis (`modes`,
            `resolution`, `depth`): `{"layers.0": [512, 100], "modes": [8, 4]}`.
        matching: which units are aggregated: a name in `MATCHINGS` or a function; see `matching.py`.
        transfer: `average` (keeps the function for any activation), `weighted` (for ReLU), `inject` (copy and pad) or
            `net2wider` (as `average`, with noise); see `Aggregates`.
        keep: share of the fine weights' own detail kept by prolongation, along width and depth, or by axis; see
            `MultilevelNetwork.prolongate`. New modes start at zero unless told otherwise.
        noise: standard deviation of the noise added to prolonged weights, as a share of each tensor's own; by default
            .01 for `net2wider`, else 0.
        min_width: a width is not coarsened to fewer units than this.
        leave_out: paths of modules that keep their size.
        sampling: of the data on coarser grids: `area` (means over cells) or `spectral` (periodic fields).
        generator: of all randomness; by default torch's.

    Raises:
        ConfigError: an option is out of range, something in the network cannot be coarsened (named with the reason),
            or it is too small for so many levels.

    Source: width: Ponce et al. (2023), *Multilevel-in-Width Training for Deep Neural Network Regression*; depth: Zou et
    al. (2024), *A Multi-Level Framework for Accelerating Training Transformer Models*; noise: Chen, Goodfellow & Shlens
    (2016), *Net2Net*.
    """
    coarsening = Coarsening(
        levels=levels,
        axes=tuple(axes),
        factor=factor,
        sizes=dict(sizes or {}),
        matching=matching,
        transfer=transfer,
        keep=keep,
        noise=noise,
        min_width=min_width,
        leave_out=tuple(leave_out),
        sampling=sampling,
        generator=generator,
    )
    sampled = coarsening.grid_sampling(example_input)
    networks, hops = [model], []
    for level in range(levels - 1):
        hop, coarse = coarsening.coarser(networks[-1], level, example_input)
        networks.append(coarse)
        hops.append(hop)
    flops = []
    for level, network in enumerate(networks):
        seen = example_input if sampled is None else sampled.resample(level, example_input)
        with _modes_within_nyquist(network, level):
            flops.append(count_flops(network, seen, level))
    costs = [count / flops[0] for count in flops]
    return MultilevelNetwork(networks, hops, costs, sampling=sampled, coarsening=coarsening)


@contextmanager
def _modes_within_nyquist(network: nn.Module, level: int) -> Iterator[None]:
    """Refuse a coarse grid that cannot carry the frequencies a layer declares (`rules/declared.py`), as the network is
    run on it."""
    problems: dict[str, None] = {}

    def check(path: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(module: Any, inputs: tuple[Any, ...]) -> None:
            modes, cells = tuple(module.modes), tuple(inputs[0].shape[2:])
            if any(2 * kept > n for kept, n in zip(modes, cells, strict=False)):
                problems[
                    f"level {level}: '{path}' keeps {'×'.join(map(str, modes))} modes on a grid of "
                    f"{'×'.join(map(str, cells))} cells, which carries half as many as it has cells (Nyquist): coarsen "
                    "the modes with the grid (axes: modes and resolution, or sizes.modes), or ask for fewer levels"
                ] = None

        return hook

    handles = [
        module.register_forward_pre_hook(check(path))
        for path, module in network.named_modules()
        if level > 0 and declares(module) and hasattr(module, "modes")
    ]
    try:
        yield
    except ConfigError:
        if not problems:  # else the network failed for this reason
            raise
    finally:
        for handle in handles:
            handle.remove()
    if problems:
        raise ConfigError(problems)


def create_fno_hierarchy(
    model: nn.Module,
    example_input: Example,
    *,
    levels: int = 3,
    axes: Sequence[str] = ("modes", "resolution"),
    **options: Any,
) -> MultilevelNetwork:
    """`create_network_hierarchy` for Fourier neural operators: fewer modes on coarser grids.

    New modes start at zero, so prolongation leaves the outputs unchanged.

    Args:
        model: an operator whose spectral layers declare their modes (`tensor_dimensions`), in 1, 2 or 3 dimensions.
        example_input: a batch of fields, (B, C, n[, m[, l]]).
        levels: how many, the model included.
        axes: as of `create_network_hierarchy`.
        options: its others.

    Raises:
        ConfigError: as `create_network_hierarchy`; a coarse grid that cannot carry its modes (Nyquist) is named.
    """
    return create_network_hierarchy(model, example_input, levels=levels, axes=axes, **options)


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
