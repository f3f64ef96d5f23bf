"""All there is between two neighbouring levels."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from accelerator.multilevel.transfer import State, Transfer, UnitTransfer


class Hop:
    """All there is between two neighbouring levels: one transfer after another, each along one axis.

    Args:
        transfers: by axis, in the order of restriction.
        keep: share of each axis's detail kept by prolongation; see `prolongate`.
    """

    def __init__(self, transfers: Mapping[str, Transfer], keep: Mapping[str, float]) -> None:
        self.transfers = dict(transfers)
        self.keep = dict(keep)

    def restrict(self, state: State, *, squared: bool = False) -> dict[str, Tensor]:
        """𝓡: from the fine level to the coarse one."""
        for transfer in self.transfers.values():
            state = transfer.restrict(state, squared=squared)
        return dict(state)

    def prolong(self, state: State, *, squared: bool = False) -> dict[str, Tensor]:
        """𝒫: from the coarse level to the fine one."""
        for transfer in reversed(self.transfers.values()):
            state = transfer.prolong(state, squared=squared)
        return dict(state)

    def prolong_transposed(self, state: State, *, squared: bool = False) -> dict[str, Tensor]:
        """𝒫ᵀ: a gradient, from the fine level to the coarse one."""
        for transfer in self.transfers.values():
            state = transfer.prolong_transposed(state, squared=squared)
        return dict(state)

    def restrict_transposed(self, state: State, *, squared: bool = False) -> dict[str, Tensor]:
        """𝓡ᵀ: a gradient, from the coarse level to the fine one."""
        for transfer in reversed(self.transfers.values()):
            state = transfer.restrict_transposed(state, squared=squared)
        return dict(state)

    def leaves_new(self, *, down: bool) -> bool:
        """Whether some entries of the level gone to have no counterpart on the level left.

        Args:
            down: towards the coarse level, where all have one.
        """
        unit = (transfer for transfer in self.transfers.values() if isinstance(transfer, UnitTransfer))
        padded = any(bool((found.r == 0).any()) for transfer in unit for found in transfer.aggregates.values())
        return not down and (padded or "own" in self.transfers)

    def counterpart(self, name: str, *, down: bool) -> str:
        """The tensor of the level left that one of the level gone to takes its step count from.

        Args:
            name: on the level gone to.
            down: towards the coarse level.
        """
        transfers = self.transfers.values()
        for transfer in reversed(transfers) if down else transfers:
            find = getattr(transfer, "counterpart", None)
            name = name if find is None else find(name, down=down)
        return name

    def prolongate(self, fine: State, coarse: State, keep: Mapping[str, float] | None = None) -> dict[str, Tensor]:
        """𝒫N_c + keep·(N₀ − 𝒫𝓡N₀), axis by axis.

        Along each axis the detail is what the restriction along this axis loses of N₀ (restricted along those before).

        Args:
            fine: N₀.
            coarse: N_c.
            keep: by axis; by default this hop's own.
        """
        keep = self.keep if keep is None else keep
        path = [fine]
        wanted = [axis for axis in self.transfers if keep.get(axis, 0.0) != 0]
        for axis, transfer in self.transfers.items() if wanted else ():
            path.append(transfer.restrict(path[-1]))
            if axis == wanted[-1]:
                break
        state = coarse
        for place, (axis, transfer) in reversed(list(enumerate(self.transfers.items()))):
            share = keep.get(axis, 0.0)
            if share == 0:
                state = transfer.prolong(state)
            elif isinstance(transfer, UnitTransfer):
                state = transfer.prolong_onto(path[place], path[place + 1], state, share)
            else:
                state = _prolong_onto(transfer, path[place], path[place + 1], state, share)
        return dict(state)


def _prolong_onto(transfer: Transfer, fine: State, restricted: State, coarse: State, keep: float) -> dict[str, Tensor]:
    """What `UnitTransfer.prolong_onto` does, for any transfer; a variance is known by BatchNorm's name for it."""
    held = transfer.prolong(restricted)
    result = {}
    for name, tensor in transfer.prolong(coarse).items():
        if not tensor.is_floating_point():
            result[name] = tensor
        elif name.endswith("running_var"):
            ratio = torch.where(held[name] > 0, fine[name] / held[name], torch.ones_like(tensor))
            result[name] = tensor * ratio**keep
        else:
            result[name] = tensor + keep * (fine[name] - held[name])
    return result
