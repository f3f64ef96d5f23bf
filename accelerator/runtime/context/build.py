"""A context is built in one fixed order.

seed → data → model (and what it begins with) → hierarchy → engine.prepare and shard → optimizer → scheduler; then the
state to resume is loaded.
"""

from __future__ import annotations

import dis
import inspect
import random
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from accelerator.errors import ConfigError, did_you_mean
from accelerator.multilevel.schedule import steps_of
from accelerator.runtime.callbacks.base import Callback
from accelerator.runtime.callbacks.early_stopping import EarlyStopping
from accelerator.runtime.callbacks.manager import CallbackManager
from accelerator.runtime.checkpoint.checkpoint_handler import CheckpointHandler
from accelerator.runtime.checkpoint.naming import check_filename
from accelerator.runtime.context.component import build, find, present
from accelerator.runtime.context.context import Context, StagePlan, move
from accelerator.runtime.context.cycle import Cycle
from accelerator.runtime.context.scheduler import WorkScheduler
from accelerator.runtime.data.feed import PAIRING, RANK, Batch, mix
from accelerator.runtime.data.pipeline import Data, Transforms, build_data, build_transforms
from accelerator.runtime.engine.base import Engine, Objective
from accelerator.runtime.metrics import Metric, build_metrics
from accelerator.runtime.run_directory import CHECKPOINTS
from accelerator.runtime.start import Start
from accelerator.utilities import distributed
from accelerator.utilities.seed import rng_state, seed_everything, set_rng_state

MISFITS = (RuntimeError, ValueError, TypeError, IndexError)  # what code raises that is given other shapes or types


def build_context(
    config: Mapping[str, Any],
    run_dir: Path | None,
    *,
    callbacks: Mapping[str, Callback] | None = None,
    fingerprint: str = "",
    commit: str | None = None,
    start: Start = Start(),  # noqa: B008 - it is frozen
    training: bool = True,
) -> Context:
    """Build every component of a run.

    Args:
        config: resolved, plain values; checked by `check_config`.
        run_dir: the run's folder; None for a dry run, which writes nothing.
        callbacks: more of them, beside the config's.
        fingerprint: of the config, for checkpoints.
        commit: of the user's git repository, for checkpoints.
        start: what the network begins with.
        training: otherwise what was trained is only measured: on data that need not be of the same facts, and that is
            never augmented.

    Raises:
        CheckpointError: what the network is to begin with does not fit it.
        ConfigError: a component refused its arguments, or model, loss and data do not fit together.
        DataError: the data cannot be used.
    """
    imports, trainer = tuple(config["imports"]), config["trainer"]
    seed = config["seed"]
    limit = config["memory"]["limit_gb"]
    engine: Engine = build("engine", config["engine"], "engine", imports=imports, memory_limit_gb=limit)
    seed_everything(seed)

    transforms = build_transforms(config["transform"], imports)
    source = build("data", config["data"], "data", imports=imports)
    ranks = (distributed.rank(), distributed.size())
    data = build_data(
        source,
        transforms,
        seed=seed,
        device=engine.device,
        ranks=ranks,
        statistics=start.transforms,
        training=training,
        **config["loader"],
    )
    engine.prepare(transforms)

    facts = data.facts if training or start.facts is None else dict(start.facts)
    model: nn.Module = start.network(build("model", config["model"], "model", imports=imports, **facts))
    engine.prepare(model)
    loss = build("loss", config["loss"], "loss", imports=imports)
    objective = objective_of(engine.prepare(loss) if isinstance(loss, nn.Module) else loss, transforms)
    metrics = build_metrics(config["metrics"], engine.device, imports, **facts)
    batch = next(iter(data.train.epoch(0)))
    _check_fit(model, objective, metrics, batch, data.transforms)

    budget = trainer["max_epochs"] * data.train.batches
    if trainer["max_steps"] is not None:
        budget = min(budget, trainer["max_steps"])
    with told_as("multilevel", config["multilevel"], imports):
        method = build("multilevel", config["multilevel"], "multilevel", imports=imports)
        network = method.hierarchy(model, batch[0], torch.Generator().manual_seed(mix(seed, PAIRING)))
        levels = [model] if network is None else list(network.levels)
        costs = [1.0] if network is None else list(network.costs)
        for level in levels[1:]:
            engine.prepare(level)
        plan = list(method.stages(budget, costs, data.train.batches))
        stages = [
            StagePlan(stage.level, steps, stage.cycle, stage.overhead)
            for stage, steps in zip(plan, steps_of(plan, costs), strict=True)
        ]
        fas = None if network is None else method.fas(network)
        plateau = method.plateau()
    engine.shard(levels)

    hooks = {
        name: build("callback", section, f"callbacks.{name}", imports=imports)
        for name, section in present(config["callbacks"]).items()
    } | dict(callbacks or {})
    _check_monitor("checkpoint", config["checkpoint"]["monitor"], config["checkpoint"]["mode"], metrics, data)
    check_filename(config["checkpoint"]["filename"], [f"val/{name}" for name in ("loss", *metrics)])
    for name, callback in hooks.items():
        if isinstance(callback, EarlyStopping):
            _check_monitor(f"callbacks.{name}", callback.monitor, callback.mode, metrics, data)
    context = Context(
        config=config,
        run_dir=run_dir,
        engine=engine,
        data=data,
        levels=levels,
        network=network,
        costs=costs,
        stages=stages,
        objective=objective,
        metrics=metrics,
        callbacks=CallbackManager(hooks, main=distributed.rank() == 0),
        checkpoints=None
        if run_dir is None
        else CheckpointHandler(
            run_dir / CHECKPOINTS,
            **{key: config["checkpoint"][key] for key in ("monitor", "mode", "keep", "top_k", "filename")},
            writes=distributed.rank() == 0,
        ),
        method=method,
        cycle=None if fas is None else Cycle(method, fas),
        plateau=plateau,
        level=stages[0].level,
        validate_every=trainer["validate_every"],
        fingerprint=fingerprint,
        commit=commit,
        sizes=start.sizes,
    )
    if network is not None:
        move(network, 0, stages[0].level)
    context.optimizer = context.make_optimizer(context.level)
    context.scheduler = WorkScheduler(
        config["scheduler"],
        context.optimizer,
        steps_per_epoch=data.train.batches,
        total_steps=budget,
        monitor=config["checkpoint"]["monitor"],
        imports=imports,
    )
    context.scheduler.move_to(context.optimizer, method.lr_factor(context.level))
    engine.accumulate = trainer["accumulate"]
    context.bind()
    # What was imported on the way may have drawn from it (rich does), and is imported once in a process.
    random.seed(seed)
    if distributed.rank() > 0:
        # Networks start alike on all ranks; what is drawn while they train is each rank's own.
        seed_everything(mix(seed, RANK, distributed.rank()))
    return context


