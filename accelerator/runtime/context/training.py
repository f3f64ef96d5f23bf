"""Where a run stands: the counters every checkpoint holds."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class TrainingState:
    """Counters of one run.

    Attributes:
        step: optimizer steps done, on all levels.
        epoch: whole passes over the training split done.
        batch: batches done in the pass at hand.
        stage: index of the stage at hand.
        stage_step: steps done in that stage.
        extra: steps it has beyond its plan, from what earlier stages spared (fewer, if they overspent or it ended
            early itself); None until it is begun.
        spared: work units that stages which ended early left for later ones; less what the guard cost beyond its plan.
        validated: the step the network was last measured at on the validation split.
        work: work units done; one is a step of the full network.
        skipped: steps that were left out because half precision overflowed; the learning rate waits for them.
        metrics: the last value of each metric of validation or test.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    stage: int = 0
    stage_step: int = 0
    extra: int | None = None
    spared: float = 0.0
    validated: int = -1
    work: float = 0.0
    skipped: int = 0
    metrics: dict[str, float] = field(default_factory=dict)

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        for name, value in state.items():
            setattr(self, name, value)
