"""The context of a run: its facts, its components, and where it stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from signal import Signals
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.optim import Optimizer

from accelerator.errors import CheckpointError, ConfigError
from accelerator.multilevel.hierarchy import MultilevelNetwork
from accelerator.multilevel.method import Single
from accelerator.multilevel.optimizer_state import carry_optimizer_state, go_on_starting
from accelerator.multilevel.schedule import Plateau
from accelerator.runtime.callbacks.manager import CallbackManager
from accelerator.runtime.checkpoint.checkpoint_handler import CheckpointHandler
from accelerator.runtime.context.component import build
from accelerator.runtime.context.cycle import Cycle
from accelerator.runtime.context.scheduler import WorkScheduler
from accelerator.runtime.context.training import TrainingState
from accelerator.runtime.data.feed import RANK, Share, mix
from accelerator.runtime.data.pipeline import Data
from accelerator.runtime.engine.base import Clip, Engine, Objective
from accelerator.runtime.journal import Journal
from accelerator.runtime.metrics import Metric
from accelerator.utilities import distributed
from accelerator.utilities.seed import rng_state, seed_everything, set_rng_state


class StagePlan(NamedTuple):
    """A stage of the schedule: this many steps on this level, entered as part of a cycle or not, at this cost."""

    level: int
    steps: int
    cycle: bool = False
    overhead: float = 0.0


@dataclass
class Context:
    """One run's facts and components; what every hook and loop is given.

    Attributes:
        config: the resolved config, plain values.
        run_dir: the run's own folder; None while nothing may be written.
        levels: the networks, fine to coarse; the first is the user's model.
        network: the hierarchy they belong to; None when there is one level.
        costs: of a step on each level, in work units.
        method: how it is trained; the config's section ``multilevel``.
        cycle: where the run stands in a multigrid cycle; None if its method has none.
        plateau: what ends a coarse level before its budget is spent; None if nothing does.
        level: the level being trained.
        metrics: measured at validation and test.
        fingerprint: of the config, for checkpoints.
        commit: of the user's git repository.
        loss: of the last batch, 0-dim.
        batch: the last batch.
        asked: why this process was asked to stop: the name of a signal, or another reason.
        stop: the same, once all ranks know: the run ends after this step.
        sizes: of a network that was pruned, against what its class builds; None: as the config says.
        average: the weights to be used in place of the full network's own, by name; a callback that averages sets it.
        finish_now: end it after this step already, validated and saved; all ranks know.
        finish_early: set by a callback to end the training after the validation at hand.
        journal: where metrics go; opened once everything is built.
        error: the exception that ended it.
        run_id: of the record in MLflow, once it is known.
    """

    config: Mapping[str, Any]
    run_dir: Path | None
    engine: Engine
    data: Data
    levels: list[nn.Module]
    network: MultilevelNetwork | None
    costs: list[float]
    stages: list[StagePlan]
    objective: Objective
    metrics: dict[str, Metric]
    callbacks: CallbackManager
    checkpoints: CheckpointHandler | None
    method: Single = field(default_factory=Single)
    cycle: Cycle | None = None
    plateau: Plateau | None = None
    optimizer: Optimizer = field(init=False)
    scheduler: WorkScheduler = field(init=False)
    state: TrainingState = field(default_factory=TrainingState)
    journal: Journal | None = None
    level: int = 0
    validate_every: int = 1
    fingerprint: str = ""
    commit: str | None = None
    batch: Any = None
    loss: Tensor | None = None
    asked: str | None = None
    stop: str | None = None
    sizes: Mapping[str, Any] | None = None
    average: dict[str, Tensor] | None = None
    finish_early: bool = False
    finish_now: bool = False
    error: BaseException | None = None
    run_id: str | None = None

    @property
    def main(self) -> bool:
        """Whether this is rank 0, which alone writes files and talks."""
        return distributed.rank() == 0

    @property
    def model(self) -> nn.Module:
        """The network of the level being trained."""
        return self.levels[self.level]

    @property
    def cost(self) -> float:
        """Work units of one step on the level being trained."""
        return self.costs[self.level]

    @property
    def stage_steps(self) -> int:
        """The steps of the stage at hand."""
        return self.stages[self.state.stage].steps + (self.state.extra or 0)

    @property
    def in_window(self) -> bool:
        """Whether a coarse level of a cycle is trained, on the cycle's own batches."""
        return self.cycle is not None and self.cycle.top is not None

    @property
    def at_boundary(self) -> bool:
        """Whether the stage at hand is followed by another level for good, or by nothing: not by a part of a cycle."""
        following = self.stages[self.state.stage + 1 :][:1]
        here = self.stages[self.state.stage].level
        return all(not stage.cycle and stage.level != here for stage in following)

    def level_batch(self, level: int, batch: Any) -> Any:
        """What a level sees of a batch (on a coarser grid, along the resolution axis)."""
        if self.network is None or level == 0:
            return batch
        inputs, targets = self.network.level_batch(level, *batch)
        return Share(inputs, targets, batch.samples, batch.weight) if isinstance(batch, Share) else (inputs, targets)

    @property
    def imports(self) -> tuple[str, ...]:
        """The user's own modules."""
        return tuple(self.config["imports"])

    def make_optimizer(self, level: int) -> Optimizer:
        """A fresh optimizer for the network of a level."""
        parameters = [p for p in self.levels[level].parameters() if p.requires_grad]
        if not parameters:
            raise ConfigError("the model has no parameter to train")
        return build("optimizer", self.config["optimizer"], "optimizer", imports=self.imports, params=parameters)

    def bind(self) -> None:
        """Make the engine train the network of the current level."""
        trainer = self.config["trainer"]
        clip = Clip(trainer["clip_norm"], trainer["clip_value"])
        self.engine.bind(self.model, self.objective, self.optimizer, clip)
        self.model.train()

    def ask_to_stop(self, reason: str) -> None:
        """Let the run end after the step at hand; safe in a signal handler.

        Args:
            reason: the name of a signal: saved, the run is given up there. Anything else: the training is over, and
                the run ends well.
        """
        self.asked = reason
        if distributed.size() == 1:
            self._end(reason)

    def agree_to_stop(self) -> None:
        """Stop if any rank was asked to; collective."""
        reasons = [reason for reason in distributed.of_all(self.asked) if reason is not None]
        if reasons:
            self._end(min(reasons, key=lambda reason: reason not in Signals.__members__))

    def _end(self, reason: str) -> None:
        if reason in Signals.__members__:
            self.stop = reason
        else:
            self.finish_early = self.finish_now = True

    def change_level(self, stage: StagePlan) -> None:
        """Go to a stage's level: the networks' weights, the optimizer's state and the learning rates follow."""
        network, source, level = self.network, self.level, stage.level
        if self.cycle is not None:
            self.cycle.last = {}
        if level == source:
            return
        assert network is not None
        if stage.cycle:
            assert self.cycle is not None
            before = self.state.work
            (self.cycle.descend if level > source else self.cycle.ascend)(self, source)
            # A correction that the guard scaled back took more losses than planned.
            self.state.spared -= self.state.work - before - stage.overhead
            self.scheduler.catch_up(self.state.work)
            return
        optimizer = self.make_optimizer(level)
        move(network, source, level, self.method.share)
        carry_optimizer_state(self.optimizer, optimizer, network, source, level)
        if self.method.optimizer_state == "reset":
            optimizer.state.clear()
        if self.plateau is not None:
            self.plateau.start()
        self.take_optimizer(optimizer, source, level)

    def take_optimizer(self, optimizer: Optimizer, source: int, level: int) -> None:
        """Train a level with its optimizer from now on, at the learning rates the schedule has come to."""
        change = self.method.lr_factor(level) / self.method.lr_factor(source)
        for group, current in zip(optimizer.param_groups, self.optimizer.param_groups, strict=True):
            group.update({key: value for key, value in current.items() if key not in ("params", "param_names")})
        self.optimizer, self.level = optimizer, level
        self.scheduler.move_to(optimizer, change)
        self.bind()

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs to go on as if nothing had happened; collective."""
        return {
            "state": self.state.state_dict(),
            "level": self.level,
            "model": self.engine.model_state(self.levels[0]) if self.network is None else None,
            "network": None if self.network is None else self.network.state_dict(),
            "transforms": self.data.transforms.state_dict(),
            "facts": self.data.facts,
            "sizes": self.sizes,
            "optimizer": self.engine.optimizer_state(self.optimizer),
            "cycle": None if self.cycle is None else self.cycle.state_dict(),
            "plateau": None if self.plateau is None else self.plateau.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "journal": 0 if self.journal is None else self.journal.position(),
            "average": self.average,
            "callbacks": self.callbacks.state_dict(),
            "engine": self.engine.state_dict(),
            "rng": distributed.of_all(rng_state()),
        }

    def load_state_dict(self, saved: Mapping[str, Any], *, same_config: bool = True) -> None:
        """Go back to where `state_dict` was taken.

        Args:
            saved: what `state_dict` returned.
            same_config: go on to the last bit. Otherwise weights, counters and the optimizer's moments are taken, while
                its options, the learning-rate schedule and the callbacks are this config's own, and a pass that was
                begun is not gone on with.

        Raises:
            CheckpointError: the checkpoint is of another model, hierarchy, schedule or optimizer.
        """
        self.state.load_state_dict(saved["state"])
        self.load_weights(saved)
        self.average = None  # its callback sets it again, if it is still there
        if self.state.stage >= len(self.stages):
            raise CheckpointError(
                f"the checkpoint is of stage {self.state.stage + 1}, this run's schedule has {len(self.stages)}"
            )
        self.level = self.stages[self.state.stage].level
        self._check_place(saved)
        self.optimizer = self.make_optimizer(self.level)
        if same_config:
            try:
                self.engine.load_optimizer_state(self.optimizer, saved["optimizer"])
                go_on_starting(self.optimizer)
            except (KeyError, ValueError) as error:
                raise CheckpointError(f"the checkpoint does not fit this run's optimizer: {error}") from error
            self.scheduler.move_to(self.optimizer)
            self.scheduler.load_state_dict(saved["scheduler"])
            self.callbacks.load_state_dict(saved["callbacks"])
            if self.cycle is not None:
                self.cycle.load_state_dict(self, saved["cycle"])
            if self.plateau is not None:
                self.plateau.load_state_dict(saved["plateau"])
        else:
            if saved.get("cycle") is not None and saved["cycle"]["top"] is not None:
                raise CheckpointError(
                    "the checkpoint was saved inside a multigrid cycle, which only a run of the same config can go on "
                    "with; resume from one saved on the finest level, or with the config unchanged"
                )
            take_moments(self.engine, self.optimizer, saved["optimizer"])
            self.scheduler.restart(self.optimizer, self.state.work)
            self.scheduler.move_to(self.optimizer, self.method.lr_factor(self.level))
            self.state.epoch, self.state.batch = self.state.epoch + (self.state.batch > 0), 0
        self.bind()
        self.engine.load_state_dict(saved["engine"])
        if len(saved["rng"]) == distributed.size():
            set_rng_state(saved["rng"][distributed.rank()])
        else:
            # Data and its randomness are the same on any number of ranks; dropout and the like are not.
            seed_everything(mix(self.config["seed"], RANK, distributed.rank(), self.state.step))

    def _check_place(self, saved: Mapping[str, Any]) -> None:
        """Compare where the checkpoint was saved with where the schedule is at that stage."""
        begun = next(stage.level for stage in reversed(self.stages[: self.state.stage + 1]) if not stage.cycle)
        ours = (self.level, begun if self.level > begun else None)
        theirs = (saved["level"], None if saved["cycle"] is None else saved["cycle"]["top"])
        if ours != theirs:
            places = [
                f"level {level}" + ("" if top is None else f" in a cycle begun on level {top}")
                for level, top in (theirs, ours)
            ]
            raise CheckpointError(
                f"the checkpoint is of stage {self.state.stage + 1} on {places[0]}, where this run's schedule is on "
                f"{places[1]}: resume with the multilevel=… and the trainer.max_epochs or max_steps it was saved with"
            )

    def load_weights(self, saved: Mapping[str, Any], *, averaged: bool = False) -> None:
        """Take the networks' weights and the transforms' statistics from a checkpoint's state.

        Args:
            saved: what `state_dict` returned.
            averaged: put the average of the full network's weights in their place, if one was kept.
        """
        if (self.network is None) != (saved["network"] is None):
            theirs, ours = (
                ("one network", "a hierarchy") if self.network is not None else ("a hierarchy", "one network")
            )
            raise CheckpointError(
                f"the checkpoint holds {theirs}, this run trains {ours}: give it the same multilevel=…"
            )
        try:
            if self.network is None:
                self.engine.load_model_state(self.levels[0], saved["model"])
            else:
                self.network.load_state_dict(saved["network"])
            self.average = saved["average"]
            if averaged and self.average is not None:
                self.engine.load_model_state(self.levels[0], self.average)
            self.data.transforms.load_state_dict(saved["transforms"])
        except (RuntimeError, KeyError, TypeError, AttributeError, ValueError) as error:
            raise CheckpointError(f"the checkpoint does not fit this run's model: {error}") from error


def take_moments(engine: Engine, optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
    """Take an optimizer's saved state, but not its options; nothing if it was of another kind."""
    options = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    theirs = [group.keys() - {"params", "initial_lr"} for group in saved["param_groups"]]
    if [group.keys() for group in options] == theirs:
        engine.load_optimizer_state(optimizer, dict(saved))
        go_on_starting(optimizer)
        for group, option in zip(optimizer.param_groups, options, strict=True):
            group.pop("initial_lr", None)
            group.update(option)


def move(network: MultilevelNetwork, source: int, target: int, share: float = 1.0) -> None:
    """Carry the weights from one level to another, through those in between."""
    for level in range(source, target):
        network.restrict(level)
    for level in range(source - 1, target - 1, -1):
        network.prolongate(level, share=share)