@contextmanager
def told_as(section: str, values: Mapping[str, Any], imports: tuple[str, ...]) -> Iterator[None]:
    """What the pure API has to say, with the section that the user wrote it in before its keys."""
    try:
        yield
    except ConfigError as error:
        keys = inspect.signature(find(section, values, section, imports)).parameters
        key = re.compile(rf"(?:{'|'.join(keys)})\b")
        raise ConfigError(
            problem if problem.startswith(section) else section + ("." if key.match(problem) else ": ") + problem
            for problem in error.problems
        ) from error


def _check_monitor(key: str, monitor: str, mode: str, metrics: Mapping[str, Metric], data: Data) -> None:
    measured = [f"val/{name}" for name in ("loss", *metrics)]
    if "val" in data.feeds and monitor not in measured:
        raise ConfigError(
            f"{key}.monitor={monitor}: validation measures {', '.join(measured)}"
            f"{did_you_mean(monitor, measured, show=0)}"
        )
    better_up = getattr(metrics.get(monitor.removeprefix("val/")), "higher_is_better", None)
    if better_up is not None and mode != (right := "max" if better_up else "min"):
        raise ConfigError(
            f"{key}.mode={mode}, but {monitor} is better the {'higher' if better_up else 'lower'} it is: "
            f"set {key}.mode={right}"
        )


def objective_of(loss: Any, transforms: Transforms) -> Objective:
    """The loss, after the transforms that prediction and target both go through before it."""
    if not transforms.loss:
        return loss

    def transformed(prediction: Any, target: Any) -> Tensor:
        for module in transforms.loss:
            prediction, target = module(prediction), module(target)
        return loss(prediction, target)

    return transformed


@torch.no_grad()
def _check_fit(
    model: nn.Module, objective: Objective, metrics: Mapping[str, Metric], batch: Batch, transforms: Transforms
) -> None:
    """One batch through model, loss and metrics before anything is trained; no state of theirs changes."""
    inputs, targets = batch
    training, rng = model.training, rng_state()
    model.eval()
    try:
        try:
            prediction = model(inputs)
        except MISFITS as error:
            if _raised_by_the_user(error):
                raise
            raise ConfigError(
                f"the model {type(model).__name__} cannot take the data's inputs of shape {_shape(inputs)} "
                f"(batch first): {error}"
            ) from error
        if not isinstance(prediction, Tensor):
            raise ConfigError(
                f"the model {type(model).__name__} returned a {type(prediction).__name__}; expected one tensor"
            )
        where = f"the model's predictions have shape {_shape(prediction)}, the data's targets {_shape(targets)}"
        try:
            value = objective(prediction, targets)
        except MISFITS as error:
            if _raised_by_the_user(error):
                raise
            labels = "; for class labels: loss=cross_entropy" if not targets.is_floating_point() else ""
            raise ConfigError(f"the loss cannot compare them: {where} (batch first): {error}{labels}") from error
        if not isinstance(value, Tensor) or value.dim() != 0:
            raise ConfigError(f"the loss must return one number, a 0-dim tensor; got {_shape(value)} ({where})")
        original = transforms.original
        for name, metric in metrics.items():
            try:
                metric.update(original(prediction), original(targets))
            except MISFITS as error:
                if _raised_by_the_user(error):
                    raise
                raise ConfigError(
                    f"metrics.{name} cannot compare them: {where} (batch first): {error}; choose others "
                    f"(metrics=regression, classification, field, none) or remove it: metrics.{name}=null"
                ) from error
            metric.reset()
    finally:
        model.train(training)
        set_rng_state(rng)


def _raised_by_the_user(error: BaseException) -> bool:
    """Whether a ``raise`` in the user's own code made it: no word of torch's, a library's or ours about shapes."""
    trace = error.__traceback__
    assert trace is not None
    while trace.tb_next is not None:
        trace = trace.tb_next
    code, module = trace.tb_frame.f_code, str(trace.tb_frame.f_globals.get("__name__"))
    if dis.opname[code.co_code[trace.tb_lasti]] != "RAISE_VARARGS":  # what was called there, torch's kernels say
        return False
    installed = not {"site-packages", "dist-packages"}.isdisjoint(Path(code.co_filename).parts)
    return not installed and module.split(".")[0] not in ("accelerator", "domain")


def _shape(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    return type(value).__name__
