"""One look at a run's network: what it costs, what reaches what, and what can be done with it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from accelerator.analysis.coarsening import possibilities
from accelerator.analysis.gradients import follow
from accelerator.analysis.layers import count_flops, count_layers, layers_of, observed, time_layers
from accelerator.analysis.memory import Memory, bytes_of, optimizer_bytes, saved_for_backward, weights_of
from accelerator.analysis.model_report import advise, summarise, tabulate
from accelerator.analysis.receptive import receptive_field
from accelerator.analysis.report import Report
from accelerator.errors import ConfigError
from accelerator.runtime.context.build import build_context
from accelerator.runtime.context.component import build
from accelerator.runtime.context.context import Context
from accelerator.runtime.start import Start, start_of


def context_of(config: Mapping[str, Any]) -> Context:
    """Everything of a run but its training: one process, one level, no callbacks, nothing written.

    Args:
        config: resolved and checked.

    Raises:
        CheckpointError: the network that ``load`` names is not there, or does not fit the config.
        ConfigError: a component refused its arguments, or network, loss and data do not fit together.
        DataError: the data cannot be used.
    """
    start = start_of(Path(config["load"])) if config["load"] else Start()
    engine = {key: value for key, value in config["engine"].items() if key not in ("devices", "compile")}
    looked_at = {
        "engine": engine,
        "multilevel": {"name": "single"},
        "callbacks": {},
        "checkpoint": {**config["checkpoint"], "monitor": "val/loss", "mode": "min"},
    }
    return build_context({**config, **looked_at}, None, start=start)


def report_on(context: Context, config: Mapping[str, Any]) -> Report:
    """Look, and say what was found.

    Args:
        context: of `context_of`.
        config: resolved and checked; its own multilevel method is tried.
    """
    section = config["analysis"]
    model, data = context.model, context.data
    model.train()
    batch = next(iter(data.train.epoch(0)))
    piece = math.ceil(len(batch[0]) / config["trainer"]["accumulate"])
    inputs, targets = (each[:piece].clone() for each in (batch[0], batch[1]))

    def loss_of(inputs: Tensor, targets: Tensor) -> Tensor:
        with _autocast(config, context):
            prediction = model(inputs)
            return context.objective(prediction.float() if _precision(config) else prediction, targets)

    def step() -> Tensor:
        return loss_of(inputs, targets)

    def backward(each: Any) -> Tensor:
        loss = loss_of(each[0], each[1])
        if loss.requires_grad:
            loss.backward()
        return loss.detach()

    layers = layers_of(model)
    with observed(layers) as calls:
        step()
    with _autocast(config, context):
        count_layers(calls)
        if section["rounds"]:
            time_layers(calls, section["rounds"])
    del calls
    flops = count_flops(step)
    model.zero_grad()
    flow = follow(model, islice(data.train.epoch(0), section["batches"]), backward)
    seen = receptive_field(model, inputs)
    can = possibilities(model, inputs)
    levels = _levels(context, config, batch[0])
    memory = _memory(context, (inputs, targets), step)

    name = config["model"].get("name") or config["model"]["_target_"].rpartition(".")[2]
    data_name = config["data"].get("name") or config["data"]["_target_"].rpartition(".")[2]
    report = Report(f"Model: {name} on {data_name}")
    summarise(report, context, layers, flops, memory, flow, len(batch[0]), piece)
    tabulate(report, layers, memory, can, seen, len(inputs))
    advise(report, context, config, layers, flow, seen, can, levels)
    return report


def _precision(config: Mapping[str, Any]) -> torch.dtype | None:
    return {"16": torch.float16, "bf16": torch.bfloat16}.get(str(config["engine"].get("precision", "32")))


def _autocast(config: Mapping[str, Any], context: Context) -> AbstractContextManager[Any]:
    dtype = _precision(config)
    return nullcontext() if dtype is None else torch.autocast(context.engine.device.type, dtype)


def _memory(context: Context, batch: tuple[Tensor, Tensor], step: Any) -> Memory:
    """Measured with a step of the config's optimizer, whose state is made by the first: the last thing that is done."""
    model = context.model
    weights = weights_of(model)
    memory = Memory(
        weights=bytes_of(weights),
        gradients=bytes_of(p for p in model.parameters() if p.requires_grad),
        batch=bytes_of(batch),
    )
    memory.activations = saved_for_backward(step, [*weights, *batch])
    loss = step()
    if loss.requires_grad:
        loss.backward()
        context.optimizer.step()
        memory.optimizer = optimizer_bytes(context.optimizer)
    return memory


def _levels(
    context: Context, config: Mapping[str, Any], inputs: Tensor
) -> list[tuple[int, float]] | ConfigError | None:
    """Parameters and cost of each level of the config's own method; why it has none."""
    try:
        method = build("multilevel", config["multilevel"], "multilevel", imports=tuple(config["imports"]))
        network = method.hierarchy(context.model, inputs, torch.Generator().manual_seed(0))
    except ConfigError as error:
        return error
    return None if network is None else list(zip(network.parameters, network.costs, strict=True))
