"""What a network begins with in place of its initialisation: a trained one's weights, statistics and sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from accelerator.acceleration.surgery import Sizes, resized
from accelerator.errors import CheckpointError, ConfigError
from accelerator.runtime.trained import checkpoint_of, load_finest, network_weights

_SHOWN = 5  # places that do not fit, of all that are named


@dataclass(frozen=True)
class Start:
    """How a run's network begins.

    Attributes:
        sizes: of a network that was pruned; None: as its class builds it.
        transforms: their statistics; None: those of the training split.
        weights: of the network, by name; None: its initialisation, or what is resumed from.
        facts: of the data it was trained on, which its class was offered.
        path: the checkpoint all this is from.
        step: optimizer steps it had done.
    """

    sizes: Sizes | None = None
    transforms: Mapping[str, Tensor] | None = None
    weights: Mapping[str, Tensor] | None = None
    facts: Mapping[str, Any] | None = None
    path: Path | None = None
    step: int = 0

    def network(self, built: nn.Module) -> nn.Module:
        """The network to go on with.

        Args:
            built: by its class, from the config.

        Raises:
            CheckpointError: what was trained does not fit it; the places are named.
        """
        if self.sizes is not None:
            try:
                built = resized(built, self.sizes)
            except ConfigError as error:
                raise CheckpointError(self._told(error.problems)) from error
        if self.weights is not None:
            own = built.state_dict()
            if problems := [*_differences(self.weights, own)]:
                raise CheckpointError(self._told(problems))
            built.load_state_dict(dict(self.weights))
        return built

    def _told(self, problems: list[str]) -> str:
        rest = len(problems) - _SHOWN
        shown = [*problems[:_SHOWN], *([f"and {rest} more"] if rest > 0 else [])]
        return (
            f"{self.path or 'the checkpoint'} holds another network than this config describes: {'; '.join(shown)}; "
            "give it the model=… and data=… it was trained with"
        )


def start_of(source: Path) -> Start:
    """What a new run takes over from a trained network.

    Args:
        source: a run directory (the best checkpoint is taken, the newest if none was rated), or a checkpoint file.

    Raises:
        CheckpointError: there is none, it is damaged, or was saved while a coarse level was trained.
    """
    path = checkpoint_of(source)
    saved, meta = load_finest(path)
    return Start(
        sizes=saved.get("sizes"),
        transforms=saved["transforms"],
        weights=network_weights(saved),
        facts=saved["facts"],
        path=path,
        step=meta.step,
    )


def start_again(saved: Mapping[str, Any], path: Path | None = None) -> Start:
    """What a run that resumes is built with; its weights are part of the state it takes back."""
    return Start(sizes=saved.get("sizes"), transforms=saved["transforms"], path=path)


def _differences(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> list[str]:
    found = []
    for name in sorted(theirs.keys() | ours.keys()):
        if name not in ours:
            found.append(f"'{name}' is in the checkpoint alone")
        elif name not in theirs:
            found.append(f"'{name}' is not in the checkpoint")
        elif theirs[name].shape != ours[name].shape:
            found.append(f"'{name}' is {list(theirs[name].shape)} there and {list(ours[name].shape)} here")
    return found
